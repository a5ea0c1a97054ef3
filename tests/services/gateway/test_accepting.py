"""The files of a video that is about to be accepted: gone when it is refused, kept when it may have been accepted."""

from __future__ import annotations

import io
import uuid
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path

import pytest
from PIL import Image

from libs.artifacts import FolderStore
from libs.catalog import Catalog
from libs.errors import ResourceExhausted, Unavailable
from services.gateway.admission import Admission
from services.gateway.attempts import Attempts
from services.gateway.changes import Changes
from services.gateway.concepts import Bank, Concepts
from services.gateway.database import Database
from services.gateway.embeddings import NoEmbedder
from services.gateway.images import Images
from services.gateway.ledger import Ledger
from services.gateway.order import Share
from services.gateway.prompts import PromptAnalyst
from services.gateway.records import Records
from services.gateway.retention import Retention
from services.gateway.runner import Work
from services.gateway.safety import NoPolicy
from services.gateway.standing import Expectations, Standings
from services.gateway.tenants import Allowance, Tenants
from services.gateway.video import Video, VideoKey, VideoRequest
from services.gateway.videos import Limits, Videos


class NothingBegins:
    """A runner whose workflows all wait."""

    async def start(self, video: Video) -> None: ...

    async def admit(self, key: VideoKey) -> None: ...

    async def cancel(self, key: VideoKey) -> Work:  # noqa: ARG002 - the port's signature
        return Work.RUNNING

    async def state(self, key: VideoKey) -> Work:  # noqa: ARG002 - the port's signature
        return Work.RUNNING


class LosingRecords(Records):
    """Accepts, and while ``loses`` is true the connection breaks before the answer arrives."""

    loses = False

    async def accept(self, video: Video) -> tuple[Video, bool]:
        answer = await super().accept(video)
        if self.loses:
            raise Unavailable("the database is away", reason="DATABASE_UNAVAILABLE")
        return answer


@pytest.fixture
async def database(tmp_path: Path) -> AsyncIterator[Database]:
    opened = Database(f"sqlite:///{tmp_path / 'gateway.db'}")
    await opened.migrate()
    yield opened
    await opened.close()


def videos_of(records: Records, database: Database, store: FolderStore) -> Videos:
    expectations = Expectations(Attempts(database))
    return Videos(
        records,
        Standings(Admission(database, 300.0, Share()), records, expectations),
        expectations,
        NothingBegins(),
        store,
        Catalog.read(Path("models")),
        Images(),
        PromptAnalyst(Concepts(Bank.read(), NoEmbedder())),
        NoPolicy(),
        Limits("diorama", False, 900.0, Retention(results=timedelta(days=1)), 8.0, 200),
    )


def asked() -> VideoRequest:
    picture = io.BytesIO()
    Image.new("RGB", (64, 48)).save(picture, format="PNG")
    return VideoRequest("a campfire", image=picture.getvalue(), request_id=str(uuid.uuid4()))


async def test_a_first_frame_stays_when_only_the_databases_answer_was_lost(database: Database, tmp_path: Path) -> None:
    records = LosingRecords(database, Changes(), Tenants(database, Allowance()), Ledger(200))
    store = FolderStore(tmp_path / "artifacts")
    videos, request = videos_of(records, database, store), asked()
    records.loses = True
    with pytest.raises(Unavailable):
        await videos.create("acme", request)
    records.loses = False
    image = (await videos.create("acme", request)).video.image
    assert image is not None
    assert store.get(image).startswith(b"\x89PNG")


async def test_a_first_frame_goes_when_the_video_is_refused(database: Database, tmp_path: Path) -> None:
    records = Records(database, Changes(), Tenants(database, Allowance(max_queued_videos=1)), Ledger(200))
    store = FolderStore(tmp_path / "artifacts")
    videos = videos_of(records, database, store)
    await videos.create("acme", asked())
    kept = list(store.walk())
    with pytest.raises(ResourceExhausted):
        await videos.create("acme", asked())
    assert list(store.walk()) == kept
    assert len(kept) == 1
