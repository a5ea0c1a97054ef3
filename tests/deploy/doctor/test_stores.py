"""The doctor on real stores: SeaweedFS, PostgreSQL and Temporal's development server."""

from __future__ import annotations

import re
import socket
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from click.testing import CliRunner
from minio import Minio

from client.cli import main
from deploy.doctor.s3 import S3Doctor, _skew
from deploy.doctor.settings import DoctorSettings
from deploy.local.ports import free_ports
from libs.artifacts import S3Address
from libs.serving import TlsFiles
from services.gateway.settings import GatewaySettings
from tests.deploy.doctor.doctoring import examine
from tests.support.certificates import Authority
from tests.support.http import QuietHandler, serving_http
from tests.support.postgres import PostgresServer, postgres_server
from tests.support.s3 import S3Server
from tests.support.temporal import temporal_address
from tests.support.tls_proxy import serving_tls

__all__ = ["postgres_server", "temporal_address"]

PASSWORD = "a/secret@password"
CODED = "a%2Fsecret%40password"


@pytest.fixture
def bucket(s3_server: S3Server) -> str:
    name = f"doctor-{uuid.uuid4().hex[:8]}"
    client(s3_server).make_bucket(name)
    return name


@pytest.fixture
def silent() -> Iterator[str]:
    """host:port that takes connections and never says a word."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        yield f"127.0.0.1:{listener.getsockname()[1]}"


@pytest.fixture
def closed() -> str:
    """host:port where nothing listens."""
    return f"127.0.0.1:{free_ports(1)[0]}"


def client(server: S3Server) -> Minio:
    return Minio(server.endpoint, server.access_key, server.secret_key, secure=False, region="us-east-1")


def s3(server: S3Server, bucket: str, **changed: str) -> dict[str, str]:
    return {
        "artifacts_url": server.url(bucket),
        "s3_access_key": server.access_key,
        "s3_secret_key": server.secret_key,
        **changed,
    }


def test_all_is_well(s3_server: S3Server, bucket: str, postgres_server: PostgresServer, temporal_address: str) -> None:
    url = postgres_server.create(f"doctor_{uuid.uuid4().hex}")
    stores = s3(s3_server, bucket)
    report = examine("--seconds", "60", **stores, database_url=url, temporal_address=temporal_address)
    assert report.exit_code == 0, report.output
    assert [one for one in report.checks if one["level"] != "ok"] == []
    assert len(report.checks) == 18
    assert report["s3 conditional write"]["found"] == "If-None-Match is honoured"
    assert report["temporal retention"]["found"] == "what has ended is kept for 24 h"
    # Nothing is left behind.
    assert list(client(s3_server).list_objects(bucket, recursive=True)) == []
    assert (
        postgres_server.sql(urlsplit(url).path[1:], r"SELECT count(*) FROM pg_tables WHERE tablename ~ 'doctor'") == "0"
    )


def test_a_missing_bucket_is_told_and_not_made(s3_server: S3Server) -> None:
    report = examine(**s3(s3_server, "not-there"))
    assert report.exit_code == 1
    assert report.levels("fail") == ["s3 bucket"]
    assert report["s3 credentials"]["level"] == "ok"
    assert report["s3 presigned"]["found"] == "not checked"
    assert not client(s3_server).bucket_exists("not-there")


@pytest.mark.parametrize(
    ("changed", "code"), [("s3_access_key", "InvalidAccessKeyId"), ("s3_secret_key", "SignatureDoesNotMatch")]
)
def test_wrong_keys(s3_server: S3Server, bucket: str, changed: str, code: str) -> None:
    report = examine(**s3(s3_server, bucket, **{changed: "another-key-of-mine"}))
    assert report.levels("fail") == ["s3 credentials"]
    assert code in report["s3 credentials"]["found"]
    assert "another-key-of-mine" not in report.output
    assert s3_server.secret_key not in report.output


def test_tls_to_a_plain_port(s3_server: S3Server, bucket: str) -> None:
    url = s3_server.url(bucket).replace("secure=false", "secure=true")
    report = examine(**s3(s3_server, bucket, artifacts_url=url))
    assert report.levels("fail") == ["s3 reachable"]
    assert "secure=" in report["s3 reachable"]["fix"]


def test_an_authority_of_ones_own(s3_server: S3Server, bucket: str, tmp_path: Path) -> None:
    files = Authority().files(tmp_path)
    with serving_tls(s3_server.endpoint, TlsFiles(files.cert, files.key)) as endpoint:
        stores = s3(s3_server, bucket, artifacts_url=f"s3://{bucket}?endpoint={endpoint}&secure=true")
        unknown, known = (examine("--seconds", "60", **stores, **more) for more in ({}, {"s3_ca": str(files.ca)}))
        unread = examine(**stores, s3_ca=str(tmp_path / "nowhere.pem"))
    assert unknown.levels("fail") == ["s3 reachable"]
    assert "s3.caSecret" in unknown["s3 reachable"]["fix"]
    assert known.levels("fail") == []
    assert {"s3 presigned", "s3 conditional write"} <= set(known.levels("ok"))
    assert "nowhere.pem: No such file" in unread["s3"]["found"]


def test_a_public_endpoint_that_is_away(s3_server: S3Server, bucket: str, closed: str) -> None:
    report = examine(**s3(s3_server, bucket, s3_public_endpoint=closed))
    assert report.levels("fail") == ["s3 presigned"]
    assert "Connection refused" in report["s3 presigned"]["found"]
    assert "Signature" not in report.output
    assert list(client(s3_server).list_objects(bucket, recursive=True)) == []


def test_a_server_that_is_no_s3() -> None:
    """Answers 200 and a page to everything, as a console on the next port does; its clock is an hour behind."""

    class Page(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"<html>welcome</html>")

        do_PUT = do_DELETE = do_GET  # noqa: N815

        def date_time_string(self, timestamp: float | None = None) -> str:  # noqa: ARG002
            return super().date_time_string(time.time() - 3600)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Page)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        url = f"s3://b?endpoint=127.0.0.1:{server.server_port}&secure=false"
        report = examine(artifacts_url=url, s3_access_key="a", s3_secret_key="b")
    finally:
        server.shutdown()
        server.server_close()
    assert report.exit_code == 1
    assert report["s3 clock"]["level"] == "fail"
    # Whole seconds, cut off, and the time of the call.
    assert re.search(r"is (3599|360\d) s behind", report["s3 clock"]["found"])


def test_a_store_without_conditional_writes() -> None:
    """Publishing models and building engines rely on them: `put_new` of the model store."""

    class Store(QuietHandler):
        def do_PUT(self) -> None:  # noqa: N802  http.server's own name
            self.rfile.read(int(self.headers["Content-Length"] or 0))
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        do_DELETE = do_PUT  # noqa: N815

    with serving_http(Store) as url:
        address = S3Address("bucket", urlsplit(url).netloc, secure=False)
        outcome = S3Doctor(address, "key", "secret", seconds=60).conditional()
    assert outcome.level == "warn"
    assert outcome.found == "If-None-Match is not honoured: 200, then 200 instead of 200, then 412"
    assert "publishing models" in outcome.fix


@pytest.mark.parametrize(("seconds", "level"), [(0, "ok"), (-59, "ok"), (61, "fail"), (-3600, "fail")])
def test_clock_skew(seconds: int, level: str) -> None:
    now = datetime(2026, 11, 27, tzinfo=UTC)
    said = (now + timedelta(seconds=seconds)).strftime("%a, %d %b %Y %H:%M:%S GMT")
    assert _skew(said, now).level == level


def test_addresses_that_do_not_answer_stop_neither_each_other_nor_the_clock(silent: str) -> None:
    began = time.monotonic()
    report = examine(
        "--seconds",
        "1",
        artifacts_url=f"s3://b?endpoint={silent}&secure=false",
        database_url=f"postgresql://u:{CODED}@{silent}/d",
        temporal_address=silent,
    )
    assert time.monotonic() - began < 10
    assert report.levels("fail") == ["s3 reachable", "postgresql login", "temporal reachable"]
    for check in report.levels("fail"):
        assert "no answer" in report[check]["found"], report[check]


def test_addresses_where_nothing_listens(closed: str) -> None:
    report = examine(
        artifacts_url=f"s3://b?endpoint={closed}&secure=false",
        database_url=f"postgresql://u:{CODED}@{closed}/d",
        temporal_address=closed,
    )
    assert report.levels("fail") == ["s3 reachable", "postgresql login", "temporal reachable"]
    assert "Connection refused" in report["s3 reachable"]["found"]


def test_unknown_names() -> None:
    report = examine(
        artifacts_url="s3://b?endpoint=s3.invalid:1",
        database_url="postgresql://u@database.invalid/d",
        temporal_address="temporal.invalid:7233",
        encoder_address="encoder.invalid:1",
        oidc_issuer="https://issuer.invalid/realm",
    )
    dns = ["s3 dns", "postgresql dns", "temporal dns", "encoder dns", "oidc dns"]
    assert report.levels("fail") == dns
    assert all(report[name]["fix"].rpartition(" ")[2].startswith("SOUNDSTAGE_GATEWAY_") for name in dns[:1] + dns[2:])


def test_a_name_of_the_values_is_told_by_its_value(tmp_path: Path) -> None:
    (tmp_path / "values.yaml").write_text(
        "s3: {endpoint: s3.invalid}\ntemporal: {address: 'temporal.invalid:7233'}\n"
        "auth: {oidc: {issuer: 'https://issuer.invalid'}}\n"
    )
    report = examine("--values", tmp_path / "values.yaml")
    said = {name: report[f"{name} dns"]["fix"].rpartition(" ")[2] for name in ("s3", "temporal", "oidc")}
    assert said == {"s3": "s3.endpoint", "temporal": "temporal.address", "oidc": "auth.oidc.issuer"}


def test_database_refusals(postgres_server: PostgresServer) -> None:
    database = f"doctor_{uuid.uuid4().hex}"
    address = urlsplit(postgres_server.create(database)).netloc.rpartition("@")[2]
    role = f"reader_{uuid.uuid4().hex[:8]}"
    postgres_server.sql(database, f"CREATE ROLE \"{role}\" LOGIN PASSWORD '{PASSWORD}'")
    report = examine(database_url=f"postgresql://{role}:{CODED}@{address}/{database}")
    assert report.levels("fail") == ["postgresql tables"]
    assert report["postgresql tables"]["fix"] == f'GRANT CREATE ON SCHEMA "public" TO "{role}"'

    report = examine(database_url=f"postgresql://postgres@{address}/nowhere")
    assert report.levels("fail") == ["postgresql login"]
    assert "CREATE DATABASE" in report["postgresql login"]["fix"]

    report = examine(database_url=f"postgresql://postgres@{address}/{database}?options=-c%20x&sslmode=require")
    assert "ssl=require" in report["postgresql url"]["fix"]
    report = examine(database_url=f"postgresql://postgres@{address}/{database}?ssl=require")
    assert report.levels("fail") == ["postgresql login"]


def test_a_wrong_password_is_told_and_not_shown(postgres_server: PostgresServer) -> None:
    """The test server trusts everybody; for this role it asks for a password, as another would."""
    database = f"doctor_{uuid.uuid4().hex}"
    address = urlsplit(postgres_server.create(database)).netloc.rpartition("@")[2]
    role = f"asked_{uuid.uuid4().hex[:8]}"
    postgres_server.sql(database, f"CREATE ROLE \"{role}\" LOGIN PASSWORD 'right'")
    postgres_server.sql(database, f'GRANT CREATE ON SCHEMA public TO "{role}"')
    with asking_for_passwords(postgres_server, role):
        right = examine(database_url=f"postgresql://{role}:right@{address}/{database}")
        wrong = examine(database_url=f"postgresql://{role}:{CODED}@{address}/{database}")
    assert right.levels("fail") == []
    assert wrong.levels("fail") == ["postgresql login"]
    assert "password authentication failed" in wrong["postgresql login"]["found"]
    assert PASSWORD not in wrong.output
    assert CODED not in wrong.output


@contextmanager
def asking_for_passwords(server: PostgresServer, role: str) -> Iterator[None]:
    """A line at the top of pg_hba.conf; the server is told to read it again."""
    file = Path(server.sql("postgres", "SHOW hba_file"))
    before = file.read_text()
    file.write_text(f'host all "{role}" all scram-sha-256\n{before}')
    server.sql("postgres", "SELECT pg_reload_conf()")
    time.sleep(0.5)  # the reload is a signal that nothing answers
    try:
        yield
    finally:
        file.write_text(before)
        server.sql("postgres", "SELECT pg_reload_conf()")


@pytest.mark.parametrize(
    "url", [f"postgresql://u:{PASSWORD}@host:5432/d", "mysql://u:secret@host/d", "postgresql://u:secret@h:a5/d"]
)
def test_an_unreadable_url_is_not_shown(url: str) -> None:
    report = examine(database_url=url)
    assert report.levels("fail") == ["postgresql url"]
    assert "secret" not in report.output


def test_a_missing_namespace(temporal_address: str) -> None:
    report = examine(temporal_address=temporal_address, temporal_namespace="nowhere")
    assert report.levels("fail") == ["temporal namespace"]
    assert f"--namespace nowhere --retention 72h --address {temporal_address}" in report["temporal namespace"]["fix"]


def test_temporal_over_tls_where_it_speaks_none(temporal_address: str) -> None:
    report = examine(temporal_address=temporal_address, temporal_tls="true")
    assert report.levels("fail") == ["temporal reachable"]


def test_lines_for_people() -> None:
    result = CliRunner().invoke(main, ["doctor"], env={"SOUNDSTAGE_GATEWAY_DATABASE_URL": "mysql://u@h/d"})
    assert result.exit_code == 1
    assert "fail  postgresql url: the URL cannot be read. Write postgresql://user:password@" in result.output
    assert "warn  temporal: not said, so not checked. Set SOUNDSTAGE_GATEWAY_TEMPORAL_ADDRESS" in result.output


def test_the_settings_are_the_gateways() -> None:
    assert DoctorSettings.model_fields.keys() - GatewaySettings.model_fields.keys() == set()
    assert DoctorSettings.model_config["env_prefix"] == GatewaySettings.model_config["env_prefix"]
