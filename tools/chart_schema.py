"""Writes what may stand in `settings` of the chart's values: the fields of each service's real settings class.

`python -m tools.chart_schema` after a change of settings; a test compares. The rest of the schema is written by hand.
"""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from typing import Any

SCHEMA = Path(__file__).resolve().parent.parent / "deploy/helm/soundstage/values.schema.json"
SERVICES = ("gateway", "encoder", "denoiser", "audio", "muxer")
WIRED = frozenset(
    {
        "artifacts_url",
        "grace_seconds",
        "grpc_port",
        "host",
        "log_level",
        "metrics_port",
        "models_dir",
        "otlp_endpoint",
        "pod_name",
        "trace_ratio",
    }
)
"""Of every service: other keys of the values say these. So do keys for whatever has one of the beginnings."""
WIRED_BEGINNINGS = ("s3_", "tls_")
WIRED_TRITON = ("triton_addresses", "steps_at_once")
"""Of the denoiser and the muxer: the pools' `models` and `denoiser.videosPerReplica` say it."""
WIRED_GATEWAY = frozenset({"api_keys", "database_url", "default_model", "max_concurrent_stages", "role", "tenant"})
WIRED_GATEWAY_BEGINNINGS = (
    "demand_clear_seconds",
    "demand_seconds_per_unit",
    "oidc_",
    "stages_",
    "temporal_address",
    "temporal_namespace",
    "temporal_task_queue",
)
FOR_PEOPLE = ("default", "description", "format", "title", "writeOnly")


def settings_class(service: str) -> Any:  # noqa: ANN401 (classes of five services)
    return getattr(importlib.import_module(f"services.{service}.settings"), f"{service.capitalize()}Settings")


def is_wired(service: str, field: str) -> bool:
    """Whether the chart itself says the field."""
    if field in WIRED or field in WIRED_TRITON or field.startswith(WIRED_BEGINNINGS):
        return True
    is_address = field.endswith("_address") or field.startswith(WIRED_GATEWAY_BEGINNINGS)
    return service == "gateway" and (field in WIRED_GATEWAY or is_address)


def settings_schema(service: str) -> dict[str, Any]:
    fields = settings_class(service).model_json_schema()["properties"]
    free = {field: _rule(schema) for field, schema in sorted(fields.items()) if not is_wired(service, field)}
    return {"type": "object", "additionalProperties": False, "properties": free}


def _rule(schema: dict[str, Any]) -> dict[str, Any]:
    """Without what is only for people, and without null: what is unset is left out."""
    rule = {key: value for key, value in schema.items() if key not in FOR_PEOPLE}
    if choices := rule.pop("anyOf", None):
        (choice,) = (choice for choice in choices if choice.get("type") != "null")
        rule |= _rule(choice)
    return rule


def with_settings(schema: dict[str, Any]) -> dict[str, Any]:
    definitions = {f"{service}Settings": settings_schema(service) for service in SERVICES}
    return {**schema, "$defs": {**schema["$defs"], **definitions}}


def text(schema: dict[str, Any]) -> str:
    return json.dumps(schema, indent=2) + "\n"


if __name__ == "__main__":
    SCHEMA.write_text(text(with_settings(json.loads(SCHEMA.read_text(encoding="utf-8")))), encoding="utf-8")
