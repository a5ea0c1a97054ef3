"""What every service shares: start and stop, errors, validation, admission, health, telemetry, stage work, channels."""

from libs.serving.admission import Admit, caller
from libs.serving.channel import open_channel
from libs.serving.interceptors import InvalidMessage
from libs.serving.passing import in_passing_thread
from libs.serving.pod_cost import telling_pod_cost
from libs.serving.server import Endpoint, RunningServer, running, serve
from libs.serving.settings import ServiceSettings
from libs.serving.stage import Cancelled, Done, Heartbeat, Progress, RecordingStage, Stage, run_stage, stop_stage
from libs.serving.status import error_from_rpc, status_of
from libs.serving.telemetry import configure_logging
from libs.serving.tls import Reloading, TlsFiles
from libs.serving.traces import (
    SpanKind,
    child_of,
    describe,
    event,
    finished_span,
    span,
    trace_metadata,
    traceparent,
    tracing,
)

__all__ = [
    "Admit",
    "Cancelled",
    "Done",
    "Endpoint",
    "Heartbeat",
    "InvalidMessage",
    "Progress",
    "RecordingStage",
    "Reloading",
    "RunningServer",
    "ServiceSettings",
    "SpanKind",
    "Stage",
    "TlsFiles",
    "caller",
    "child_of",
    "configure_logging",
    "describe",
    "error_from_rpc",
    "event",
    "finished_span",
    "in_passing_thread",
    "open_channel",
    "run_stage",
    "running",
    "serve",
    "span",
    "status_of",
    "stop_stage",
    "telling_pod_cost",
    "trace_metadata",
    "traceparent",
    "tracing",
]
