"""The commands of `docs/gpu-checklist.md`, of which nothing could be run here: each is there and takes its words."""

from __future__ import annotations

import importlib
import re
import shlex
from pathlib import Path

import click
import pytest

ROOT = Path(__file__).resolve().parents[3]
BLOCKS = re.findall(r"```sh\n(.*?)```", (ROOT / "docs" / "gpu-checklist.md").read_text(encoding="utf-8"), re.DOTALL)
LINES = sorted({line.partition("#")[0].strip() for block in BLOCKS for line in block.splitlines()})
MODULES = [line for line in LINES if line.startswith("python -m ")]
FILES = [word for line in LINES for word in shlex.split(line) if word.startswith("deploy/")]


def words_of(line: str, tmp_path: Path) -> tuple[str, list[str]]:
    """Module and arguments, with names of what is there in the place of what a reader would put in."""
    made = tmp_path / "made.safetensors"
    made.touch()
    line = re.sub(r"/r/\w+\.safetensors", str(made), line)
    line = line.replace("s3://…", "s3://bucket").replace("REVISION", "0" * 64)
    _, _, module, *words = shlex.split(line)
    return module, [str(ROOT / word) if word == "models/diorama" else word for word in words]


@pytest.mark.parametrize("line", MODULES)
def test_every_command_of_ours_takes_its_words(line: str, tmp_path: Path) -> None:
    module, words = words_of(line, tmp_path)
    command = importlib.import_module(module).main
    if not isinstance(command, click.Command):  # that of a readiness probe, which takes an address
        assert len(words) == 1
        return
    if isinstance(command, click.Group):
        command = command.commands[words.pop(0)]
    command.make_context(module, words, obj=None)


def test_there_are_commands_and_every_file_they_name() -> None:
    assert len(MODULES) > 15
    assert {"deploy.triton.build", "deploy.triton.measure", "deploy.triton.latents", "deploy.triton.engines"} <= {
        line.split()[2] for line in MODULES
    }
    assert FILES
    assert [name for name in FILES if not (ROOT / name).exists()] == []
