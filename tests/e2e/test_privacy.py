"""What people ask for is in no log of any service, and not in what runs the workflows."""

from __future__ import annotations

from contextlib import suppress

import pytest

from client.errors import SoundstageRpcError
from tests.e2e.studio import SERVICES, Studio

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]

MARKER = "zanzibarquince"


def test_no_log_holds_a_prompt(studio: Studio) -> None:
    studio.make(f"a fire of {MARKER} wood", negative_prompt=f"{MARKER} smoke")
    with suppress(SoundstageRpcError):  # on a busy machine it may take too long, and must be as silent then
        studio.client.analyze(f"a fire of {MARKER} wood")
    for prompt in (f"{MARKER} porn", MARKER * 200):
        with pytest.raises(SoundstageRpcError):
            studio.order(prompt)
    logs = {path.name: path.read_bytes() for path in studio.state.logs.iterdir() if path.is_file()}
    assert {f"{name}.log" for name in SERVICES} <= logs.keys()
    assert all(logs[f"{name}.log"] for name in SERVICES)
    assert [name for name, content in logs.items() if MARKER.encode() in content] == []
    workflows = studio.state.workflows
    files = [path for path in workflows.parent.iterdir() if path.name.startswith(workflows.name)]
    assert workflows in files
    assert [path.name for path in files if MARKER.encode() in path.read_bytes()] == []
