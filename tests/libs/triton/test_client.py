"""The client against real servers: what comes back, whose turn it is, and what happens when a pod fails."""

from __future__ import annotations

import asyncio
import errno
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from tritonclient.grpc import InferenceServerClient
from tritonclient.grpc.aio import InferenceServerClient as InferenceServerAioClient

from deploy.local.ports import free_ports
from deploy.triton.ready import answers_inference
from deploy.triton.server import Tritonserver
from deploy.triton.wheel import SUPPORTED
from libs.errors import FailedPrecondition, Internal, Unavailable
from libs.triton import Call, Triton, TritonOptions, calling, shared, triton_in_thread
from libs.triton.shared import Regions
from tests.support.light_triton import (
    ASK,
    CRASH,
    GATE,
    RAISE,
    SLEEP,
    SLEEP_SECONDS,
    light_tritonserver,
    metric,
    order,
)
from tests.support.waiting import wait_until

pytestmark = pytest.mark.skipif(not SUPPORTED, reason="tritonserver's wheel is for x86-64 Linux")

PENDING = "nv_inference_pending_request_count"
Through = Callable[[Triton, int], NDArray[np.float32]]


@pytest.fixture(scope="module")
def pods(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Tritonserver]]:
    with (
        light_tritonserver(tmp_path_factory.mktemp("one")) as one,
        light_tritonserver(tmp_path_factory.mktemp("two")) as two,
    ):
        yield [one, two]


@pytest.fixture
def doomed(tmp_path: Path) -> Iterator[Tritonserver]:
    with light_tritonserver(tmp_path) as server:
        yield server


def given(length: int) -> NDArray[np.float32]:
    return np.arange(2 * length, dtype=np.float32).reshape(2, length)


def infer(triton: Triton, length: int, model: str = "light") -> NDArray[np.float32]:
    array = given(length)
    return triton.infer(model, {"given": array}, {"same": (array.shape, array.dtype)})["same"]


@contextmanager
def client(*addresses: str, **options: Any) -> Iterator[Triton]:
    with triton_in_thread(addresses, TritonOptions(**{"call_seconds": 30.0, **options})) as triton:
        yield triton


def own_memory() -> list[Path]:
    return list(Path("/dev/shm").glob(f"soundstage-{os.getpid()}-*"))


@pytest.mark.parametrize("shared_memory", [True, False])
def test_tensors_come_back_as_they_are(pods: list[Tritonserver], shared_memory: bool) -> None:
    with client(pods[0].address, shared_memory=shared_memory) as triton:
        for length in (3, 100_000, 7):
            np.testing.assert_array_equal(infer(triton, length), given(length))
        assert bool(own_memory()) == shared_memory
    assert own_memory() == []


def test_memory_is_used_again_and_calls_at_a_time_have_their_own(pods: list[Tritonserver]) -> None:
    with client(pods[0].address) as triton:
        infer(triton, 1000)
        infer(triton, 500)
        assert len(own_memory()) == 1
        results: dict[int, NDArray[np.float32]] = {}
        threads = [
            threading.Thread(target=lambda n=n: results.__setitem__(n, infer(triton, n))) for n in (SLEEP, 20, 21, 22)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
        for length, result in results.items():
            np.testing.assert_array_equal(result, given(length))
        assert sorted(results) == sorted((SLEEP, 20, 21, 22))


def test_without_room_in_shared_memory_grpc_is_used(pods: list[Tritonserver], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shared, "_has_room", lambda _: False)
    with client(pods[0].address) as triton:
        np.testing.assert_array_equal(infer(triton, 5), given(5))
        assert own_memory() == []


async def test_all_of_a_region_is_taken_when_it_is_made(pods: list[Tritonserver]) -> None:
    """What a write would take later may be gone by then, and SIGBUS ends the process."""
    async with InferenceServerAioClient(pods[0].address) as aio:
        regions = Regions(aio)
        region = await regions.take(1 << 20)
        assert region is not None
        (path,) = own_memory()
        assert path.stat().st_blocks * 512 >= 1 << 20
        regions.retire(region)
        await regions.close()


def test_memory_that_others_took_first_is_not_missed(pods: list[Tritonserver], monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    with client(pods[0].address) as triton:
        np.testing.assert_array_equal(infer(triton, 5), given(5))
        assert own_memory() == []


def regions_of(pod: Tritonserver) -> list[str]:
    """Those that the server has mapped."""
    with InferenceServerClient(pod.address) as admin:
        return sorted(admin.get_system_shared_memory_status(client_timeout=10).regions)


async def test_a_call_abandoned_while_its_memory_is_told_leaves_none_on_the_server(pods: list[Tritonserver]) -> None:
    class Abandoned(InferenceServerAioClient):
        async def register_system_shared_memory(self, *words: Any, **more: Any) -> None:
            await super().register_system_shared_memory(*words, **more)
            raise asyncio.CancelledError

    before = regions_of(pods[0])
    async with Abandoned(pods[0].address) as aio:
        regions = Regions(aio)
        with pytest.raises(asyncio.CancelledError):
            await regions.take(1000)
        await regions.close()
    assert regions_of(pods[0]) == before
    assert own_memory() == []


KILLED = """
import os, signal, sys
import numpy as np
from libs.triton import TritonOptions, triton_in_thread

with triton_in_thread([sys.argv[1]], TritonOptions(30.0)) as triton:
    given = np.zeros((2, 100), np.float32)
    triton.infer("light", {"given": given}, {"same": (given.shape, given.dtype)})
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_the_memory_of_a_killed_process_is_let_go_here_and_on_the_server(pods: list[Tritonserver]) -> None:
    killed = subprocess.Popen([sys.executable, "-c", KILLED, pods[0].address])
    assert killed.wait(60) == -signal.SIGKILL
    prefix = f"soundstage-{killed.pid}-"
    assert [name for name in regions_of(pods[0]) if name.startswith(prefix)], "it was told of"
    wait_until(lambda: not list(Path("/dev/shm").glob(f"{prefix}*")))
    with client(pods[0].address) as triton:
        infer(triton, 5)
        assert not [name for name in regions_of(pods[0]) if name.startswith(prefix)]


def test_a_server_that_forgot_our_memory_is_told_again(pods: list[Tritonserver]) -> None:
    with client(pods[0].address) as triton:
        infer(triton, 5)
        with InferenceServerClient(pods[0].address) as admin:
            admin.unregister_system_shared_memory()
        np.testing.assert_array_equal(infer(triton, 5), given(5))


def test_pods_take_turns(pods: list[Tritonserver]) -> None:
    before = [len(order(pod)) for pod in pods]
    with client(*(pod.address for pod in pods)) as triton:
        for _ in range(6):
            infer(triton, 4)
    assert [len(order(pod)) for pod in pods] == [count + 3 for count in before]


def test_a_killed_pod_is_not_missed(pods: list[Tritonserver], doomed: Tritonserver) -> None:
    with client(doomed.address, pods[0].address) as triton:
        infer(triton, 4)
        infer(triton, 4)
        doomed.kill()
        for _ in range(4):
            np.testing.assert_array_equal(infer(triton, 4), given(4))


def test_a_pod_killed_amid_a_call_is_not_missed(pods: list[Tritonserver], doomed: Tritonserver) -> None:
    with client(doomed.address, pods[0].address) as triton:
        killer = threading.Timer(SLEEP_SECONDS / 3, doomed.kill)
        killer.start()
        np.testing.assert_array_equal(infer(triton, SLEEP), given(SLEEP))
        killer.join(30)


def test_a_crashed_model_shows_in_an_inference_alone(pods: list[Tritonserver], doomed: Tritonserver) -> None:
    assert answers_inference(doomed.address)
    with client(doomed.address, attempts=1) as triton, pytest.raises((Unavailable, Internal)):
        infer(triton, CRASH)
    with InferenceServerClient(doomed.address) as admin:
        assert admin.is_server_ready(client_timeout=10)
        assert admin.is_model_ready("light", client_timeout=10)
    assert not answers_inference(doomed.address)
    with client(doomed.address, pods[0].address) as triton:
        np.testing.assert_array_equal(infer(triton, 4), given(4))
    with client(doomed.address, attempts=2) as triton, pytest.raises(Unavailable) as raised:
        infer(triton, 4)
    assert (raised.value.reason, raised.value.metadata["pod"]) == ("TRITON_UNAVAILABLE", doomed.address)


class AbandonedError(Exception):
    pass


def raise_when(event: threading.Event) -> Callable[[], None]:
    def look() -> None:
        if event.is_set():
            raise AbandonedError

    return look


def test_cancelling_reaches_the_server(doomed: Tritonserver, tmp_path: Path) -> None:
    """One instance: the first call is kept in it, the second waits behind it, and so does the third until cancelled."""
    cancelled = threading.Event()

    def cancel_the_third() -> None:
        wait_until(lambda: metric(doomed, PENDING, model="light") >= 2)
        cancelled.set()

    with client(doomed.address, call_seconds=120.0) as triton:
        others = [begun(lambda: infer(triton, GATE))]
        wait_until(lambda: GATE in order(doomed))
        others.append(begun(lambda: infer(triton, 20)))
        wait_until(lambda: metric(doomed, PENDING, model="light") >= 1)
        others.append(begun(cancel_the_third))
        with calling(Call(raise_when(cancelled))), pytest.raises(AbandonedError):
            infer(triton, 21)
        (tmp_path / "gate").touch()
        for thread in others:
            thread.join(60)
        wait_until(lambda: metric(doomed, "nv_inference_request_failure", model="light", reason="CANCELED") == 1)
        np.testing.assert_array_equal(infer(triton, 4), given(4))
    assert order(doomed)[-3:] == [GATE, 20, 4]


def test_a_running_call_is_abandoned_at_once_and_its_memory_let_go_once_it_has_ended(
    doomed: Tritonserver, tmp_path: Path
) -> None:
    cancelled = threading.Event()

    def cancel() -> None:
        wait_until(lambda: GATE in order(doomed))
        cancelled.set()

    with client(doomed.address, call_seconds=120.0) as triton:
        thread = begun(cancel)
        with calling(Call(raise_when(cancelled))), pytest.raises(AbandonedError):
            infer(triton, GATE)
        thread.join(60)
        wait_until(lambda: not own_memory())
        assert not (tmp_path / "gate").exists(), "the server is at it yet"
        assert regions_of(doomed), "and writes into its own mapping"
        time.sleep(1.0)
        (tmp_path / "gate").touch()
        wait_until(lambda: not regions_of(doomed))


def begun(work: Callable[[], object]) -> threading.Thread:
    thread = threading.Thread(target=work)
    thread.start()
    return thread


def test_the_more_urgent_overtakes_on_the_server(doomed: Tritonserver, tmp_path: Path) -> None:
    """Its one instance is kept at work while three wait, the most urgent one the last to come."""
    batch, standard, interactive = 20, 21, 22
    with client(doomed.address, call_seconds=120.0) as triton:

        def call(length: int, priority: int) -> threading.Thread:
            def run() -> None:
                with calling(Call(priority=priority)):
                    infer(triton, length)

            return begun(run)

        threads = [call(GATE, 2)]
        wait_until(lambda: GATE in order(doomed))
        for length, priority in ((batch, 3), (standard, 2), (interactive, 1)):
            waiting = len(threads)
            threads.append(call(length, priority))
            wait_until(lambda least=waiting: metric(doomed, PENDING, model="light") >= least)
        (tmp_path / "gate").touch()
        for thread in threads:
            thread.join(60)
    assert order(doomed)[-4:] == [GATE, interactive, standard, batch]


def test_a_call_has_a_deadline(pods: list[Tritonserver]) -> None:
    with client(pods[0].address, call_seconds=0.3, attempts=1) as triton, pytest.raises(Unavailable) as raised:
        infer(triton, SLEEP)
    assert raised.value.reason == "TRITON_UNAVAILABLE"


def test_nobody_there(pods: list[Tritonserver]) -> None:
    (port,) = free_ports(1)
    with client(f"127.0.0.1:{port}", attempts=2) as triton, pytest.raises(Unavailable) as raised:
        infer(triton, 4)
    assert raised.value.metadata == {"pod": f"127.0.0.1:{port}", "model": "light"}


def test_a_model_that_is_not_there(pods: list[Tritonserver]) -> None:
    with client(pods[0].address, attempts=2) as triton, pytest.raises(FailedPrecondition, match="python -m deploy"):
        infer(triton, 4, model="heavy")


def test_inputs_that_do_not_fit_are_not_tried_again(pods: list[Tritonserver]) -> None:
    wrong = given(4).astype(np.int64)
    with client(*(pod.address for pod in pods)) as triton, pytest.raises(FailedPrecondition) as raised:
        triton.infer("light", {"given": wrong}, {"same": (wrong.shape, np.dtype("float32"))})
    assert raised.value.reason == "TRITON_REFUSED"


def test_what_no_message_can_hold_is_refused_before_it_is_made(pods: list[Tritonserver]) -> None:
    """513 frames of 720p as float32, for example."""
    before = len(order(pods[0]))
    frames = (1, 3, 513, 720, 1280)
    with client(pods[0].address, shared_memory=False) as triton, pytest.raises(FailedPrecondition) as raised:
        triton.infer("light", {"given": given(4)}, {"same": (frames, np.dtype("float32"))})
    assert raised.value.reason == "TRITON_TOO_LARGE"
    assert "shorter video" in str(raised.value)
    assert len(order(pods[0])) == before


def test_an_input_that_a_model_has_not_is_told_from_others(pods: list[Tritonserver]) -> None:
    """Nothing is answered as if it were not there."""
    array = given(4)
    inputs = {"given": array, "lora": np.zeros((2, 48), np.uint8)}
    for given_beside in ({}, {"more": np.zeros((2, 3), np.uint8)}):
        with client(pods[0].address) as triton, pytest.raises(FailedPrecondition, match="lora") as raised:
            triton.infer("light", inputs | given_beside, {"same": (array.shape, array.dtype)})
        assert raised.value.reason == "TRITON_INPUT_UNKNOWN"


class Further:
    """What is sent when a model asks for it."""

    def __init__(self, length: int = 5, error: Exception | None = None) -> None:
        self.asked, self._length, self._error = 0, length, error

    def __call__(self) -> dict[str, NDArray[np.uint8]]:
        self.asked += 1
        if self._error is not None:
            raise self._error
        return {"more": np.zeros((2, self._length), np.uint8)}


@pytest.mark.parametrize("shared_memory", [True, False])
def test_further_inputs_are_sent_when_the_model_asks_for_them(pods: list[Tritonserver], shared_memory: bool) -> None:
    further, array = Further(3_000_000), given(ASK)
    with client(pods[0].address, shared_memory=shared_memory, attempts=1) as triton:
        for length, asked in ((4, 0), (ASK, 1)):
            array = given(length)
            same = triton.infer("light", {"given": array}, {"same": (array.shape, array.dtype)}, further)
            np.testing.assert_array_equal(same["same"], array)
            assert further.asked == asked
        assert sum(path.stat().st_size for path in own_memory()) < 3_000_000
    assert order(pods[0])[-4:] == [4, ASK, ASK, 3_000_000]


def test_what_cannot_be_sent_is_raised(pods: list[Tritonserver]) -> None:
    array = given(ASK)
    call = "light", {"given": array}, {"same": (array.shape, array.dtype)}
    with client(*(pod.address for pod in pods)) as triton:
        with pytest.raises(FailedPrecondition, match="gone"):
            triton.infer(*call, Further(error=FailedPrecondition("gone", reason="ARTIFACT_MISSING")))
        with pytest.raises(FailedPrecondition, match="more is wanted"):
            triton.infer(*call)


def test_a_model_that_raises_is_our_fault(pods: list[Tritonserver]) -> None:
    with client(pods[0].address, attempts=1) as triton, pytest.raises(Internal, match="as asked"):
        infer(triton, RAISE)


def test_no_address_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one address"):
        Triton([])
