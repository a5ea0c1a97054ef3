"""Every instrument that the gateway emits."""

from __future__ import annotations

from prometheus_client import Counter, Gauge, Histogram

from services.gateway.video import State

VIDEOS_ACCEPTED = Counter("soundstage_gateway_videos_accepted_total", "Videos accepted.")
VIDEOS_ENDED = Counter("soundstage_gateway_videos_ended_total", "Videos that reached a terminal state.", ["state"])
for _ended in (State.SUCCEEDED, State.FAILED, State.CANCELLED):
    VIDEOS_ENDED.labels(_ended.value)  # from 0 on: a series that begins with 1 has not increased, for Prometheus
COST = Counter(
    "soundstage_gateway_cost_credits_total",
    "What videos that reached a terminal state cost in the end, in credits; nothing where nobody is charged.",
    ["model", "state"],
)
STAGE_SECONDS = Histogram(
    "soundstage_gateway_stage_seconds",
    "Seconds of a stage's successful attempt, as the gateway saw it.",
    ["stage"],
    buckets=(0.1, 0.3, 1, 3, 10, 30, 60, 120, 300, 900, 3600),
)
STAGE_GPU_SECONDS = Counter(
    "soundstage_gateway_stage_gpu_seconds_total",
    "Seconds for which a model's networks ran in successful attempts of a stage.",
    ["stage", "model"],
)
STAGE_ATTEMPTS = Counter(
    "soundstage_gateway_stage_attempts_total", "Attempts of stages, by how they ended.", ["stage", "outcome"]
)
ADMITTED = Counter("soundstage_gateway_admitted_videos_total", "Videos that were given a place, and may begin.")
WATCHERS = Gauge("soundstage_gateway_watchers_videos", "WatchVideo streams that are open.")
PROMPTS_REJECTED = Counter(
    "soundstage_gateway_prompts_rejected_total", "Prompts that the safety policy refused.", ["category"]
)
COLLECTED_FILES = Counter("soundstage_gateway_collected_files_total", "Files deleted after their time.", ["why"])
COLLECTED_BYTES = Counter("soundstage_gateway_collected_bytes_total", "Bytes deleted after their time.", ["why"])
FORGOTTEN = Counter("soundstage_gateway_forgotten_videos_total", "Records of videos deleted after their time.")
SWEPT = Counter(
    "soundstage_gateway_swept_videos_total", "Videos that the sweeper had to set right, by what it did.", ["action"]
)
_LANE = ["model", "priority"]
QUEUED = Gauge("soundstage_gateway_queued_videos", "Videos that wait for a place. The same from each worker.", _LANE)
AT_WORK = Gauge("soundstage_gateway_at_work_videos", "Videos that have a place. The same from each worker.", _LANE)
OLDEST_QUEUED = Gauge("soundstage_gateway_oldest_queued_seconds", "How long a video has waited at most.", _LANE)
_STAGE = ["stage", "priority"]
STAGE_VIDEOS = Gauge(
    "soundstage_gateway_stage_videos", "Videos at work, by the stage they are in. The same from each worker.", _STAGE
)
STAGE_OLDEST = Gauge(
    "soundstage_gateway_stage_oldest_seconds", "How long ago the newest attempt of a stage began, at most.", _STAGE
)
WANTED_REPLICAS = Gauge(
    "soundstage_gateway_wanted_replicas", "Videos that should be at work and still need denoising.", ["model"]
)
WANTED_PLACES = Gauge("soundstage_gateway_wanted_places", "Videos that should be at work.", ["model"])
QUEUE_READ = Gauge(
    "soundstage_gateway_queue_read_timestamp_seconds",
    "When this worker last read the queue for these figures; 0 where there is none.",
)
_TENANT = "A tenant's videos: those with the most of them by name, the others together."
TENANT_QUEUED = Gauge("soundstage_gateway_tenant_queued_videos", f"{_TENANT} That wait for a place.", ["tenant"])
TENANT_AT_WORK = Gauge("soundstage_gateway_tenant_at_work_videos", f"{_TENANT} That have a place.", ["tenant"])
TENANT_ENDED = Gauge(
    "soundstage_gateway_tenant_ended_videos", f"{_TENANT} That ended within the last hour.", ["tenant", "state"]
)
TENANT_CREDITS = Gauge(
    "soundstage_gateway_tenant_spent_credits",
    f"{_TENANT} Credits of those that ended within the last hour.",
    ["tenant"],
)
TENANT_GPU_SECONDS = Gauge(
    "soundstage_gateway_tenant_gpu_seconds",
    f"{_TENANT} Seconds for which networks ran for those that ended within the last hour.",
    ["tenant"],
)
