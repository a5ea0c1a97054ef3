"""The pod's deletion cost, told to a server that speaks the one call of Kubernetes' API that is made, over TLS."""

from __future__ import annotations

import asyncio
import json
import ssl
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from libs.serving import pod_cost, telling_pod_cost
from tests.support.certificates import Authority
from tests.support.http import QuietHandler, serving_http

ANNOTATION = "controller.kubernetes.io/pod-deletion-cost"
DEADLINE_SECONDS = 20.0


@dataclass
class Api:
    address: str = ""
    costs: list[str] = field(default_factory=list)
    tokens: set[str] = field(default_factory=set)
    refusals: int = 0


@contextmanager
def serving(folder: Path) -> Iterator[Api]:
    """Takes merge patches of one pod's annotations; refuses as often as ``refusals`` says."""

    class Handler(QuietHandler):
        def do_PATCH(self) -> None:  # noqa: N802  http.server's own name
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            is_pods = self.path == "/api/v1/namespaces/video/pods/denoiser-1"
            is_patch = self.headers["Content-Type"] == "application/merge-patch+json"
            api.tokens.add(self.headers["Authorization"])
            status = 200 if is_pods and is_patch else 404
            if api.refusals:
                api.refusals, status = api.refusals - 1, 403
            if status == 200:
                api.costs.append(body["metadata"]["annotations"][ANNOTATION])
            self.send_response(status)
            self.end_headers()
            self.wfile.write(b"{}" if status == 200 else b"pods is forbidden")

    files = Authority().files(folder)
    assert files.ca
    (folder / "ca.crt").write_bytes(files.ca.read_bytes())
    (folder / "token").write_text("a-token\n")
    (folder / "namespace").write_text("video")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(files.cert, files.key)
    api = Api()
    with serving_http(Handler, context) as api.address:
        yield api


async def until(api: Api, costs: list[str]) -> None:
    deadline = time.monotonic() + DEADLINE_SECONDS
    while api.costs != costs and time.monotonic() < deadline:  # noqa: ASYNC110 (another thread changes it)
        await asyncio.sleep(0.02)
    assert api.costs == costs


async def test_it_follows_the_work_up_at_once_and_down_after_a_while(tmp_path: Path) -> None:
    work = [0]
    with serving(tmp_path) as api:
        async with telling_pod_cost(
            "denoiser-1", load=lambda: work[0], files=tmp_path, server=api.address, fall_seconds=2.5
        ):
            await until(api, ["0"])
            work[0] = 2
            await until(api, ["0", "2"])
            began = time.monotonic()
            work[0] = 0
            await until(api, ["0", "2", "0"])
            assert time.monotonic() - began > 1.0
    assert api.tokens == {"Bearer a-token"}


async def test_a_refusal_is_said_and_asked_again(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with serving(tmp_path) as api:
        api.refusals = 1
        async with telling_pod_cost("denoiser-1", load=lambda: 3, files=tmp_path, server=api.address):
            await until(api, ["3"])
    (record,) = (record for record in caplog.records if "deletion cost" in record.message)
    assert "pods is forbidden" in vars(record)["why"]


async def test_without_files_or_server_the_work_goes_on(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async with telling_pod_cost("denoiser-1", load=lambda: 1, files=tmp_path / "none"):
        await asyncio.sleep(0.3)
    assert [record for record in caplog.records if "was not told" in record.message]


def test_after_a_day_of_failures_it_asks_once_a_minute() -> None:
    assert [pod_cost._pause_seconds(failures) for failures in (0, 1, 5, 6, 5000)] == [1, 2, 32, 60, 60]


async def test_outside_of_kubernetes_nobody_is_told(caplog: pytest.LogCaptureFixture) -> None:
    async with telling_pod_cost(""):
        await asyncio.sleep(0.05)
    assert not caplog.records
