"""The doctor, called as a person calls it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from click.testing import CliRunner

from client.cli import main

PREFIX = "SOUNDSTAGE_GATEWAY_"


@dataclass(frozen=True)
class Report:
    exit_code: int
    output: str

    def __getitem__(self, check: str) -> dict[str, Any]:
        return next(one for one in self.checks if one["check"] == check)

    @property
    def checks(self) -> list[dict[str, Any]]:
        checks: list[dict[str, Any]] = json.loads(self.output)["checks"]
        return checks

    def levels(self, level: str) -> list[str]:
        return [one["check"] for one in self.checks if one["level"] == level]


def examine(*arguments: str | Path, **settings: str) -> Report:
    environment = {f"{PREFIX}{name.upper()}": value for name, value in settings.items()}
    result = CliRunner().invoke(main, ["doctor", "--json", *map(str, arguments)], env=environment)
    assert result.exit_code in (0, 1), result.output
    return Report(result.exit_code, result.stdout)
