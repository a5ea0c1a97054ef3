"""Artifacts in a bucket of any S3-compatible server, through the `minio` client (its 7.2 line; 8 renames arguments)."""

from __future__ import annotations

import hashlib
import http
import io
import threading
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from pathlib import Path
from urllib.parse import urlsplit

import urllib3
from minio import Minio
from minio.deleteobjects import DeleteObject
from minio.error import MinioException, S3Error

from libs.artifacts.integrity import missing, ref_of, verify, write_atomically
from libs.artifacts.ref import Ref, Stored, checked_key
from libs.errors import FailedPrecondition, SoundstageError, Unavailable

__all__ = ["Patience", "S3Address", "S3Store"]

_CHUNK_BYTES = 1 << 20
_PART_BYTES, _MOST_PARTS = 16 << 20, 9_000
"""Of a file larger than a part. minio's own choice is 525 MiB, of which it holds six in memory."""
_MISSING_CODES = {"NoSuchKey", "NoSuchVersion", "NoSuchBucket", "ResourceNotFound"}
_REFUSED_CODES = {"AccessDenied", "InvalidAccessKeyId", "SignatureDoesNotMatch", "NoSuchBucket", "InvalidBucketName"}


@dataclass(frozen=True)
class S3Address:
    """Where the bucket is. ``endpoint`` is host:port. The region is never asked for: signing must work offline."""

    bucket: str
    endpoint: str
    secure: bool = True
    region: str = "us-east-1"
    public_endpoint: str = ""

    @property
    def outer_host(self) -> tuple[str, bool]:
        """host:port for callers, and whether it is TLS: as the inner endpoint where nothing else is said."""
        outer = self.public_endpoint or self.endpoint
        if "://" not in outer:
            return outer, self.secure
        parts = urlsplit(outer)
        return parts.netloc, parts.scheme == "https"


@dataclass(frozen=True)
class Patience:
    """How long one request may take. minio's own pool waits 5 min and tries 6 times."""

    connect_seconds: float = 3.0
    silence_seconds: float = 20.0
    tries: int = 4


_PATIENCE = Patience()


class S3Store:
    """Creates the bucket at the first write when it is not there. Every wait is bounded by `Patience`."""

    def __init__(
        self,
        address: S3Address,
        *,
        access_key: str,
        secret_key: str,
        ca: Path | None = None,
        patience: Patience = _PATIENCE,
    ) -> None:
        """``ca``: authority (PEM) of the server's certificate; the system's without it."""
        self._bucket = address.bucket
        self._root = f"s3://{address.bucket}/"
        self._region = address.region
        self._pool = pool = _http_pool(patience, ca)
        connect = partial(Minio, access_key=access_key, secret_key=secret_key, region=address.region, http_client=pool)
        self._client = connect(address.endpoint, secure=address.secure)
        # The host is part of a signature: a URL signed for the inner address is refused at the outer one.
        host, secure = address.outer_host
        self._signer = connect(host, secure=secure)
        self._bucket_lock = threading.Lock()
        self._bucket_ready = False

    def put(self, key: str, data: bytes, media_type: str) -> Ref:
        ref = ref_of(self._root + checked_key(key), media_type, data)
        with self._named_errors():
            self._ensure_bucket()
            self._client.put_object(self._bucket, key, io.BytesIO(data), len(data), content_type=media_type)
        return ref

    def put_file(self, key: str, path: Path, media_type: str) -> Ref:
        uri = self._root + checked_key(key)
        with path.open("rb") as file:
            sha256, size_bytes = hashlib.file_digest(file, "sha256").hexdigest(), file.tell()
            file.seek(0)
            with self._named_errors():
                self._ensure_bucket()
                part_bytes = max(_PART_BYTES, -(-size_bytes // _MOST_PARTS))
                self._client.put_object(
                    self._bucket, key, file, size_bytes, content_type=media_type, part_size=part_bytes
                )
        return Ref(uri, media_type, size_bytes, sha256)

    def put_new(self, key: str, data: bytes, media_type: str) -> bool:
        """Write ``data`` unless something is under ``key`` already; False then. Of two writers one is told True."""
        checked_key(key)
        with self._named_errors():
            self._ensure_bucket()
            # minio's methods send no conditions, but what it signs may be sent with one.
            url = self._client.get_presigned_url("PUT", self._bucket, key, expires=timedelta(minutes=5))
            headers = {"If-None-Match": "*", "Content-Type": media_type}
            answer = self._pool.request("PUT", url, body=data, headers=headers)
        if answer.status == http.HTTPStatus.PRECONDITION_FAILED:
            return False
        if answer.status != http.HTTPStatus.OK:
            # 409: two at once. It and whatever else are tried again by whoever calls.
            raise _unavailable(f"it answers {answer.status}")
        return True

    def get(self, ref: Ref) -> bytes:
        data = b"".join(self.stream(ref))
        verify(ref, len(data), hashlib.sha256(data).hexdigest())
        return data

    def get_file(self, ref: Ref, path: Path) -> None:
        write_atomically(path, self.stream(ref), expected=ref)

    def stream(self, ref: Ref, offset: int = 0) -> Iterator[bytes]:
        """The object's bytes from ``offset``, not verified; at most one more than ``ref`` says, if there are more."""
        with self._named_errors(ref):
            response = self._client.get_object(self._bucket, self.key_of(ref), offset=offset)
            with closing(response):
                left = ref.size_bytes + 1 - offset
                while left > 0 and (chunk := response.read(min(_CHUNK_BYTES, left))):
                    left -= len(chunk)
                    yield chunk

    def url(self, ref: Ref, expires: timedelta) -> str:
        """A presigned GET, made without any network call. ``expires`` is 1 s to 7 days (a limit of S3)."""
        return str(self._signer.presigned_get_object(self._bucket, self.key_of(ref), expires=expires))

    def delete_prefix(self, prefix: str) -> int:
        checked_key(prefix.rstrip("/"))
        return self.delete(stored.key for stored in list(self.walk(prefix)))

    def walk(self, prefix: str = "") -> Iterator[Stored]:
        below = checked_key(prefix.rstrip("/")) + "/" if prefix else None
        with self._named_errors():
            self._ensure_bucket()
            for item in self._client.list_objects(self._bucket, below, recursive=True):
                if not item.is_dir:
                    yield Stored(item.object_name, item.size, item.last_modified)

    def delete(self, keys: Iterable[str]) -> int:
        doomed = [DeleteObject(checked_key(key)) for key in keys]
        with self._named_errors():
            self._ensure_bucket()
            failures = list(self._client.remove_objects(self._bucket, doomed))
        if failures:
            raise _unavailable(f"{len(failures)} of {len(doomed)} objects could not be deleted: {failures[0].message}")
        return len(doomed)

    def uri_of(self, key: str) -> str:
        return self._root + checked_key(key)

    def key_of(self, ref: Ref) -> str:
        key = ref.uri.removeprefix(self._root)
        try:
            return checked_key(key)
        except ValueError as error:
            raise missing(ref) from error

    def _ensure_bucket(self) -> None:
        with self._bucket_lock:
            if not self._bucket_ready:
                self._create_bucket()
                self._bucket_ready = True

    def _create_bucket(self) -> None:
        try:
            if not self._client.bucket_exists(self._bucket):
                self._client.make_bucket(self._bucket, self._region)
        except S3Error as error:
            # Another process was first; or this key may write objects but not look at buckets, which is no error.
            if error.code not in ("BucketAlreadyOwnedByYou", "BucketAlreadyExists", "AccessDenied"):
                raise

    @contextmanager
    def _named_errors(self, ref: Ref | None = None) -> Iterator[None]:
        try:
            yield
        except S3Error as error:
            raise self._named(error, ref) from error
        except (MinioException, urllib3.exceptions.HTTPError) as error:
            raise _unavailable(f"{type(error).__name__}") from error

    def _named(self, error: S3Error, ref: Ref | None) -> SoundstageError:
        if ref is not None and error.code in _MISSING_CODES:
            return missing(ref)
        if ref is not None and error.code == "InvalidRange":
            return FailedPrecondition(
                f"artifact {ref.uri} is shorter than it was", reason="ARTIFACT_ALTERED", uri=ref.uri
            )
        if error.code in _REFUSED_CODES:
            return FailedPrecondition(
                f"the artifact store refuses bucket {self._bucket} ({error.code}); check its name and the access keys",
                reason="STORE_REFUSED",
                code=str(error.code),
            )
        return _unavailable(f"it answers {error.code}")


def _unavailable(what: str) -> Unavailable:
    return Unavailable(f"the artifact store cannot be used now ({what}); try again", reason="STORE_UNAVAILABLE")


def _http_pool(patience: Patience, ca: Path | None) -> urllib3.PoolManager:
    """Tries every request again, also PUT and POST: writing the same bytes under the same key twice is harmless."""
    retry = urllib3.Retry(
        total=patience.tries - 1,
        backoff_factor=0.2,
        backoff_max=2.0,
        backoff_jitter=0.2,
        status_forcelist=[500, 502, 503, 504],
        allowed_methods=None,
        respect_retry_after_header=False,
    )
    timeout = urllib3.Timeout(connect=patience.connect_seconds, read=patience.silence_seconds)
    authority = str(ca) if ca else None
    return urllib3.PoolManager(maxsize=16, timeout=timeout, retries=retry, ca_certs=authority)
