"""One stack for all tests here: Temporal and the five services as processes of their own, on free ports."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from client import SoundstageClient
from deploy.local.plan import MODELS
from deploy.local.stack import start_stack, stop_stack
from deploy.local.state import State
from tests.e2e.film import Film, read_film
from tests.e2e.studio import SERVICES, Made, Studio


@pytest.fixture(scope="session")
def models_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The committed models; while Diorama has no transformer, a copy with an untrained one."""
    if (MODELS / "diorama" / "transformer").is_dir():
        return MODELS
    folder = tmp_path_factory.mktemp("models")
    shutil.copytree(MODELS, folder, dirs_exist_ok=True)
    _write_untrained(folder / "diorama")
    return folder


@pytest.fixture(scope="session")
def studio(models_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Studio]:
    state = State(tmp_path_factory.mktemp("stack"))
    with pytest.MonkeyPatch.context() as environment:
        for name in SERVICES:
            environment.setenv(f"SOUNDSTAGE_{name.upper()}_MODELS_DIR", str(models_dir))
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


def _write_untrained(model: Path) -> None:
    import torch
    from diffusers import FlowMatchEulerDiscreteScheduler, SanaVideoTransformer3DModel

    with torch.random.fork_rng():
        torch.manual_seed(0)
        transformer = SanaVideoTransformer3DModel(
            in_channels=110,
            out_channels=48,
            num_attention_heads=2,
            attention_head_dim=12,
            num_layers=2,
            num_cross_attention_heads=2,
            cross_attention_head_dim=12,
            cross_attention_dim=24,
            caption_channels=384,
            mlp_ratio=2.0,
            patch_size=(1, 2, 2),
            rope_max_seq_len=64,
        )
    transformer.save_pretrained(model / "transformer")
    FlowMatchEulerDiscreteScheduler(shift=3.0).save_pretrained(model / "scheduler")
