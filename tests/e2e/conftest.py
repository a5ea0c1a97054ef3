"""One stack for all tests here: Temporal and the five services as processes of their own, on free ports."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from client import SoundstageClient
from deploy.local.stack import start_stack, stop_stack
from deploy.local.state import State
from tests.e2e.film import Film, read_film
from tests.e2e.studio import SERVICES, Made, Studio


@pytest.fixture(scope="session")
def studio(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Studio]:
    state = State(tmp_path_factory.mktemp("stack"))
    address = start_stack(state, end_with_parent=True, say=lambda _: None)
    try:
        with SoundstageClient(address) as client:
            yield Studio(state, client, client.models()[0], tmp_path_factory.mktemp("films"))
    finally:
        stop_stack(state)
    unclean = [name for name in SERVICES if '"stopped"' not in (state.logs / f"{name}.log").read_text()]
    assert unclean == [], "every service stops in an orderly way when it is asked to"


@pytest.fixture(scope="session")
def made(studio: Studio) -> Made:
    """The video that most tests look at."""
    return studio.make()


@pytest.fixture(scope="session")
def film(made: Made) -> Film:
    return read_film(made.path)
