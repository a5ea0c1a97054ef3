"""Probe of a Triton pod: exit code 0 when every model answers a real inference. Needs Python 3.10 and no packages.

Triton's readiness stays true after a model's process has crashed (measured, 2.51.0), so an inference is asked of each
model: zeros, of the sizes that the builder wrote into its parameter `probe`. A model without that is only asked for its
state. A pod that has its hands full answers late, or that its queue is full: with --busy=ok this counts as ready, since
a crashed model answers at once.
"""

from __future__ import annotations

import argparse
import http.client
import json
import math
import sys
import time

BYTES = {"BOOL": 1, "UINT8": 1, "INT8": 1, "FP16": 2, "BF16": 2, "INT16": 2, "FP32": 4, "INT32": 4, "INT64": 8}
FIRST = 1
"""Priority: the probe goes before whatever waits."""


class Broken(Exception):  # noqa: N818  what the pod is
    pass


class Busy(Exception):  # noqa: N818
    pass


class Server:
    """The one of this pod. Every call ends after ``seconds`` from now."""

    def __init__(self, port: int, seconds: float) -> None:
        self._port, self._deadline = port, time.monotonic() + seconds

    def left(self) -> float:
        seconds = self._deadline - time.monotonic()
        if seconds <= 0:
            raise Busy("no answer in time")
        return seconds

    def ask(self, method: str, path: str, body: bytes = b"", headers: dict[str, str] | None = None) -> bytes:
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=self.left())
        try:
            connection.request(method, path, body, headers or {})
            answer = connection.getresponse()
            said = answer.read()
        except TimeoutError as error:
            raise Busy(f"{path}: no answer in time") from error
        except (OSError, http.client.HTTPException) as error:
            raise Broken(f"{path}: {error}") from error
        finally:
            connection.close()
        if answer.status == http.HTTPStatus.OK:
            return said
        # 503: the queue is full, or the call waited in it for too long.
        kind = Busy if answer.status == http.HTTPStatus.SERVICE_UNAVAILABLE else Broken
        raise kind(f"{path} answers {answer.status}: {said.decode(errors='replace')[:300]}")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument("--seconds", type=float, default=5.0, help="shared by the models")
    parser.add_argument("--busy", choices=["ok", "fail"], default="fail")
    arguments = parser.parse_args()
    try:
        busy = examine(arguments.port, arguments.seconds)
    except Broken as broken:
        print(broken, file=sys.stderr)
        return 1
    print(*busy, sep="\n", file=sys.stderr)
    return int(bool(busy) and arguments.busy == "fail")


def examine(port: int, seconds: float) -> list[str]:
    """What is busy. Raises Broken; each model has its own time, so that none hides behind another that is busy."""
    try:
        names = models(Server(port, seconds))
    except Busy as one:
        return [str(one)]
    busy = []
    for name in names:
        try:
            infer(Server(port, seconds / len(names)), name)
        except Busy as one:
            busy.append(str(one))
    return busy


def models(server: Server) -> list[str]:
    index = json.loads(server.ask("POST", "/v2/repository/index", b"{}"))
    for model in index:
        if model.get("state") != "READY":
            raise Broken(f"{model['name']} is {model.get('state', 'not loaded')}: {model.get('reason', '')}")
    if not index:
        raise Broken("no model is there")
    return sorted({model["name"] for model in index})


def infer(server: Server, name: str) -> None:
    config = json.loads(server.ask("GET", f"/v2/models/{name}/config"))
    if (probe := config.get("parameters", {}).get("probe")) is None:
        return
    shapes, inputs, zeros = json.loads(probe["string_value"]), [], b""
    for tensor in (given for given in config["input"] if not given.get("optional")):
        shape, kind = [1, *shapes[tensor["name"]]], tensor["data_type"].removeprefix("TYPE_")
        data = bytes(BYTES[kind] * math.prod(shape))
        size = {"binary_data_size": len(data)}
        inputs.append({"name": tensor["name"], "shape": shape, "datatype": kind, "parameters": size})
        zeros += data
    # With a timeout in the queue: calls that nobody waits for any more would fill it.
    told = {"priority": FIRST, "timeout": int(server.left() * 1e6), "binary_data_output": True}
    said = json.dumps({"inputs": inputs, "parameters": told}).encode()
    headers = {"Inference-Header-Content-Length": str(len(said)), "Content-Type": "application/octet-stream"}
    server.ask("POST", f"/v2/models/{name}/infer", said + zeros, headers)


if __name__ == "__main__":
    sys.exit(main())
