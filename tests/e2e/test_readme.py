"""The Python of the README does what it says."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from deploy.local.plan import REPOSITORY
from tests.e2e.film import read_film
from tests.e2e.studio import Studio

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]


def test_the_call_from_code_makes_a_video(studio: Studio, tmp_path: Path) -> None:
    (code,) = re.findall(r"```python\n(.*?)```", (REPOSITORY / "README.md").read_text(), re.DOTALL)
    (tmp_path / ".state").symlink_to(studio.state.folder)
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=240, check=False
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.splitlines()[-1].startswith("100%")
    assert len(read_film(tmp_path / "waves.mp4").frames) == 24
    assert (tmp_path / "waves.jpg").is_file()
