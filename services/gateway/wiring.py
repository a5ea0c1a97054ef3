"""Which object is given which: the whole of the gateway, built by hand. Used by `__main__.py` and by tests."""

from __future__ import annotations

import asyncio
import logging
import math
import os
import signal
from collections.abc import Coroutine
from contextlib import AsyncExitStack, suppress
from datetime import timedelta
from typing import Any, Protocol

import grpc
from soundstage.video.v1 import video_pb2_grpc as rpc
from temporalio.client import Client
from temporalio.worker import Worker

from libs.artifacts import Store, open_store
from libs.catalog import Catalog
from libs.serving import Endpoint, open_channel
from services.gateway.activities import BEAT_SECONDS, VideoActivities
from services.gateway.admission import Admission
from services.gateway.attempts import Attempts
from services.gateway.changes import Changes
from services.gateway.collectable import Collectable
from services.gateway.collector import Collector
from services.gateway.concepts import Bank, Concepts
from services.gateway.database import Database
from services.gateway.demand import Demand, show_every
from services.gateway.dispatcher import Dispatcher
from services.gateway.door import Door, GuardedDoor, OpenDoor
from services.gateway.embeddings import Embedder, GrpcEmbedder, NoEmbedder
from services.gateway.images import Images
from services.gateway.keys import ApiKeys
from services.gateway.ledger import Ledger
from services.gateway.order import Share
from services.gateway.progressing import Progressing
from services.gateway.prompts import PromptAnalyst
from services.gateway.records import Records
from services.gateway.retention import Retention
from services.gateway.retries import Retries
from services.gateway.runner import TemporalRunner
from services.gateway.safety import NoPolicy, RuleList
from services.gateway.servicer import VideoServicer
from services.gateway.settings import GatewaySettings
from services.gateway.stages import StageChannels, grpc_stages
from services.gateway.standing import Expectations, Standings
from services.gateway.sweeper import Sweeper
from services.gateway.tenants import Allowance, Tenants
from services.gateway.tokens import TokenRules, Tokens
from services.gateway.usage import Usage
from services.gateway.videos import Limits, Videos
from services.gateway.workflow import MakeVideo

SERVICE = "soundstage.video.v1.VideoService"
MAX_CONCURRENT_RECORDINGS = 50
"""Local activities at once: each is one short transaction."""
WORKER_STOP_SECONDS = 15.0
"""Within what a pod has left after its calls' grace."""


logger = logging.getLogger(__name__)


class Gateway:
    """One process of the gateway. `endpoints` are served; `start` and `stop` go around serving them."""

    def __init__(self, settings: GatewaySettings) -> None:
        self._settings = settings
        self._stack = AsyncExitStack()
        self._database = Database(settings.database_url)
        self._tenants = Tenants(self._database, usual_allowance(settings))
        self._records = Records(self._database, Changes(), self._tenants, Ledger(settings.first_credits))
        self._attempts = Attempts(self._database)
        self._admission = Admission(self._database, settings.ageing_seconds, Share(1.0, settings.max_running_videos))
        self._runner = TemporalRunner(
            settings.temporal_address,
            settings.temporal_namespace,
            settings.temporal_task_queue,
            settings.worker_silence_seconds,
            settings.temporal_tls_files,
        )
        self.endpoints = [] if settings.role == "worker" else [self._endpoint()]

    async def start(self) -> None:
        """Migrates, connects, begins to work. When it fails, `stop` puts away what was begun."""
        self._stack.push_async_callback(self._database.close)
        await self._database.migrate()
        client = await self._runner.connect(self._settings.temporal_connect_seconds)
        worker: Worker | None = None
        if self._settings.role != "api":
            dispatcher = self._dispatcher()
            worker = await self._start_worker(client, dispatcher)
            self._start_sweeper()
            self._start_collector()
            self._start_demand()
        if self._settings.temporal_tls_files is not None:
            self._in_background(self._runner.renew(lambda client: _give(worker, client)))

    async def stop(self) -> None:
        await self._stack.aclose()

    def _endpoint(self) -> Endpoint:
        settings = self._settings
        catalog = Catalog.read(settings.models_dir)
        catalog.get(settings.default_model)  # fails at start, not at the first request
        store = open_artifacts(settings)
        limits = Limits(
            default_model=settings.default_model,
            charges_credits=charges_credits(settings),
            url_seconds=settings.url_seconds,
            retention=retention_of(settings),
            watch_silence_seconds=settings.watch_silence_seconds,
            max_watches=settings.max_watches if settings.tells_callers_apart else math.inf,
        )
        analyst = PromptAnalyst(Concepts(Bank.read(), self._embedder()))
        safety = RuleList.read(settings.safety_rules) if settings.safety == "rules" else NoPolicy()
        expectations = Expectations(self._attempts)
        standings = Standings(self._admission, self._records, expectations)
        videos = Videos(
            self._records,
            standings,
            expectations,
            self._runner,
            store,
            catalog,
            Images(),
            analyst,
            safety,
            limits,
        )
        return Endpoint(SERVICE, VideoServicer(videos), rpc.add_VideoServiceServicer_to_server, self._door().admit)

    def _embedder(self) -> Embedder:
        if not self._settings.encoder_address:
            return NoEmbedder()
        channel = _stage_channel(self._settings, self._settings.encoder_address)
        self._stack.push_async_callback(channel.close)
        return GrpcEmbedder(channel, self._settings.analyze_seconds)

    def _door(self) -> Door:
        settings = self._settings
        if not settings.tells_callers_apart:
            return OpenDoor(settings.tenant)
        rules = TokenRules(
            issuer=settings.oidc_issuer,
            audience=settings.oidc_audience,
            algorithms=settings.oidc_algorithms,
            tenant_claim=settings.oidc_tenant_claim,
            jwks_url=settings.oidc_jwks_url,
        )
        keys = ApiKeys(self._database, self._tenants) if settings.api_keys else None
        return GuardedDoor(keys, Tokens(rules) if rules.issuer else None, self._tenants)

    def _dispatcher(self) -> Dispatcher:
        settings = self._settings
        lease_seconds = settings.worker_silence_seconds
        return Dispatcher(self._admission, self._runner, settings.max_concurrent_stages, lease_seconds)

    async def _start_worker(self, client: Client, dispatcher: Dispatcher) -> Worker:
        settings = self._settings
        channels = StageChannels(
            encoder=_stage_channel(settings, settings.encoder_address),
            denoiser=_stage_channel(settings, settings.denoiser_address),
            audio=_stage_channel(settings, settings.audio_address),
            muxer=_stage_channel(settings, settings.muxer_address),
        )
        self._stack.push_async_callback(channels.close)
        stages = grpc_stages(channels, settings.stage_silence_seconds)
        retries = Retries(settings.stage_away_attempts, settings.retry_first_seconds)
        activities = VideoActivities(
            self._records, self._attempts, self._admission, dispatcher, stages, retries, settings.preview_every_steps
        )
        worker = Worker(
            client,
            task_queue=settings.temporal_task_queue,
            workflows=[MakeVideo],
            activities=[
                activities.encode,
                activities.denoise,
                activities.render,
                activities.synthesize,
                activities.mux,
                activities.conclude,
                activities.ask_for_place,
            ],
            max_concurrent_activities=settings.max_concurrent_stages,
            max_concurrent_local_activities=MAX_CONCURRENT_RECORDINGS,
            # A worker that died leaves its workflows to others after this long.
            sticky_queue_schedule_to_start_timeout=timedelta(seconds=min(settings.worker_silence_seconds, 10.0)),
            # Heartbeats bring the news of a cancellation; throttled as by default, it would be 16 s old.
            max_heartbeat_throttle_interval=timedelta(seconds=BEAT_SECONDS),
            default_heartbeat_throttle_interval=timedelta(seconds=BEAT_SECONDS),
            on_fatal_error=_end_process,
        )
        await dispatcher.start()
        self._stack.push_async_callback(worker_stopped, worker, asyncio.create_task(_or_end_process(worker.run())))
        self._stack.push_async_callback(dispatcher.stop)
        self._in_background(dispatcher.run())
        return worker

    def _start_sweeper(self) -> None:
        settings = self._settings
        sweeper = Sweeper(
            self._records, self._attempts, self._runner, settings.sweep_every_seconds, settings.sweep_quiet_seconds
        )
        self._in_background(sweeper.run())

    def _start_collector(self) -> None:
        settings = self._settings
        if settings.collect_every_seconds > 0:
            collector = Collector(Collectable(self._database), open_artifacts(settings), retention_of(settings))
            collecting = collector.run(settings.collect_every_seconds, settings.collect_orphans_every_seconds)
            self._in_background(collecting)

    def _start_demand(self) -> None:
        settings = self._settings
        if settings.demand_every_seconds > 0:
            demand = Demand(self._database, settings.demand_clear_seconds, settings.demand_seconds_per_unit)
            shown = demand.show, Progressing(self._database).show, Usage(self._database).show
            self._in_background(show_every(settings.demand_every_seconds, *shown))

    def _in_background(self, work: Coroutine[Any, Any, None]) -> None:
        """Until the process stops. If the work ends by itself, the process does: half a gateway is worse than none."""
        self._stack.push_async_callback(_cancelled, asyncio.create_task(_or_end_process(work)))


def open_artifacts(settings: GatewaySettings) -> Store:
    return open_store(
        settings.artifacts_url,
        access_key=settings.s3_access_key.get_secret_value(),
        secret_key=settings.s3_secret_key.get_secret_value(),
        public_endpoint=settings.s3_public_endpoint,
        ca=settings.s3_ca,
    )


def retention_of(settings: GatewaySettings) -> Retention:
    return Retention(
        intermediates=timedelta(seconds=settings.keep_intermediates_seconds),
        results=timedelta(seconds=settings.keep_results_seconds),
        unfinished=timedelta(seconds=settings.keep_unfinished_seconds),
        orphans=timedelta(seconds=settings.keep_orphans_seconds),
        records=timedelta(seconds=settings.keep_records_seconds),
    )


def usual_allowance(settings: GatewaySettings) -> Allowance:
    return Allowance(
        max_queued_videos=settings.max_queued_videos,
        max_running_videos=settings.max_running_videos,
        requests_per_second=settings.requests_per_second if settings.tells_callers_apart else math.inf,
        daily_credits=settings.daily_credits,
    )


def charges_credits(settings: GatewaySettings) -> bool:
    return settings.tells_callers_apart if settings.charge_credits is None else settings.charge_credits


def _stage_channel(settings: GatewaySettings, address: str) -> grpc.aio.Channel:
    """Without gRPC's own retries: every try of a stage has its own attempt id, and Temporal makes the tries."""
    return open_channel(address, max_message_mib=settings.max_message_mib, retries=False, tls=settings.stages_tls)


def _give(worker: Worker | None, client: Client) -> None:
    if worker is not None:
        worker.client = client


async def _or_end_process(work: Coroutine[Any, Any, None]) -> None:
    try:
        await work
    except Exception as error:
        await _end_process(error)
        raise


async def _end_process(error: BaseException) -> None:
    """In an orderly way, so that whoever watches over it starts it anew."""
    logger.critical("the gateway cannot go on: %s", error, exc_info=error)
    os.kill(os.getpid(), signal.SIGTERM)


class _Stoppable(Protocol):
    async def shutdown(self) -> None: ...


async def worker_stopped(worker: _Stoppable, running: asyncio.Task[None], seconds: float = WORKER_STOP_SECONDS) -> None:
    """Temporal's core may wait for ever for a poll that the server never ends (temporalio/sdk-rust#1297): not we.

    What was at work then is made by another worker, once its heartbeats are missed.
    """
    stopping = asyncio.create_task(worker.shutdown())
    _, late = await asyncio.wait({stopping, running}, timeout=seconds)
    if late:
        logger.warning("Temporal's worker has not stopped after %g s; it is left", seconds)
    for task in late:
        task.cancel()
    await asyncio.gather(stopping, running, return_exceptions=True)


async def _cancelled(task: asyncio.Task[None]) -> None:
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task
