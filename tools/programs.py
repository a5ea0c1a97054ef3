"""Programs that checks need and pip does not install: brought once, kept in the environment, not in the system."""

from __future__ import annotations

import fcntl
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path


def kept(name: str, bring: Callable[[Path], Path]) -> Path:
    """The program `name`. `bring` puts it anywhere below the folder that it is given, and is called once."""
    program = Path(sys.prefix) / "tools" / name
    if not program.exists():
        program.parent.mkdir(exist_ok=True)
        with (program.parent / f"{name}.lock").open("w") as lock:  # two test runs at once
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not program.exists():
                _keep(program, bring)
    return program


def _keep(program: Path, bring: Callable[[Path], Path]) -> None:
    with tempfile.TemporaryDirectory(dir=program.parent) as folder:
        found = bring(Path(folder))
        found.chmod(0o755)
        found.replace(program)
