"""`python -m services.gateway.admin`: keys, limits and credits of tenants, for whoever may reach the database.

keys make TENANT [--label TEXT] [--days N]     prints the key, this once
keys list · keys revoke KEY_ID
tenants list · tenants set TENANT [--weight 2] [--max-queued-videos 100|default] …
credits show TENANT · credits grant TENANT AMOUNT
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import uuid
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, fields
from datetime import UTC, datetime, timedelta

from libs.errors import SoundstageError
from services.gateway.database import Database
from services.gateway.keys import ApiKeys
from services.gateway.ledger import Ledger
from services.gateway.price import MILLI
from services.gateway.settings import GatewaySettings
from services.gateway.tenants import Allowance, Tenants
from services.gateway.tokens import TENANT
from services.gateway.wiring import usual_allowance

SHOWN_ENTRIES = 20
WHOLE_NUMBERS = {"max_queued_videos", "max_running_videos"}


class Admin:
    def __init__(self, settings: GatewaySettings) -> None:
        self.database = Database(settings.database_url)
        self._tenants = Tenants(self.database, usual_allowance(settings))
        self._keys = ApiKeys(self.database, self._tenants)
        self._ledger = Ledger(settings.first_credits)

    async def run(self, given: argparse.Namespace) -> list[str]:
        """The lines to print."""
        match given.what, given.action:
            case "keys", "make":
                expire_time = datetime.now(UTC) + timedelta(days=given.days) if given.days else None
                return [await self._keys.make(given.tenant, given.label, expire_time)]
            case "keys", "list":
                return await self._list_keys()
            case "keys", "revoke":
                key = await self._keys.revoke(given.key_id)
                return [f"{key.key_id} of {key.tenant} is revoked"]
            case "tenants", "list":
                return [_line(tenant, allowance) for tenant, allowance in (await self._tenants.all()).items()]
            case "tenants", "set":
                figures = {f.name: getattr(given, f.name) for f in fields(Allowance) if f.name in given}
                return [_line(given.tenant, await self._tenants.set(given.tenant, **figures))]
            case "credits", "show":
                return await self._entries(given.tenant)
            case _:
                return [await self._grant(given.tenant, round(given.amount * MILLI))]

    async def _list_keys(self) -> list[str]:
        lines = []
        for key in await self._keys.all():
            state = f"revoked {key.revoke_time:%F}" if key.revoke_time else _until(key.expire_time)
            lines.append(f"{key.key_id}  {key.tenant}  made {key.create_time:%F}  {state}  {key.label}")
        return lines

    async def _grant(self, tenant: str, millicredits: int) -> str:
        async with self.database.write() as session:
            await self._tenants.lock(session, tenant)
            balance = await self._ledger.grant(session, tenant, millicredits, str(uuid.uuid4()))
        return f"{tenant} has {balance / MILLI:g} credits"

    async def _entries(self, tenant: str) -> list[str]:
        async with self.database.read() as session:
            entries = await self._ledger.entries(session, tenant, SHOWN_ENTRIES)
        return [
            f"{entry.time:%F %T}  {entry.kind:<8}  {entry.amount_millicredits / MILLI:+11.3f}"
            f"  {entry.balance_millicredits / MILLI:11.3f}  {entry.reference}"
            for entry in entries
        ]


def _line(tenant: str, allowance: Allowance) -> str:
    return f"{tenant}  " + "  ".join(f"{name}={value:g}" for name, value in asdict(allowance).items())


def _until(expire_time: datetime | None) -> str:
    return f"until {expire_time:%F}" if expire_time else "no end"


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m services.gateway.admin", description="Tenants of the gateway.")
    areas = parser.add_subparsers(dest="what", required=True)
    keys = areas.add_parser("keys").add_subparsers(dest="action", required=True)
    make = keys.add_parser("make", help="prints a new key, this once")
    make.add_argument("tenant", type=_tenant)
    make.add_argument("--label", default="", help="what it is for, for people")
    make.add_argument("--days", type=_number(float), help="until it expires; never, when left out")
    keys.add_parser("list")
    keys.add_parser("revoke").add_argument("key_id")
    tenants = areas.add_parser("tenants").add_subparsers(dest="action", required=True)
    tenants.add_parser("list", help="tenants and what each may use")
    change = tenants.add_parser("set", help="gives a tenant figures of its own; `default` puts the settings' back")
    change.add_argument("tenant", type=_tenant)
    for figure in fields(Allowance):
        kind = _number(int if figure.name in WHOLE_NUMBERS else float, zero=figure.name == "daily_credits")
        change.add_argument(f"--{figure.name.replace('_', '-')}", type=_or_default(kind), default=argparse.SUPPRESS)
    accounts = areas.add_parser("credits").add_subparsers(dest="action", required=True)
    accounts.add_parser("show", help="the newest entries of the ledger").add_argument("tenant", type=_tenant)
    grant = accounts.add_parser("grant", help="a negative amount takes away")
    grant.add_argument("tenant", type=_tenant)
    grant.add_argument("amount", type=_amount)
    return parser.parse_args(arguments)


def _tenant(text: str) -> str:
    if not TENANT.fullmatch(text):
        raise argparse.ArgumentTypeError("1 to 63 of a-z, 0-9 and - inside")
    return text


def _number(kind: type[float], *, zero: bool = False) -> Callable[[str], float]:
    def number(text: str) -> float:
        with suppress(ValueError):
            value = kind(text)
            if 0 < value < 1e9 or (zero and value == 0):
                return value
        raise argparse.ArgumentTypeError("not a number that is possible here")

    return number


def _amount(text: str) -> float:
    with suppress(ValueError):
        value = float(text)
        if 0 < abs(value) < 1e9:
            return value
    raise argparse.ArgumentTypeError("not an amount of credits: a number other than 0, below a thousand million")


def _or_default(number: Callable[[str], float]) -> Callable[[str], float | None]:
    return lambda text: None if text == "default" else number(text)


async def run(arguments: Sequence[str] | None = None) -> list[str]:
    """Does what the arguments say, on the database of the gateway's settings, and gives the lines to print."""
    given = parse(arguments)
    # A role that needs no stages, at an address that needs no identity: nothing is served here.
    admin = Admin(GatewaySettings(role="api", host="127.0.0.1"))
    try:
        await admin.database.migrate()
        return await admin.run(given)
    finally:
        await admin.database.close()


def main() -> None:
    try:
        lines = asyncio.run(run())
    except SoundstageError as error:
        sys.exit(f"{error} ({error.reason})")
    for line in lines:
        sys.stdout.write(line + "\n")


if __name__ == "__main__":
    main()
