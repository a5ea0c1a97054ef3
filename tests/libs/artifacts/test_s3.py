"""What only an S3 store does: presigned URLs, refusals, servers that are slow, broken or away."""

from __future__ import annotations

import socket
import threading
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from libs.artifacts import Ref, S3Address, S3Store, open_store
from libs.artifacts.s3 import Patience
from libs.errors import FailedPrecondition, Unavailable
from libs.serving import TlsFiles
from tests.support.certificates import Authority
from tests.support.forwarder import forwarding
from tests.support.s3 import S3Server
from tests.support.tls_proxy import serving_tls

HASTY = Patience(connect_seconds=0.3, silence_seconds=0.3, tries=2)
EMPTY_SHA256 = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
REF = Ref("s3://bucket/a/b", "text/plain", 0, EMPTY_SHA256)


def _store(endpoint: str, patience: Patience = HASTY, **address: str) -> S3Store:
    where = S3Address(bucket="bucket", endpoint=endpoint, secure=False, **address)
    return S3Store(where, access_key="key", secret_key="secret", patience=patience)


def _bucket_store(server: S3Server) -> S3Store:
    store = open_store(
        server.url(f"t-{uuid.uuid4().hex[:16]}"), access_key=server.access_key, secret_key=server.secret_key
    )
    assert isinstance(store, S3Store)
    return store


def _get(url: str) -> tuple[int, bytes, str]:
    try:
        with urllib.request.urlopen(url, timeout=60) as answer:
            return answer.status, answer.read(), answer.headers["Content-Type"]
    except urllib.error.HTTPError as error:
        with error:
            return error.code, b"", ""


def test_presigned_url_is_readable_without_keys(s3_server: S3Server) -> None:
    store = _bucket_store(s3_server)
    ref = store.put("acme/v1/muxer/1/video.mp4", b"picture", "video/mp4")
    assert _get(store.url(ref, timedelta(minutes=5))) == (200, b"picture", "video/mp4")


def test_a_server_whose_authority_is_our_own(s3_server: S3Server, tmp_path: Path) -> None:
    """Every kind of request goes to it by that authority; without, none does."""
    files = Authority().files(tmp_path)
    with serving_tls(s3_server.endpoint, TlsFiles(files.cert, files.key)) as endpoint:
        url = f"s3://t-{uuid.uuid4().hex[:16]}?endpoint={endpoint}&secure=true"
        keys = {"access_key": s3_server.access_key, "secret_key": s3_server.secret_key}
        store = open_store(url, ca=files.ca, **keys)
        assert isinstance(store, S3Store)
        assert store.get(store.put("acme/v1/a", b"mine", "text/plain")) == b"mine"
        assert [store.put_new("acme/v1/b", b"new", "text/plain") for _ in range(2)] == [True, False]
        assert store.delete_prefix("acme/v1") == 2
        address = S3Address("bucket", endpoint)
        with pytest.raises(Unavailable):
            S3Store(address, patience=HASTY, **keys).put("acme/v1/a", b"mine", "text/plain")


def test_presigned_url_does_not_open_another_object(s3_server: S3Server) -> None:
    store = _bucket_store(s3_server)
    ref = store.put("acme/v1/a", b"mine", "text/plain")
    store.put("other/v1/a", b"theirs", "text/plain")
    assert _get(store.url(ref, timedelta(minutes=5)).replace("/acme/", "/other/"))[0] == 403


def test_presigned_url_expires(s3_server: S3Server) -> None:
    store = _bucket_store(s3_server)
    url = store.url(store.put("acme/v1/a", b"mine", "text/plain"), timedelta(seconds=1))
    time.sleep(2.1)
    assert _get(url)[0] == 403


def test_presigned_url_works_through_the_public_name_and_only_there(s3_server: S3Server) -> None:
    """What the caller reaches is another host and port than what we write to, as behind an ingress."""
    with forwarding(s3_server.endpoint) as ingress:
        public = f"localhost:{ingress.port}"
        store = open_store(
            s3_server.url(f"t-{uuid.uuid4().hex[:16]}"),
            access_key=s3_server.access_key,
            secret_key=s3_server.secret_key,
            public_endpoint=public,
        )
        ref = store.put("acme/v1/mux/1/video.mp4", b"picture", "video/mp4")
        url = store.url(ref, timedelta(seconds=4))
        assert urlsplit(url).netloc == public
        assert _get(url) == (200, b"picture", "video/mp4")
        assert _get(url.replace(public, s3_server.endpoint))[0] == 403, "the host is part of the signature"
        late = time.monotonic() + 30
        while _get(url)[0] != 403 and time.monotonic() < late:
            time.sleep(0.5)
        assert _get(url)[0] == 403, "its time is over"


@pytest.mark.parametrize(
    ("public_endpoint", "begin"),
    [
        ("", "http://inner.invalid:9000/"),
        ("outer.example:443", "http://outer.example:443/"),
        ("https://media.example", "https://media.example/"),
    ],
)
def test_urls_name_the_public_endpoint_and_need_no_network(public_endpoint: str, begin: str) -> None:
    url = _store("inner.invalid:9000", public_endpoint=public_endpoint).url(REF, timedelta(minutes=5))
    assert url.startswith(f"{begin}bucket/a/b?")
    assert "X-Amz-Expires=300" in urlsplit(url).query


def test_wrong_secret_is_refused_with_what_to_check(s3_server: S3Server) -> None:
    store = open_store(s3_server.url("bucket"), access_key=s3_server.access_key, secret_key="wrong")
    with pytest.raises(FailedPrecondition, match="access keys") as caught:
        store.put("acme/v1/a", b"x", "text/plain")
    assert caught.value.reason == "STORE_REFUSED"


def test_nobody_listens() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        store = _store(f"127.0.0.1:{unused.getsockname()[1]}")
        with pytest.raises(Unavailable) as caught:
            store.put("a/b", b"x", "text/plain")
    assert caught.value.reason == "STORE_UNAVAILABLE"


def test_a_silent_server_is_given_up() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        began = time.monotonic()
        with pytest.raises(Unavailable):
            _store(f"127.0.0.1:{silent.getsockname()[1]}").get(REF)
        assert time.monotonic() - began < 5


def test_a_busy_server_is_asked_again() -> None:
    with _answering(503, 503, 200) as (endpoint, requests):
        assert _store(endpoint, Patience(tries=4)).get(REF) == b""
    assert len(requests) == 3


def test_a_server_that_stays_busy_is_given_up() -> None:
    with _answering(503) as (endpoint, requests), pytest.raises(Unavailable):
        _store(endpoint, Patience(tries=3)).get(REF)
    assert len(requests) == 3


@contextmanager
def _answering(*codes: int) -> Iterator[tuple[str, list[str]]]:
    """A server that answers with ``codes`` in turn, the last one for ever; yields its endpoint and the requests."""
    requests: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            code = codes[min(len(requests), len(codes) - 1)]
            requests.append(self.path)
            self.send_response(code)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        yield f"127.0.0.1:{server.server_port}", requests
        server.shutdown()


def test_what_is_written_new_is_never_written_over(s3_server: S3Server) -> None:
    store = _bucket_store(s3_server)
    assert [store.put_new("models/a", data, "text/plain") for data in (b"first", b"second")] == [True, False]
    ref = Ref(store.uri_of("models/a"), "text/plain", 5, "0" * 64)
    assert b"".join(store.stream(ref)) == b"first"


def test_a_stream_begins_where_it_is_told(s3_server: S3Server) -> None:
    store = _bucket_store(s3_server)
    ref = store.put("acme/v1/a", b"0123456789", "text/plain")
    assert b"".join(store.stream(ref, 7)) == b"789"
    with pytest.raises(FailedPrecondition) as caught:
        list(store.stream(Ref(ref.uri, "text/plain", 99, ref.sha256), 50))
    assert caught.value.reason == "ARTIFACT_ALTERED"
