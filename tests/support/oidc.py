"""A small OIDC issuer for tests: a real HTTP server on a free port, with discovery, keys and tokens."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric import ec
from jwt.algorithms import ECAlgorithm

from tests.support.http import QuietHandler, serving_http

__all__ = ["Issuer", "serving_issuer"]

AUDIENCE = "soundstage"


@dataclass
class Issuer:
    """`keys`: by key id, those that it publishes. `asked` counts how often it was asked for them."""

    url: str = ""
    keys: dict[str, ec.EllipticCurvePrivateKey] = field(default_factory=dict)
    asked: int = 0

    def add_key(self, key_id: str) -> None:
        self.keys[key_id] = ec.generate_private_key(ec.SECP256R1())

    def token(self, tenant: object, *, key_id: str = "", **changed: Any) -> str:
        """A good token, unless `changed` claims make it a bad one; None leaves a claim out."""
        key_id = key_id or next(iter(self.keys))
        claims = {
            "iss": self.url,
            "aud": AUDIENCE,
            "exp": datetime.now(UTC) + timedelta(minutes=5),
            "tenant": tenant,
            **changed,
        }
        given = {name: value for name, value in claims.items() if value is not None}
        return jwt.encode(given, self.keys[key_id], algorithm="ES256", headers={"kid": key_id})

    def jwks(self) -> dict[str, Any]:
        self.asked += 1
        keys = [
            {**json.loads(ECAlgorithm.to_jwk(key.public_key())), "kid": key_id, "use": "sig", "alg": "ES256"}
            for key_id, key in self.keys.items()
        ]
        return {"keys": keys}


@contextmanager
def serving_issuer() -> Iterator[Issuer]:
    issuer = Issuer()
    issuer.add_key("first")

    class Handler(QuietHandler):
        def do_GET(self) -> None:  # noqa: N802  http.server's own name
            pages = {
                "/.well-known/openid-configuration": lambda: {"issuer": issuer.url, "jwks_uri": f"{issuer.url}/keys"},
                "/keys": issuer.jwks,
            }
            page = pages.get(self.path)
            self.send_response(200 if page else 404)
            self.end_headers()
            self.wfile.write(json.dumps(page() if page else {}).encode())

    with serving_http(Handler) as issuer.url:
        yield issuer
