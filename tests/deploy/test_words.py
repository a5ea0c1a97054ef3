"""What the chart says in words, in its notes, its README and its comments, is there: values, commands, metrics."""

from __future__ import annotations

import importlib.util
import json
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from client.cli import main
from tests.deploy.rendering import CHART
from tests.deploy.test_monitoring import alerts, exported

ROOT = CHART.parents[2]
PAGES = [CHART / "templates/NOTES.txt", CHART / "README.md", *sorted(CHART.glob("values*.yaml"))]
SCHEMA = json.loads((CHART / "values.schema.json").read_text())
OTHER_ENDINGS = (".yaml", ".py", ".json", ".crt", ".key", ".example")
"""Of files, of keys of a secret, and of hosts."""


def paths(text: str) -> Iterator[str]:
    """`a.b[].c` whose `a` is a key of the values: as words, of --set, and of .Values."""
    tops = "|".join(SCHEMA["properties"])
    for found in re.finditer(rf"(?<![\w/.-])(?:\.Values\.)?((?:{tops})(?:\.\*|\.\w+|\[\])+)(?![\w/(-])", text):
        if not found[1].endswith(OTHER_ENDINGS):
            yield found[1]


def is_a_value(path: str) -> bool:
    nodes = [SCHEMA]
    for part in path.replace("[]", ".*").split("."):
        nodes = [below for node in nodes for below in _below(node, part)]
    return bool(nodes)


def _below(node: dict[str, Any], part: str) -> list[dict[str, Any]]:
    while "$ref" in node:
        node = SCHEMA["$defs"][node["$ref"].rpartition("/")[2]]
    further = [one for one in (node.get("items"), node.get("additionalProperties")) if isinstance(one, dict)]
    named = node.get("properties", {})
    return [*named.values(), *further] if part == "*" else [named[part]] if part in named else further


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_value_that_is_named_is_one(page: Path) -> None:
    assert [path for path in paths(page.read_text()) if not is_a_value(path)] == []


@cache
def help_of(command: str) -> str:
    return CliRunner().invoke(main, [*command.split(), "--help"], catch_exceptions=False).output


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_command_that_is_named_is_one(page: Path) -> None:
    text = page.read_text()
    for line in text.splitlines():
        for command, rest in re.findall(r"(?:^|[`(] *|  )soundstage ((?:models )?[a-z]{4,})\b(?!\S*/)([^`#]*)", line):
            said = help_of(command)
            assert said.startswith(f"{'usage' if 'models' in command else 'Usage'}: "), line
            assert f"soundstage {command}" in said or f"main {command}" in said, line
            assert [option for option in re.findall(r"--[a-z-]+", rest) if option not in said] == [], line
    modules = re.findall(r"python -m ([a-z_.]+\w)", text)
    assert [module for module in modules if importlib.util.find_spec(module) is None] == []
    targets = re.findall(r"^([a-z0-9-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert [target for target in re.findall(r"`make ([a-z-]+)", text) if target not in targets] == []


def test_every_metric_and_alert_of_the_readme_is_one() -> None:
    text = (CHART / "README.md").read_text()
    names = [re.sub("_(bucket|sum|count)$", "", name) for name in exported()]
    table = re.findall(r"`((?:soundstage_)?(?:gateway|encoder|denoiser|audio|muxer|grpc_server)_\w+)`", text)
    assert len(table) > 10
    written = [re.sub("_(bucket|sum|count)$", "", name) for name in table]
    assert [name for name in written if name not in names and f"soundstage_{name}" not in names] == []
    assert set(re.findall(r"`(Soundstage[A-Z]\w+)`", text)) <= {alert["alert"] for alert in alerts()}


def test_the_checks_see_mistakes() -> None:
    text = "`triton.pools[].modells`, `s3.endpoint`, --set 'models.fetched={}', {{ .Values.tls.outer.enabled }}"
    named = list(paths(text))
    assert named == ["triton.pools[].modells", "s3.endpoint", "models.fetched", "tls.outer.enabled"]
    assert [is_a_value(path) for path in named] == [False, True, False, False]
    assert is_a_value("networkPolicy.*.to")
    assert not is_a_value("autoscaling.*.from")
    assert not help_of("models prunes").startswith("usage: ")
