"""The queries that scale are asked of a real PostgreSQL with the gateway's schema, and its metrics say the same."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from sqlalchemy import delete

from services.gateway.database import Database
from services.gateway.demand import Demand
from services.gateway.metrics import OLDEST_QUEUED, QUEUED, WANTED_PLACES, WANTED_REPLICAS
from services.gateway.tables import AttemptRow, QueueRow, VideoRow
from tests.deploy.rendering import OUTSIDE, TOGGLES, Manifest, merged, of_kind, render
from tests.support.postgres import PostgresServer, postgres_server

__all__ = ["postgres_server"]

NOW = datetime.now(UTC)
CLEAR_SECONDS, SECONDS_PER_UNIT = 60.0, 10.0


async def fill(database: Database) -> None:
    await database.migrate()
    await accept(database, "queued-long", denoise_seconds=300.0)
    await accept(database, "queued-short", denoise_seconds=15.0)
    await accept(database, "queued-unmeasured", cost=3.0)
    await accept(database, "at-work", denoise_seconds=15.0, at_work=True)
    await accept(database, "denoised", denoise_seconds=15.0, at_work=True)
    await attempt(database, "denoised", "denoise", won=1)
    await accept(database, "tried-in-vain", denoise_seconds=15.0, at_work=True)
    await attempt(database, "tried-in-vain", "denoise", won=0)
    await attempt(database, "tried-in-vain", "encode", won=1)
    await accept(database, "of-another-model", model="other", denoise_seconds=30.0)
    await accept(database, "ended", denoise_seconds=900.0, queued=False)


async def accept(
    database: Database,
    video_id: str,
    *,
    model: str = "diorama",
    denoise_seconds: float | None = None,
    cost: float = 1.0,
    at_work: bool = False,
    queued: bool = True,
) -> None:
    expected = {} if denoise_seconds is None else {"encode": 1.0, "denoise": denoise_seconds}
    common = {"video_id": video_id, "tenant": "a", "priority": "STANDARD", "create_time": NOW - timedelta(minutes=2)}
    video = VideoRow(
        **common,
        request_id="",
        request_hash="",
        model=model,
        spec={},
        update_time=NOW,
        expected_seconds=expected,
        state="QUEUED",
        status={},
        sequence=1,
    )
    place = QueueRow(
        **common, due_time=NOW, cost=cost, expected_seconds=sum(expected.values()), admit_time=NOW if at_work else None
    )
    async with database.write() as session:
        session.add(video)
        await session.flush()
        if queued:
            session.add(place)


async def attempt(database: Database, video_id: str, stage: str, *, won: int) -> None:
    row = AttemptRow(
        video_id=video_id,
        stage=stage,
        attempt=f"{stage}-1",
        model="diorama",
        work_units=1.0,
        start_time=NOW,
        outcome="",
        won=won,
        seconds=0.0,
        load_seconds=0.0,
        gpu_seconds=0.0,
        duration_seconds=0.0,
        outputs={},
    )
    async with database.write() as session:
        session.add(row)


WANTED = {
    # queued: 300/60 counts 1, 15/60 and 3*10/60 count their share; at work: two that still have to be denoised.
    "denoiser": 1.0 + 0.25 + 0.5 + 2 + 0.5,
    "of diorama": 1.0 + 0.25 + 0.5 + 2,
    "gateway-worker": 1.0 + 0.25 + 0.5 + 3 + 0.5,
}


def queries(manifests: list[Manifest]) -> dict[str, str]:
    """Name of what is scaled -> SQL, as KEDA gets it."""
    return {
        scaled["spec"]["scaleTargetRef"]["name"].removeprefix("soundstage-"): scaled["spec"]["triggers"][0]["metadata"][
            "query"
        ]
        for scaled in of_kind(manifests, "ScaledObject")
    }


async def test_keda_and_the_metrics_read_the_same_from_postgresql(postgres_server: PostgresServer) -> None:
    url = postgres_server.create("scaling")
    database = Database(url)
    await fill(database)
    keda = merged(OUTSIDE, TOGGLES["scaling"]["keda"])
    plain, pools = queries(render(values=keda)), queries(render(values=merged(keda, TOGGLES["triton"]["pools"])))
    assert set(plain) == {"denoiser", "gateway-worker"}
    assert set(pools) == {"denoiser", "gateway-worker", "triton-small", "triton-large"}
    assert float(postgres_server.sql("scaling", plain["denoiser"])) == WANTED["denoiser"]
    assert float(postgres_server.sql("scaling", plain["gateway-worker"])) == WANTED["gateway-worker"]
    assert float(postgres_server.sql("scaling", pools["triton-small"])) == WANTED["of diorama"]
    await check_metrics(database)
    await database.close()


async def test_a_role_that_may_only_read_is_enough(postgres_server: PostgresServer) -> None:
    database = Database(postgres_server.create("reading"))
    await fill(database)
    await database.close()
    grants = "CREATE ROLE queue_reader LOGIN; GRANT SELECT ON queue, videos, stage_attempts TO queue_reader"
    assert grants.replace("; ", ";\n") in (Path(__file__).parents[2] / "deploy/helm/soundstage/README.md").read_text()
    postgres_server.sql("reading", grants)
    query = queries(render(values=merged(OUTSIDE, TOGGLES["scaling"]["keda"])))["denoiser"]
    assert float(postgres_server.sql("reading", f"SET ROLE queue_reader; {query}")) == WANTED["denoiser"]


async def test_an_empty_queue_wants_nothing(postgres_server: PostgresServer) -> None:
    database = Database(postgres_server.create("empty"))
    await database.migrate()
    await database.close()
    for query in queries(render(values=merged(OUTSIDE, TOGGLES["scaling"]["keda"]))).values():
        assert float(postgres_server.sql("empty", query)) == 0.0


async def test_the_metrics_say_it_on_sqlite_too(tmp_path: Path) -> None:
    database = Database(f"sqlite:///{tmp_path}/gateway.db")
    await fill(database)
    await check_metrics(database)
    await database.close()


async def check_metrics(database: Database) -> None:
    demand = Demand(database, CLEAR_SECONDS, SECONDS_PER_UNIT)
    await demand.show()
    assert WANTED_REPLICAS.labels("diorama")._value.get() == pytest.approx(WANTED["of diorama"])
    assert WANTED_REPLICAS.labels("other")._value.get() == pytest.approx(0.5)
    places = sum(WANTED_PLACES.labels(model)._value.get() for model in ("diorama", "other"))
    assert places == pytest.approx(WANTED["gateway-worker"])
    assert QUEUED.labels("diorama", "STANDARD")._value.get() == 3
    assert OLDEST_QUEUED.labels("diorama", "STANDARD")._value.get() >= 120
    async with database.write() as session:
        await session.execute(delete(QueueRow))
    await demand.show()
    assert QUEUED.labels("diorama", "STANDARD")._value.get() == 0
    assert WANTED_REPLICAS.labels("diorama")._value.get() == 0


@pytest.mark.parametrize("mode", ["keda", "hpa"])
def test_targets_hold_some_replicas_free(mode: str) -> None:
    values = {"autoscaling": {"mode": mode, "queue": {"headroomPercent": 25}}, "denoiser": {"videosPerReplica": 2}}
    manifests = render(values=merged(OUTSIDE, values))
    if mode == "keda":
        (scaled,) = [one for one in of_kind(manifests, "ScaledObject") if one["metadata"]["name"].endswith("denoiser")]
        assert scaled["spec"]["triggers"][0]["metadata"]["targetQueryValue"] == "1.600"
        assert scaled["spec"]["fallback"]["behavior"] == "currentReplicasIfHigher"
        assert scaled["spec"]["minReplicaCount"] == 2
    else:
        scalers = of_kind(manifests, "HorizontalPodAutoscaler")
        (scaled,) = [one for one in scalers if one["metadata"]["name"].endswith("denoiser")]
        (metric,) = scaled["spec"]["metrics"]
        assert metric["external"]["metric"]["name"] == "soundstage_gateway_wanted_replicas"
        assert metric["external"]["target"] == {"type": "AverageValue", "averageValue": "1600m"}


def test_to_zero_only_when_asked_for_and_never_the_workers() -> None:
    manifests = render(values=merged(merged(OUTSIDE, TOGGLES["scaling"]["keda to zero"]), TOGGLES["triton"]["pools"]))
    least = {one["metadata"]["name"]: one["spec"]["minReplicaCount"] for one in of_kind(manifests, "ScaledObject")}
    assert least == {
        "soundstage-denoiser": 2,
        "soundstage-gateway-worker": 2,
        "soundstage-triton-small": 0,
        "soundstage-triton-large": 0,
    }


@pytest.mark.parametrize("mode", ["keda", "hpa"])
def test_what_has_no_replicas_keeps_none_unless_it_follows_the_queue(mode: str) -> None:
    """Kubernetes refuses an HPA on CPU with no replicas at least."""
    keys = ("gatewayApi", "gatewayWorker", "encoder", "denoiser", "audio", "muxer")
    nothing = {key: {"replicas": 0} for key in keys}
    manifests = render(values=merged(OUTSIDE, {"autoscaling": {"mode": mode}, **nothing}))
    scalers = of_kind(manifests, "HorizontalPodAutoscaler", "ScaledObject")
    assert {one["metadata"]["name"] for one in scalers} == {"soundstage-denoiser", "soundstage-gateway-worker"}
    assert all(one["spec"].get("minReplicas", 1) >= 1 for one in scalers)
    replicas = {one["metadata"]["name"]: one["spec"].get("replicas") for one in of_kind(manifests, "Deployment")}
    assert replicas.pop("soundstage-denoiser") is replicas.pop("soundstage-gateway-worker") is None
    assert set(replicas.values()) == {0}


def test_only_the_denoiser_gets_a_token_and_only_to_patch_pods() -> None:
    told = render(values=merged(OUTSIDE, TOGGLES["deletion cost"]["told"]))
    (role,) = (manifest for manifest in told if manifest["kind"] == "Role")
    (binding,) = (manifest for manifest in told if manifest["kind"] == "RoleBinding")
    assert role["rules"] == [{"apiGroups": [""], "resources": ["pods"], "verbs": ["patch"]}]
    assert binding["roleRef"]["name"] == role["metadata"]["name"]
    with_token = {
        manifest["metadata"]["name"]
        for manifest in told
        if manifest["kind"] == "Deployment"
        and any("projected" in volume for volume in manifest["spec"]["template"]["spec"]["volumes"])
    }
    assert with_token == {"soundstage-denoiser"}
    assert not [m for m in render(values=OUTSIDE) if m["kind"] in ("Role", "RoleBinding")]
