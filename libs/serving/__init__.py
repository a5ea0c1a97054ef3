"""What every service shares: start and stop, errors, validation, health, telemetry, stage work, calling channel."""

from libs.serving.channel import open_channel
from libs.serving.interceptors import InvalidMessage
from libs.serving.server import Endpoint, RunningServer, running, serve
from libs.serving.settings import ServiceSettings
from libs.serving.stage import Cancelled, Done, Heartbeat, Progress, RecordingStage, Stage, run_stage
from libs.serving.status import error_from_rpc, status_of
from libs.serving.telemetry import configure_logging

__all__ = [
    "Cancelled",
    "Done",
    "Endpoint",
    "Heartbeat",
    "InvalidMessage",
    "Progress",
    "RecordingStage",
    "RunningServer",
    "ServiceSettings",
    "Stage",
    "configure_logging",
    "error_from_rpc",
    "open_channel",
    "run_stage",
    "running",
    "serve",
    "status_of",
]
