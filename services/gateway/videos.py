"""The gateway's work: everything the public API can do with videos. Knows neither gRPC nor Temporal.

Its port to the workflows is `runner.Runner`, to the database `records.Records`, to the files `libs.artifacts.Store`.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import hashlib
import json
import logging
import uuid
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

from libs.artifacts import TENSORS_MEDIA_TYPE, AttemptPrefix, Ref, Store
from libs.catalog import Catalog, ModelCard
from libs.errors import AlreadyExists, FailedPrecondition, FieldViolation, InvalidRequest, Unavailable
from libs.serving import describe
from services.gateway import metrics, states
from services.gateway.images import Images
from services.gateway.loras import check_lora
from services.gateway.price import price_millicredits
from services.gateway.progress import fraction
from services.gateway.prompts import Analysis, PromptAnalyst, refused
from services.gateway.records import Event, Filter, Place, Quota, Records
from services.gateway.resolve import find_model, request_hash, resolve
from services.gateway.retention import Retention
from services.gateway.runner import Runner, Work
from services.gateway.safety import SafetyPolicy
from services.gateway.standing import Expectations, Standing, Standings
from services.gateway.video import (
    Collected,
    Lora,
    LoraRequest,
    State,
    Status,
    Video,
    VideoError,
    VideoKey,
    VideoRequest,
)
from services.gateway.watches import Watches

logger = logging.getLogger(__name__)

DEFAULT_PAGE_SIZE, MAX_PAGE_SIZE = 50, 200
NOT_STARTED = VideoError("NOT_STARTED", "it was not accepted, because its work could not be started; create it again")


@dataclass(frozen=True)
class Limits:
    """What the wiring sets; see `settings.py`."""

    default_model: str
    charges_credits: bool
    url_seconds: float
    retention: Retention
    watch_silence_seconds: float
    max_watches: float


@dataclass(frozen=True)
class Urls:
    """Where to fetch a result. `expire_time` is None for URLs that do not expire."""

    video: str
    poster: str
    expire_time: datetime | None


@dataclass(frozen=True)
class View:
    """A video as a caller sees it at one moment.

    `urls` is None without a result, and when its files have been deleted; `delete_time` says when they are.
    """

    video: Video
    fraction: float
    queue_position: int
    eta_seconds: float | None
    urls: Urls | None
    delete_time: datetime | None = None


@dataclass(frozen=True)
class Page:
    views: list[View]
    next_page_token: str


@dataclass(frozen=True)
class WatchEvent:
    sequence: int
    time: datetime
    view: View
    preview_jpeg: bytes = b""
    preview_sound_url: str = ""


class Videos:
    def __init__(
        self,
        records: Records,
        standings: Standings,
        expectations: Expectations,
        runner: Runner,
        store: Store,
        catalog: Catalog,
        images: Images,
        analyst: PromptAnalyst,
        safety: SafetyPolicy,
        limits: Limits,
    ) -> None:
        self._records, self._runner = records, runner
        self._standings, self._expectations = standings, expectations
        self._watches = Watches(
            records, self._watch_event, self._still, limits.watch_silence_seconds, limits.max_watches
        )
        self._store, self._catalog, self._images, self._limits = store, catalog, images, limits
        self._analyst, self._safety = analyst, safety

    async def create(self, tenant: str, request: VideoRequest) -> View:
        """Accepts a video: recorded first, then started; it is accepted once both are true.

        A process that dies in between leaves a record that the sweeper starts, and so does one that cannot start it
        (Unavailable): with a request_id the caller asks again and gets the same video, without one it is withdrawn.

        Raises InvalidRequest (nothing is created), AlreadyExists with reason REQUEST_ID_REUSED, ResourceExhausted with
        reason TOO_MANY_QUEUED_VIDEOS or CREDITS_EXHAUSTED.
        """
        hashed = request_hash(request)
        earlier = await self._records.find_request(tenant, request.request_id)
        if earlier is not None:
            return await self._repeated(earlier, hashed)
        video = await self._prepare(tenant, request, hashed)
        png = await self._images.clean(request.image) if request.image else b""
        describe(tenant=tenant, video_id=video.key.video_id)
        # Shielded: a caller who hangs up now must not leave files without a record.
        accepted, is_new = await asyncio.shield(asyncio.ensure_future(self._accept(video, png, request.lora)))
        if not is_new:
            return await self._repeated(accepted, hashed)
        return await self._view(await self._started(accepted))

    async def check(self, tenant: str, request: VideoRequest) -> View:
        """What `create` would accept, and at which price; nothing is created. Raises InvalidRequest."""
        video = await self._prepare(tenant, request, request_hash(request))
        if request.image:
            await self._images.clean(request.image)
        return View(video, fraction=0.0, queue_position=0, eta_seconds=None, urls=None)

    async def get(self, key: VideoKey) -> View:
        return await self._view(await self._records.get(key))

    async def page(self, tenant: str, only: Filter, page_size: int, page_token: str) -> Page:
        """Newest first. Raises InvalidRequest for a page token that was not given for this tenant and this filter."""
        if only.created_after and only.created_before and only.created_after >= only.created_before:
            raise InvalidRequest(FieldViolation("created_before", "give a time after created_after, or leave one out"))
        place = _place_of(page_token, tenant, only)
        size = min(page_size or DEFAULT_PAGE_SIZE, MAX_PAGE_SIZE)
        found = await self._records.page(tenant, only, place, size + 1)
        shown = found[:size]
        token = _page_token(shown[-1], tenant, only) if len(found) > size else ""
        return Page([await self._view(video) for video in shown], token)

    async def watch(self, key: VideoKey, after_sequence: int) -> AsyncGenerator[WatchEvent, None]:
        """Events with a higher number, as they come, until the terminal one. Repeats the last when all is quiet.

        Raises NotFound, also when the video is deleted meanwhile; ResourceExhausted, reason TOO_MANY_WATCHES.
        """
        async with aclosing(self._watches.watch(key, after_sequence)) as events:
            async for event in events:
                yield event

    async def cancel(self, key: VideoKey, reason: str) -> View:
        """CANCELLING until the work has stopped; CANCELLED at once if none had begun: then no stage begins any more.

        Raises FailedPrecondition, reason VIDEO_ALREADY_FINISHED, for a video that SUCCEEDED or FAILED.
        """
        logger.info("video %s of %s: cancel asked, reason of %d characters", key.video_id, key.tenant, len(reason))
        video = await self._records.change(key, _cancelling)
        if video.status.state in (State.CANCELLING, State.CANCELLED):
            video = await self._stop(video)
        return await self._view(video)

    async def delete(self, key: VideoKey) -> None:
        """Removes files, then record; after a crash in between, deleting again ends it.

        Raises FailedPrecondition, reason VIDEO_NOT_FINISHED, for a video that has not ended.
        """
        video = await self._records.get(key)
        if video.status.state not in states.TERMINAL:
            raise FailedPrecondition(
                f"the video is {video.status.state}; cancel it or wait for its end, then delete it",
                reason="VIDEO_NOT_FINISHED",
                state=video.status.state.value,
            )
        await self._delete_files(key)
        await self._records.delete(key)

    def models(self) -> list[ModelCard]:
        """The default one first."""
        first = self._limits.default_model
        return [
            self._catalog.get(name) for name in sorted(self._catalog.names(), key=lambda name: (name != first, name))
        ]

    async def quota(self, tenant: str) -> Quota:
        return await self._records.quota(tenant, self._limits.charges_credits)

    async def analyze(self, prompt: str, model: str) -> Analysis:
        """Raises InvalidRequest for an unknown model; Unavailable, reason ENCODER_UNAVAILABLE."""
        card = find_model(self._catalog, model, self._limits.default_model, "model")
        analysis = await self._analyst.analyze(prompt, card.family)
        verdict = await self._safety.judge(prompt)
        return analysis if verdict is None else refused(analysis, verdict.reason)

    async def _prepare(self, tenant: str, request: VideoRequest, hashed: str) -> Video:
        """Whatever can be refused about the request, apart from its image, is refused here."""
        now = datetime.now(UTC)
        card = find_model(self._catalog, request.model, self._limits.default_model, "spec.model")
        spec = resolve(request, card, now)
        await self._check_safety(request)
        if request.lora is not None:
            await check_lora(self._store, tenant, request.lora)
        return Video(
            key=VideoKey(tenant, str(uuid.uuid4())),
            spec=spec,
            image=None,
            priority=request.priority,
            deadline=request.deadline,
            request_id=request.request_id,
            request_hash=hashed,
            create_time=now,
            expected_seconds=await self._expectations.of(spec),
            cost_millicredits=price_millicredits(spec, card) if self._limits.charges_credits else 0,
        )

    async def _check_safety(self, request: VideoRequest) -> None:
        """Raises InvalidRequest, reason PROMPT_REJECTED, with the category."""
        texts = (("spec.prompt", request.prompt, False), ("spec.negative_prompt", request.negative_prompt, True))
        for field, text, negative in texts:
            if verdict := await self._safety.judge(text, negative=negative):
                metrics.PROMPTS_REJECTED.labels(category=verdict.category).inc()
                violation = FieldViolation(field, verdict.reason)
                raise InvalidRequest(violation, reason="PROMPT_REJECTED", category=verdict.category)

    async def _put_input(self, key: VideoKey, name: str, data: bytes, media_type: str) -> Ref:
        within = AttemptPrefix(key.tenant, key.video_id, "input", "first").key(name)
        return await asyncio.to_thread(self._store.put, within, data, media_type)

    async def _accept(self, video: Video, png: bytes, lora: LoraRequest | None) -> tuple[Video, bool]:
        """Stores image, LoRA and record. If the record does not come to be, the files go again.

        Where that is not known, because database, store or caller went away, they stay, and the collector comes for
        orphans.
        """
        if not png and not (lora and lora.file):
            return await self._records.accept(video)
        try:
            if png:
                image = await self._put_input(video.key, "first-frame.png", png, "image/png")
                video = replace(video, image=image)
            if lora and lora.file:
                ref = await self._put_input(video.key, "lora.safetensors", lora.file, TENSORS_MEDIA_TYPE)
                video = replace(video, spec=replace(video.spec, lora=Lora(ref, lora.scale)))
            stored, is_new = await self._records.accept(video)
        except (Unavailable, asyncio.CancelledError):
            raise
        except BaseException:
            await self._delete_files(video.key)
            raise
        if not is_new:
            await self._delete_files(video.key)
        return stored, is_new

    async def _delete_files(self, key: VideoKey) -> None:
        await asyncio.to_thread(self._store.delete_prefix, f"{key.tenant}/{key.video_id}")

    async def _repeated(self, earlier: Video, hashed: str) -> View:
        if earlier.request_hash != hashed:
            raise AlreadyExists(
                f"request_id {earlier.request_id} was used for another video; give every video its own",
                reason="REQUEST_ID_REUSED",
                request_id=earlier.request_id,
            )
        return await self._view(await self._started(earlier) if earlier.status.state is State.QUEUED else earlier)

    async def _started(self, video: Video) -> Video:
        """The video, once its work is known to exist."""
        try:
            await self._runner.start(video)
        except Unavailable as error:
            logger.warning("video %s of %s not started: %s", video.key.video_id, video.key.tenant, error)
            if video.request_id:
                raise
            video = await self._records.change(video.key, _withdrawn)
            if video.status.error == NOT_STARTED:
                raise
        return video

    async def _stop(self, video: Video) -> Video:
        try:
            work = await self._runner.cancel(video.key)
        except Unavailable as error:
            logger.warning("video %s of %s: %s; the sweeper tries again", video.key.video_id, video.key.tenant, error)
            return video
        if work is Work.RUNNING:
            return video
        return await self._records.change(video.key, _cancelled)

    async def _watch_event(self, video: Video, event: Event) -> WatchEvent:
        """`video` may be newer than the event, which is shown as of its own time."""
        then = replace(video, status=event.status, sequence=event.sequence)
        begun = video.status.state is not State.QUEUED
        view = await self._view(then, event.time, has_begun=begun)
        return WatchEvent(event.sequence, event.time, view, event.preview_jpeg, await self._sound_url(video, event))

    async def _sound_url(self, video: Video, event: Event) -> str:
        if event.preview_sound is None or video.collected is not Collected.NOTHING:
            return ""
        expires = timedelta(seconds=int(self._limits.url_seconds))
        return await asyncio.to_thread(self._store.url, event.preview_sound, expires)

    async def _still(self, video: Video) -> WatchEvent:
        return WatchEvent(video.sequence, datetime.now(UTC), await self._view(video))

    async def _view(self, video: Video, at: datetime | None = None, *, has_begun: bool = False) -> View:
        """`has_begun`: a video that is shown as it was when it waited stands nowhere in the line any more."""
        passed = video.status.state is State.QUEUED and has_begun
        standing = Standing(0, None) if passed else await self._standings.of(video, at or datetime.now(UTC))
        return View(
            video=video,
            fraction=fraction(video, video.status),
            queue_position=standing.ahead,
            eta_seconds=standing.eta_seconds,
            urls=await asyncio.to_thread(self._urls, video) if video.status.result else None,
            delete_time=self._limits.retention.delete_time(video.status),
        )

    def _urls(self, video: Video) -> Urls | None:
        """None once the files are gone, or may be: no URL is given that outlives them."""
        result, now = video.status.result, datetime.now(UTC)
        left = (self._limits.retention.delete_time(video.status) or now) - now
        expires = timedelta(seconds=int(min(self._limits.url_seconds, left.total_seconds())))
        if result is None or video.collected is Collected.EVERYTHING or expires <= timedelta(0):
            return None
        film, poster = (self._store.url(ref, expires) for ref in (result.video, result.poster))
        return Urls(film, poster, now + expires if film.startswith("http") else None)


def _cancelling(status: Status) -> Status:
    if status.state in (State.CANCELLING, State.CANCELLED):
        return status
    if status.state is State.QUEUED:
        return states.concluded(replace(status, state=State.CANCELLING), datetime.now(UTC), None, None)
    if status.state in states.TERMINAL:
        raise FailedPrecondition(
            f"the video has {status.state}; there is nothing to cancel",
            reason="VIDEO_ALREADY_FINISHED",
            state=status.state.value,
        )
    return replace(status, state=State.CANCELLING)


def _withdrawn(status: Status) -> Status:
    """Nobody can ask for this video again, and the caller who asked is told that it was not accepted."""
    if status.state is not State.QUEUED:
        return status
    return states.concluded(status, datetime.now(UTC), None, NOT_STARTED)


def _cancelled(status: Status) -> Status:
    if status.state in states.TERMINAL:
        return status
    return states.concluded(status, datetime.now(UTC), None, None)


def _page_token(last: Video, tenant: str, only: Filter) -> str:
    place = [last.create_time.isoformat(), last.key.video_id, _of(tenant, only)]
    return base64.urlsafe_b64encode(json.dumps(place).encode()).decode()


def _place_of(token: str, tenant: str, only: Filter) -> Place | None:
    if not token:
        return None
    try:
        create_time, video_id, of = json.loads(base64.b64decode(token, altchars=b"-_", validate=True))
        place = Place(datetime.fromisoformat(create_time).astimezone(UTC), str(video_id))
    except (ValueError, TypeError, binascii.Error) as error:
        raise _token_unknown() from error
    if of != _of(tenant, only):
        raise _token_unknown()
    return place


def _of(tenant: str, only: Filter) -> str:
    """Names a list: a page token is good for its own list alone."""
    chosen = [sorted(only.states), sorted(only.models), sorted(only.priorities)]
    times = [time and time.isoformat() for time in (only.created_after, only.created_before)]
    return hashlib.sha256(json.dumps([tenant, *chosen, *times]).encode()).hexdigest()[:16]


def _token_unknown() -> InvalidRequest:
    violation = FieldViolation("page_token", "give the next_page_token of the page before, with the same filters")
    return InvalidRequest(violation, reason="PAGE_TOKEN_UNKNOWN")
