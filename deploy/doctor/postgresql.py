"""The gateway's database. Nothing is left in it: what is made is rolled back."""

from __future__ import annotations

import asyncio
import inspect
import uuid
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

import asyncpg

from deploy.doctor.checking import Check, Outcome, fail, ok, warn, why
from deploy.doctor.names import Address
from deploy.doctor.settings import variable

__all__ = ["OLDEST_VERSION", "PostgresDoctor"]

OLDEST_VERSION = 15
"""The oldest that PostgreSQL itself still repairs; Soundstage's own statements would do with 11. Tests run on 18."""
SCHEMES = ("postgresql", "postgres")
URL = f"{variable('database_url')}, or the secret of postgresql.existingSecret"
FIXES = {
    asyncpg.InvalidPasswordError: "the user or the password is another one: set {url}",
    asyncpg.InvalidAuthorizationSpecificationError: "the server's pg_hba.conf lets nobody in like this: see user, TLS",
    asyncpg.InvalidCatalogNameError: "make it: CREATE DATABASE",
    asyncpg.InsufficientPrivilegeError: "GRANT CONNECT ON DATABASE to the user",
    asyncpg.TooManyConnectionsError: "raise max_connections, or close what does not need the server",
}


@dataclass(frozen=True)
class PostgresDoctor:
    url: str
    seconds: float
    for_cluster: bool = False

    def checks(self) -> Iterator[Check]:
        yield Check("postgresql url", self.readable)
        yield Check("postgresql dns", lambda: self._address.resolve(), needs="postgresql url")
        yield Check("postgresql login", lambda: self._ask(self.login), needs="postgresql dns")
        yield Check("postgresql version", lambda: self._ask(self.version), needs="postgresql login")
        yield Check("postgresql tables", lambda: self._ask(self.tables), needs="postgresql login")
        yield Check("postgresql tls", lambda: self._ask(self.tls), needs="postgresql login")

    def readable(self) -> Outcome:
        form = "write postgresql://user:password@host:5432/database, with @ : / ? # % of a password as %40 %3A …"
        try:
            parts = urlsplit(self.url)
            said = parts.scheme in SCHEMES and parts.hostname and parts.port != 0 and parts.path.strip("/")
        except ValueError:  # its text would show a part of the password
            said = None
        if not said:
            return fail("the URL cannot be read", form)
        unknown = self._options.keys() - inspect.signature(asyncpg.connect).parameters.keys()
        if unknown:
            instead = "write ssl=require instead of sslmode=require" if "sslmode" in unknown else "take them out"
            return fail(f"the gateway's driver does not know {', '.join(sorted(unknown))}", instead)
        return ok(f"database {parts.path.strip('/')} at {parts.hostname}")

    async def login(self, connection: asyncpg.Connection[Any]) -> Outcome:
        return ok(f"in as {await connection.fetchval('SELECT current_user')}")

    async def version(self, connection: asyncpg.Connection[Any]) -> Outcome:
        version = connection.get_server_version()
        if version.major < OLDEST_VERSION:
            return fail(f"PostgreSQL {version.major}", f"use {OLDEST_VERSION} or newer")
        return ok(f"PostgreSQL {version.major}.{version.minor}")

    async def tables(self, connection: asyncpg.Connection[Any]) -> Outcome:
        schema = await connection.fetchval("SELECT current_schema()")
        if schema is None:
            return fail("no schema of the search path is there", "make one, or ALTER ROLE … SET search_path")
        name = f"soundstage_doctor_{uuid.uuid4().hex}"
        transaction = connection.transaction()
        await transaction.start()
        try:
            await connection.execute(f"CREATE TABLE {name} (id integer PRIMARY KEY)")
        except asyncpg.InsufficientPrivilegeError:
            user = await _rolled_back(transaction, connection)
            return fail(f"{user} may not make tables in {schema}", f'GRANT CREATE ON SCHEMA "{schema}" TO "{user}"')
        except asyncpg.ReadOnlySQLTransactionError:
            await _rolled_back(transaction, connection)
            return fail("the server only reads: a standby", "name the primary")
        await transaction.rollback()
        return ok(f"may be made in schema {schema}")

    async def tls(self, connection: asyncpg.Connection[Any]) -> Outcome:
        version = await connection.fetchval("SELECT version FROM pg_stat_ssl WHERE pid = pg_backend_pid() AND ssl")
        if version:
            return ok(f"encrypted ({version})")
        if self._address.is_loopback:
            return ok("not encrypted, on this machine")
        return warn("not encrypted", "add ?ssl=require to the URL, and a certificate to the server")

    def _ask(self, question: Callable[[asyncpg.Connection[Any]], Awaitable[Outcome]]) -> Outcome:
        return asyncio.run(self._answer(question))

    async def _answer(self, question: Callable[[asyncpg.Connection[Any]], Awaitable[Outcome]]) -> Outcome:
        parts = urlsplit(self.url)
        try:
            connection = await asyncpg.connect(
                host=parts.hostname,
                port=parts.port or 5432,
                user=unquote(parts.username) if parts.username else None,
                password=unquote(parts.password) if parts.password else None,
                database=unquote(parts.path.strip("/")),
                **{"timeout": self.seconds * 0.8, "command_timeout": self.seconds, **self._options},
            )
        except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
            return _refused(error, parts.hostname or "", parts.port or 5432)
        try:
            return await question(connection)
        finally:
            connection.terminate()

    @property
    def _options(self) -> dict[str, Any]:
        return dict(parse_qsl(urlsplit(self.url).query, keep_blank_values=True))

    @property
    def _address(self) -> Address:
        return Address(urlsplit(self.url).hostname or "", URL, self.for_cluster)


async def _rolled_back(transaction: Any, connection: asyncpg.Connection[Any]) -> str:  # noqa: ANN401  asyncpg's own
    await transaction.rollback()
    return str(await connection.fetchval("SELECT current_user"))


def _refused(error: Exception, host: str, port: int) -> Outcome:
    for kind, fix in FIXES.items():
        if isinstance(error, kind):
            return fail(f"refused: {error}", fix.format(url=URL))
    if isinstance(error, asyncpg.PostgresError):
        return fail(f"refused: {error}", "see the server's log")
    return fail(f"{host}:{port}: {why(error)}", "see that the server runs, and listens on this address and port")
