from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError
from pydantic_settings import SettingsConfigDict

from libs.serving import ServiceSettings


class ExampleSettings(ServiceSettings):
    model_config = SettingsConfigDict(env_prefix="SOUNDSTAGE_EXAMPLE_")


def test_fields_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOUNDSTAGE_EXAMPLE_GRPC_PORT", "50051")
    monkeypatch.setenv("SOUNDSTAGE_EXAMPLE_MODELS_DIR", "/models")
    monkeypatch.setenv("SOUNDSTAGE_EXAMPLE_S3_SECRET_KEY", "hush")
    monkeypatch.setenv("SOUNDSTAGE_OTHER_HOST", "0.0.0.0")
    settings = ExampleSettings()
    assert (settings.grpc_port, settings.models_dir, settings.host) == (50051, Path("/models"), "127.0.0.1")
    assert settings.s3_secret_key.get_secret_value() == "hush"
    assert "hush" not in repr(settings)


def test_the_default_store_is_a_folder_of_this_machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    assert ExampleSettings().artifacts_url == f"file://{tmp_path}/.state/artifacts"


@pytest.mark.parametrize(
    ("name", "value"),
    [("GRPC_PORT", "70000"), ("GRACE_SECONDS", "-1"), ("LOG_LEVEL", "LOUD"), ("MAX_MESSAGE_MIB", "many")],
)
def test_wrong_values_fail_at_start_naming_the_field(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    monkeypatch.setenv(f"SOUNDSTAGE_EXAMPLE_{name}", value)
    with pytest.raises(ValidationError, match=name.lower()):
        ExampleSettings()


def test_settings_do_not_change() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        ExampleSettings().host = "elsewhere"
