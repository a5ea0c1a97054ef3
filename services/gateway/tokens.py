"""JWTs of one OIDC issuer: signature, algorithm, issuer, audience and times checked, the tenant read from a claim."""

from __future__ import annotations

import asyncio
import json
import logging
import math
import re
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import jwt
import urllib3

from libs.errors import Unauthenticated, Unavailable

logger = logging.getLogger(__name__)

TENANT = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
"""Tenants are part of the keys of files, so that a claim may not hold just anything."""

LEEWAY_SECONDS = 30
"""How far the issuer's clock and ours may be apart."""

FRESH_SECONDS = 300.0
"""How long the issuer's keys are used without asking for them again."""

STALE_SECONDS = 24 * 3600.0
"""How long they are used while the issuer is away."""

PAUSE_SECONDS = 10.0
"""Between two questions to the issuer. Tokens with made-up key ids would otherwise be a way to flood it."""

FETCH_SECONDS = 5.0
MAX_DOCUMENT_BYTES = 1 << 20

Fetch = Callable[[str], Awaitable[dict[str, Any]]]


@dataclass(frozen=True)
class TokenRules:
    """`jwks_url` is found by OIDC discovery when it is empty."""

    issuer: str
    audience: str
    algorithms: tuple[str, ...]
    tenant_claim: str
    jwks_url: str = ""


class Tokens:
    def __init__(self, rules: TokenRules, keys: SigningKeys | None = None) -> None:
        self._rules, self._keys = rules, keys or SigningKeys(rules, fetch_json)

    async def tenant_of(self, token: str) -> str:
        """Raises Unauthenticated, or Unavailable when the issuer's keys cannot be had."""
        try:
            header = jwt.get_unverified_header(token)
            if header.get("alg") not in self._rules.algorithms:
                raise jwt.InvalidAlgorithmError(f"use one of {', '.join(self._rules.algorithms)}")
            claims = self._claims(token, await self._keys.find(header.get("kid")))
        except jwt.ExpiredSignatureError as error:
            raise Unauthenticated("the token has expired; get a new one", reason="TOKEN_EXPIRED") from error
        except jwt.PyJWTError as error:
            raise Unauthenticated(f"the token is not accepted: {error}", reason="TOKEN_INVALID") from error
        return self._tenant(claims)

    def _claims(self, token: str, key: jwt.PyJWK) -> dict[str, Any]:
        claims: dict[str, Any] = jwt.decode(
            token,
            key,
            algorithms=list(self._rules.algorithms),
            audience=self._rules.audience,
            issuer=self._rules.issuer,
            leeway=LEEWAY_SECONDS,
            options={"require": ["exp", "iss", "aud"]},
        )
        return claims

    def _tenant(self, claims: dict[str, Any]) -> str:
        name = self._rules.tenant_claim
        tenant = claims.get(name)
        if not isinstance(tenant, str) or not TENANT.fullmatch(tenant):
            raise Unauthenticated(
                f"the token's claim {name!r} must name a tenant: 1 to 63 of a-z, 0-9 and - inside",
                reason="TENANT_CLAIM_INVALID",
                claim=name,
            )
        return tenant


class SigningKeys:
    """The issuer's public keys, cached: asked for anew when old or when a token names an unknown one, but seldom."""

    def __init__(self, rules: TokenRules, fetch: Fetch, clock: Callable[[], float] = time.monotonic) -> None:
        self._rules, self._fetch, self._clock = rules, fetch, clock
        self._keys: dict[str | None, jwt.PyJWK] = {}
        self._fetched = self._asked = -math.inf
        self._asking = asyncio.Lock()

    async def find(self, key_id: str | None) -> jwt.PyJWK:
        """Raises PyJWTError for a key that the issuer does not publish, Unavailable when it publishes nothing."""
        if self._should_ask(key_id):
            async with self._asking:
                if self._should_ask(key_id):
                    await self._ask()
        if not self._keys or self._age(self._fetched) > STALE_SECONDS:
            raise Unavailable("the token's issuer does not answer; try again", reason="ISSUER_UNAVAILABLE")
        key = self._keys.get(key_id)
        if key is None:
            raise jwt.InvalidKeyError("it is signed with a key that the issuer does not publish")
        return key

    def _should_ask(self, key_id: str | None) -> bool:
        due = key_id not in self._keys or self._age(self._fetched) > FRESH_SECONDS
        return due and self._age(self._asked) > PAUSE_SECONDS

    async def _ask(self) -> None:
        self._asked = self._clock()
        try:
            found = jwt.PyJWKSet.from_dict(await self._fetch(self._rules.jwks_url or await self._discovered()))
        except (urllib3.exceptions.HTTPError, ValueError, TypeError, KeyError, jwt.PyJWTError) as error:
            logger.warning("keys of the issuer %s: %s", self._rules.issuer, error)
            return
        self._keys = {key.key_id: key for key in found.keys if key.public_key_use in (None, "sig")}
        self._fetched = self._clock()

    async def _discovered(self) -> str:
        document = await self._fetch(f"{self._rules.issuer.rstrip('/')}/.well-known/openid-configuration")
        if document.get("issuer") != self._rules.issuer:
            raise ValueError(f"its discovery document names another issuer, {document.get('issuer')!r}")
        return str(document["jwks_uri"])

    def _age(self, moment: float) -> float:
        return self._clock() - moment


async def fetch_json(url: str) -> dict[str, Any]:
    """A small JSON object over HTTP; no redirects. Raises HTTPError or ValueError."""
    return await asyncio.to_thread(_fetch_json, url)


def _fetch_json(url: str) -> dict[str, Any]:
    with urllib3.PoolManager(timeout=FETCH_SECONDS, retries=False) as pool:
        response = pool.request("GET", url, preload_content=False, redirect=False)
        body = response.read(MAX_DOCUMENT_BYTES + 1)
    if response.status != 200 or len(body) > MAX_DOCUMENT_BYTES:
        raise ValueError(f"{url} answers {response.status} with {len(body)} bytes")
    document = json.loads(body)
    if not isinstance(document, dict):
        raise ValueError(f"{url} is not a JSON object")  # noqa: TRY004 - what came is wrong, not what we were given
    return document
