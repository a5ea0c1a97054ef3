from __future__ import annotations

import libs.errors
from libs.errors import FieldViolation, InvalidRequest, NotFound, SoundstageError


def test_every_error_is_exported_and_drawn() -> None:
    classes = {name for name, thing in vars(libs.errors).items() if isinstance(thing, type)}
    errors = {name for name in classes if issubclass(getattr(libs.errors, name), SoundstageError)}
    assert errors <= set(libs.errors.__all__)
    assert all(name in (libs.errors.__doc__ or "") for name in errors)


def test_reason_and_metadata_are_for_machines() -> None:
    error = NotFound("model 'x' is not known", reason="MODEL_UNKNOWN", model="x")
    assert (str(error), error.reason, error.metadata) == ("model 'x' is not known", "MODEL_UNKNOWN", {"model": "x"})


def test_an_invalid_request_tells_all_its_violations() -> None:
    error = InvalidRequest(FieldViolation("spec.prompt", "is empty"), FieldViolation("spec.fps", "must be 12"))
    assert str(error) == "spec.prompt: is empty; spec.fps: must be 12"
    assert error.reason == "INVALID_FIELD"
