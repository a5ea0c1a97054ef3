"""The artifact store: what Soundstage does with it, done once with a probe object that is deleted again."""

from __future__ import annotations

import io
import ssl
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime

import urllib3
from minio import Minio
from minio.error import MinioException, S3Error

from deploy.doctor.checking import Check, Outcome, fail, ok, warn, why
from deploy.doctor.names import Address
from deploy.doctor.settings import variable
from libs.artifacts import S3Address

__all__ = ["S3Doctor"]

FOLDER = "soundstage-doctor"
SKEW_SECONDS = 60.0
EXPIRES = timedelta(minutes=1)
KEYS = f"{variable('s3_access_key')} and {variable('s3_secret_key')}, or the secret of s3.existingSecret"
FIXES = {
    "InvalidAccessKeyId": f"the server does not know the access key: set {KEYS}",
    "SignatureDoesNotMatch": f"the secret key is another one: set {KEYS}",
    "RequestTimeTooSkewed": "set the clocks of both by NTP",
    "NoSuchBucket": "make the bucket, in the region of the settings",
}


@dataclass(frozen=True)
class S3Doctor:
    address: S3Address
    access_key: str
    secret_key: str
    seconds: float
    for_cluster: bool = False
    ca: str = ""
    """Authority of the server's certificate, PEM; the system's without it."""

    def checks(self) -> Iterator[Check]:
        inner = Address(self.address.endpoint, variable("artifacts_url"), self.for_cluster, "s3.endpoint")
        outer = Address(self.address.outer_host[0], variable("s3_public_endpoint"))
        yield Check("s3 dns", inner.resolve)
        yield Check("s3 reachable", self.reach, needs="s3 dns")
        yield Check("s3 clock", self.clock, needs="s3 reachable")
        yield Check("s3 credentials", self.credentials, needs="s3 reachable")
        yield Check("s3 bucket", self.bucket, needs="s3 credentials")
        yield Check("s3 write, read, delete", self.objects, needs="s3 bucket")
        yield Check("s3 conditional write", self.conditional, needs="s3 write, read, delete")
        ready = "s3 write, read, delete"
        if self.address.public_endpoint:
            yield Check("s3 public dns", outer.resolve)
        yield Check("s3 presigned", self.presigned, needs=ready)

    def reach(self) -> Outcome:
        scheme = "https" if self.address.secure else "http"
        try:
            answer = self._pool().request("GET", f"{scheme}://{self.address.endpoint}/", redirect=False)
        except (urllib3.exceptions.HTTPError, OSError) as error:
            return fail(
                f"{self.address.endpoint} over {scheme}: {why(error)}",
                "see that the server runs, the port is right, secure= says whether it speaks TLS, and who signed its "
                f"certificate is known: by the system, or set {variable('s3_ca')} or s3.caSecret",
            )
        return ok(f"{self.address.endpoint} answers over {scheme} ({answer.status})")

    def clock(self) -> Outcome:
        scheme = "https" if self.address.secure else "http"
        answer = self._pool().request("GET", f"{scheme}://{self.address.endpoint}/", redirect=False)
        return _skew(answer.headers.get("Date"), datetime.now(UTC))

    def credentials(self) -> Outcome:
        if not self.access_key or not self.secret_key:
            return fail("there are none", f"set {KEYS}")
        try:
            self._look()
        except S3Error as error:
            if error.code not in ("NoSuchBucket", "AccessDenied"):
                return _refused(error)
        return ok("the server knows the keys")

    def bucket(self) -> Outcome:
        try:
            self._look()
        except S3Error as error:
            if error.code == "NoSuchBucket":
                return fail(f"{self.address.bucket} is not there", FIXES["NoSuchBucket"])
            found = f"{self.address.bucket}: listing is refused ({error.code})"
            return fail(found, "allow s3:ListBucket: files whose time is over are looked for by it")
        return ok(f"{self.address.bucket} is there")

    def objects(self) -> Outcome:
        client, content = self._client(), uuid.uuid4().bytes
        try:
            with self._probe(client) as key:
                client.put_object(self.address.bucket, key, io.BytesIO(content), len(content))
                answer = client.get_object(self.address.bucket, key)
                with answer:
                    same = answer.read() == content
                client.remove_object(self.address.bucket, key)
                left = [item.object_name for item in client.list_objects(self.address.bucket, key)]
        except S3Error as error:
            return _refused(error)
        except MinioException as error:
            return fail(f"the server answers what no S3 does ({type(error).__name__})", "see that this is its S3 port")
        if not same or left:
            what = "gave back other bytes" if not same else "kept what was deleted"
            return fail(f"the server {what}", "Soundstage needs read-after-write consistency: use another store")
        return ok("an object was written, read and deleted")

    def conditional(self) -> Outcome:
        client = self._client()
        with self._probe(client) as key:
            url = client.presigned_put_object(self.address.bucket, key, EXPIRES)
            first, second = (self._put(url, {"If-None-Match": "*"}) for _ in range(2))
        if (first, second) == (200, 412):
            return ok("If-None-Match is honoured")
        return warn(
            f"If-None-Match is not honoured: {first}, then {second} instead of 200, then 412",
            "publishing models and building engines rely on it, when two do it at once: let one alone do it, or "
            "use a store with conditional writes",
        )

    def presigned(self) -> Outcome:
        """Through the address that callers use; nothing but the signature says who asks."""
        host, secure = self.address.outer_host
        signer, client = self._client(host, secure=secure), self._client()
        try:
            with self._probe(client) as key:
                put = self._put(signer.presigned_put_object(self.address.bucket, key, EXPIRES), {})
                get = self._pool().request("GET", signer.presigned_get_object(self.address.bucket, key, EXPIRES)).status
        except urllib3.exceptions.HTTPError as error:
            return fail(f"{host}: {why(error)}", f"callers fetch results there: set {variable('s3_public_endpoint')}")
        if (put, get) != (200, 200):
            return fail(
                f"{host} answers {put} to PUT and {get} to GET",
                "a proxy in front must pass the Host header on unchanged: it is signed",
            )
        return ok(f"PUT and GET work at {host}")

    def _look(self) -> None:
        """A listing, since the answer to a HEAD has no body and so no reason."""
        next(iter(self._client().list_objects(self.address.bucket, f"{FOLDER}/")), None)

    def _put(self, url: str, headers: dict[str, str]) -> int:
        return self._pool().request("PUT", url, body=b"probe", headers=headers).status

    @contextmanager
    def _probe(self, client: Minio) -> Iterator[str]:
        key = f"{FOLDER}/{uuid.uuid4().hex}"
        try:
            yield key
        finally:
            with suppress(MinioException, urllib3.exceptions.HTTPError):
                client.remove_object(self.address.bucket, key)

    def _client(self, host: str = "", *, secure: bool | None = None) -> Minio:
        return Minio(
            host or self.address.endpoint,
            access_key=self.access_key,
            secret_key=self.secret_key,
            region=self.address.region,
            secure=self.address.secure if secure is None else secure,
            http_client=self._pool(),
        )

    def _pool(self) -> urllib3.PoolManager:
        """Tries nothing again: the first refusal is the finding."""
        trusted = ssl.create_default_context(cadata=self.ca) if self.ca else None
        return urllib3.PoolManager(timeout=urllib3.Timeout(self.seconds * 0.8), retries=False, ssl_context=trusted)


def _skew(date: str | None, now: datetime) -> Outcome:
    if not date:
        return warn("the server does not say its time", "see that both clocks are set by NTP: signatures hold the time")
    seconds = (parsedate_to_datetime(date) - now).total_seconds()
    if abs(seconds) < SKEW_SECONDS:
        return ok(f"{abs(seconds):.0f} s between the server and here")
    return fail(
        f"the server is {abs(seconds):.0f} s {'ahead' if seconds > 0 else 'behind'}",
        "set the clocks of both by NTP: presigned URLs expire by them, and from 15 minutes on every request is refused",
    )


def _refused(error: S3Error) -> Outcome:
    fix = FIXES.get(str(error.code), "allow s3:GetObject, s3:PutObject, s3:DeleteObject and s3:ListBucket to the key")
    return fail(f"refused: {error.code}", fix)
