from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from tests.support.tiny_diorama import write_tiny_diorama


@pytest.fixture(scope="session")
def model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_diorama(tmp_path_factory.mktemp("models"))


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where a module's tiny models are written, each once."""
    return tmp_path_factory.mktemp("families")


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """Tiny models: threads would only wait for each other."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
