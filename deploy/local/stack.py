"""Starts, finds and stops the processes of a plan."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

from deploy.local.health import NotReadyError, is_serving, wait_until
from deploy.local.plan import GRACE_SECONDS as SERVICE_GRACE_SECONDS
from deploy.local.plan import REPOSITORY, TRITON, Planned, plan, triton_memory
from deploy.local.processes import Process, start, stop, tail
from deploy.local.state import State

__all__ = ["GRACE_SECONDS", "READY_SECONDS", "answers", "is_up", "start_stack", "stop_stack"]

# On a slow disk, importing torch and reading a model takes most of a minute, and four services do it on the same cores.
READY_SECONDS = 480.0
# After its calls' grace a service has as long to end its work, or the gateway its worker, as it has in a pod.
GRACE_SECONDS = SERVICE_GRACE_SECONDS + 20.0
# While nothing is at work yet: one that loads a model hears of the end only after that.
STARTING_GRACE_SECONDS = 10.0
TEMPORAL = "temporal"
TEMPORAL_HEALTH = "temporal.api.workflowservice.v1.WorkflowService"

Say = Callable[[str], None]
Planner = Callable[[State, Mapping[str, str], bool], list[Planned]]


def is_up(state: State) -> bool:
    """All its processes live and the gateway answers."""
    processes = state.processes()
    if not state.address or not processes or not all(process.is_alive() for process in processes):
        return False
    return is_serving(processes[-1].port)


def answers(process: Process) -> bool:
    if process.name == TRITON:
        from deploy.triton.ready import answers_inference  # only who asks for Triton needs its client

        return answers_inference(f"127.0.0.1:{process.port}")
    return is_serving(process.port, TEMPORAL_HEALTH if process.name == TEMPORAL else "")


def start_stack(state: State, *, end_with_parent: bool, say: Say, triton: bool = False, planned: Planner = plan) -> str:
    """Starts everything that is ``planned``, with ``triton`` a tritonserver too. Returns the gateway's address.

    Nothing is left running where that fails. Raises NotReadyError with the end of the log of the process that is to
    blame. Stale processes are stopped first.
    """
    state.make_folders()
    stop_stack(state)
    parts = planned(state, os.environ, triton)
    running: list[Process] = []
    try:
        for part in parts:
            _wait_for([process for process in running if process.name in part.needs], running)
            running.append(_start(part, state, end_with_parent))
            state.write_processes(running)  # at once: whatever happens now, `down` finds them
        say(f"starting {', '.join(process.name for process in running)}")
        _wait_for(running, running, say)
    except BaseException:
        stop_stack(state, grace_seconds=STARTING_GRACE_SECONDS)
        raise
    address = f"127.0.0.1:{running[-1].port}"
    state.write_address(address)
    return address


def stop_stack(state: State, grace_seconds: float = GRACE_SECONDS) -> list[str]:
    """Stops what was started, also by a run that is long gone. Returns the names of those that had to be killed."""
    processes = state.processes()
    temporal = [process for process in processes if process.name == TEMPORAL]
    services = [process for process in processes if process.name != TEMPORAL]
    killed = stop(services, grace_seconds=grace_seconds)
    # Last: with a worker's long poll still open, it waits some 9 s for it.
    killed += stop(temporal, grace_seconds=grace_seconds)
    if any(process.name == TRITON for process in processes):
        _remove_triton_memory(state)
    state.forget()
    return killed


def _remove_triton_memory(state: State) -> None:
    from deploy.triton.server import remove_leftovers  # only who asked for Triton needs its client

    remove_leftovers(triton_memory(state))


def _start(part: Planned, state: State, end_with_parent: bool) -> Process:
    log = state.logs / f"{part.name}.log"
    return start(
        part.name,
        part.command,
        part.environment,
        folder=REPOSITORY,
        port=part.port,
        log=log,
        end_with_parent=end_with_parent,
    )


def _wait_for(processes: Sequence[Process], all_running: Sequence[Process], say: Say | None = None) -> None:
    deadline = time.monotonic() + READY_SECONDS
    for process in processes:
        if not wait_until(partial(answers, process), deadline=deadline, check_alive=lambda: _check_alive(all_running)):
            raise NotReadyError(f"{process.name} was not ready after {READY_SECONDS:g} s{_log_of(process)}")
        if say is not None:
            say(f"{process.name} is ready")


def _check_alive(processes: Sequence[Process]) -> None:
    for process in processes:
        if not process.is_alive():
            raise NotReadyError(f"{process.name} ended while it started{_log_of(process)}")


def _log_of(process: Process) -> str:
    return f"; the end of {process.log}:\n\n{tail(Path(process.log))}\n"
