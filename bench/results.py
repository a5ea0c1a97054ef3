"""What a benchmark hands back, the file it is written to and the table it is shown as."""

from __future__ import annotations

import json
import os
import platform
import subprocess
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

REPOSITORY = Path(__file__).parent.parent


@dataclass(frozen=True)
class Figure:
    name: str
    value: float
    unit: str
    """"s", "MiB", "ratio", "share" (0 to 1), "count"."""
    aim: str = ""
    """For people, for example "≤ 60"; empty where nothing is aimed at."""


@dataclass(frozen=True)
class Results:
    """``details``: whatever JSON holds, for who wants to look behind the figures."""

    figures: Sequence[Figure]
    details: dict[str, Any] = field(default_factory=dict)


def write(name: str, results: Results, folder: Path) -> Path:
    """Writes ``folder/name.json``, replacing an older one only when it is complete."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.json"
    content = {
        "name": name,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": commit(),
        "machine": machine(),
        "figures": {figure.name: _entry(figure) for figure in results.figures},
        "details": results.details,
    }
    part = path.with_suffix(".part")
    part.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n")
    part.replace(path)
    return path


def show(name: str, results: Results, console: Console) -> None:
    table = Table("figure", "value", "unit", "aim", title=name, title_justify="left", box=None, pad_edge=False)
    table.columns[1].justify = "right"
    for figure in results.figures:
        table.add_row(figure.name, f"{figure.value:.4g}", figure.unit, figure.aim)
    console.print(table)


def commit() -> str:
    """The commit that was measured, with "+" when files differ from it; empty outside a clone."""
    try:
        head = _git("rev-parse", "--short=12", "HEAD")
        return head + ("+" if _git("status", "--porcelain", "--untracked-files=no", "--", ":!bench/results") else "")
    except (OSError, subprocess.SubprocessError):
        return ""


def machine() -> dict[str, Any]:
    """Cores that this process may use, the processor's name, and the load that other work put on it at the end."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return {
        "cores": cores,
        "processor": _processor(),
        "memory_gib": round(memory, 1),
        "system": platform.system(),
        "load_average_1_minute": round(os.getloadavg()[0], 2),
    }


def _entry(figure: Figure) -> dict[str, Any]:
    entry = asdict(figure)
    entry.pop("name")
    entry["value"] = float(f"{figure.value:.6g}")
    return entry if figure.aim else {"value": entry["value"], "unit": figure.unit}


def _git(*arguments: str) -> str:
    command = ["git", *arguments]
    return subprocess.run(
        command, cwd=REPOSITORY, capture_output=True, text=True, check=True, timeout=20
    ).stdout.strip()


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    for line in info.read_text().splitlines() if info.exists() else ():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
