import io
import json
from datetime import datetime
from pathlib import Path

from rich.console import Console

from bench.results import Figure, Results, show, write

RESULTS = Results(
    [Figure("all_stages.work", 41.23456789, "s", "≤ 60"), Figure("pipeline_over_bare", 1.01, "ratio")],
    {"steps": 25},
)


def test_file_holds_figures_units_machine_and_date(tmp_path: Path) -> None:
    path = write("stages", RESULTS, tmp_path / "results")
    content = json.loads(path.read_text())
    assert path.name == "stages.json"
    assert content["figures"]["all_stages.work"] == {"value": 41.2346, "unit": "s", "aim": "≤ 60"}
    assert content["figures"]["pipeline_over_bare"] == {"value": 1.01, "unit": "ratio"}
    assert content["details"] == {"steps": 25}
    assert content["machine"]["cores"] >= 1
    assert datetime.fromisoformat(content["date"]).tzinfo is not None
    assert "commit" in content


def test_a_repeat_replaces_the_file_and_leaves_nothing_else(tmp_path: Path) -> None:
    write("stages", Results([Figure("old", 1.0, "s")]), tmp_path)
    write("stages", RESULTS, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["stages.json"]
    assert "old" not in json.loads((tmp_path / "stages.json").read_text())["figures"]


def test_a_result_that_is_no_json_leaves_the_old_file(tmp_path: Path) -> None:
    write("stages", RESULTS, tmp_path)
    before = (tmp_path / "stages.json").read_text()
    try:
        write("stages", Results([], {"bad": object()}), tmp_path)
    except TypeError:
        pass
    else:
        raise AssertionError("an object was written as JSON")
    assert (tmp_path / "stages.json").read_text() == before


def test_table_shows_every_figure() -> None:
    text = io.StringIO()
    show("stages", RESULTS, Console(file=text, width=100))
    for word in ("stages", "all_stages.work", "41.23", "≤ 60", "pipeline_over_bare", "ratio"):
        assert word in text.getvalue()
