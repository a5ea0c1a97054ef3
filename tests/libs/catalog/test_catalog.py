from __future__ import annotations

import json
from pathlib import Path

import pytest

from libs.catalog import Catalog
from libs.errors import NotFound

MODELS = Path(__file__).parents[3] / "models"


def _write(models_dir: Path, folder: str, changes: dict[str, object]) -> None:
    card = json.loads((MODELS / "diorama" / "soundstage.json").read_text(encoding="utf-8"))
    for path, value in changes.items():
        *parents, last = path.split("__")
        part = card
        for parent in parents:
            part = part[parent]
        part[last] = value
    (models_dir / folder).mkdir()
    (models_dir / folder / "soundstage.json").write_text(json.dumps(card), encoding="utf-8")


def test_diorama_is_as_documented() -> None:
    card = Catalog.read(MODELS).get("diorama")
    assert (card.family, card.image_to_video, card.joint_audio) == ("diorama", True, False)
    assert card.defaults.duration_seconds == 5.0
    assert card.limits.sizes == ((256, 256),)
    assert card.path == MODELS / "diorama"


def test_an_unknown_model_is_answered_with_the_known_ones(tmp_path: Path) -> None:
    for name in ("zebra", "alpha"):
        _write(tmp_path, name, {"name": name})
    (tmp_path / "no-model").mkdir()
    catalog = Catalog.read(tmp_path)
    assert catalog.names() == ("alpha", "zebra")
    with pytest.raises(NotFound, match="known models: alpha, zebra") as caught:
        catalog.get("diorama")
    assert (caught.value.reason, caught.value.metadata) == ("MODEL_UNKNOWN", {"model": "diorama"})


def test_an_empty_folder_says_so(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="models folder is empty"):
        Catalog.read(tmp_path).get("diorama")


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"nme": "a"}, "nme"),
        ({"defaults__duration_seconds": 9.0}, "duration_seconds"),
        ({"defaults__width": 512}, "width, height"),
        ({"defaults__fps": 24}, "fps"),
        ({"defaults__num_inference_steps": 101}, "num_inference_steps"),
        ({"limits__sizes": []}, "sizes"),
        ({"name": "other"}, "folder's name"),
        ({"image_to_video": False, "image_required": True}, "image_required"),
    ],
)
def test_a_wrong_card_fails_at_start_naming_file_and_field(tmp_path: Path, changes: dict, complaint: str) -> None:
    _write(tmp_path, "broken", {"name": "broken"} | changes)
    with pytest.raises(ValueError, match=complaint) as caught:
        Catalog.read(tmp_path)
    assert "broken/soundstage.json" in str(caught.value)


@pytest.mark.parametrize("text", ["", "[]", "{"])
def test_a_file_that_is_no_card_is_named(tmp_path: Path, text: str) -> None:
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "soundstage.json").write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match=r"m/soundstage\.json"):
        Catalog.read(tmp_path)
