from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.tiny_diorama import write_tiny_diorama


@pytest.fixture(scope="session")
def model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_diorama(tmp_path_factory.mktemp("models"))
