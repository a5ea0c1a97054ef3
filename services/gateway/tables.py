"""The database's tables. Portable between SQLite and PostgreSQL. `migrations/` creates them; a test compares."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from sqlalchemy import (
    JSON,
    BigInteger,
    DateTime,
    Dialect,
    Float,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
)
from sqlalchemy import text as sql
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column
from sqlalchemy.types import TypeDecorator


class UtcTime(TypeDecorator[datetime]):
    """A time with zone; SQLite forgets the zone, so it is put back. One without is taken for the machine's own time."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:  # noqa: ARG002
        return None if value is None else value.astimezone(UTC)

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:  # noqa: ARG002
        return None if value is None else value.replace(tzinfo=value.tzinfo or UTC)


class Base(DeclarativeBase):
    metadata = MetaData(
        naming_convention={
            "ix": "ix_%(table_name)s_%(column_0_N_name)s",
            "uq": "uq_%(table_name)s_%(column_0_N_name)s",
            "fk": "fk_%(table_name)s_%(column_0_N_name)s",
            "pk": "pk_%(table_name)s",
        }
    )


class VideoRow(Base):
    """One video. `status` is JSON of `video.Status`; `state` repeats its state so that SQL can ask for it."""

    __tablename__ = "videos"
    __table_args__ = (
        Index("ix_videos_tenant_create_time_video_id", "tenant", "create_time", "video_id"),
        Index("ix_videos_state_update_time", "state", "update_time"),
        Index("ix_videos_collected_state_update_time", "collected", "state", "update_time"),
        Index(
            "uq_videos_tenant_request_id",
            "tenant",
            "request_id",
            unique=True,
            sqlite_where=sql("request_id <> ''"),
            postgresql_where=sql("request_id <> ''"),
        ),
    )

    video_id: Mapped[str] = mapped_column(String(64), primary_key=True)
    tenant: Mapped[str] = mapped_column(String(63))
    request_id: Mapped[str] = mapped_column(String(64))
    request_hash: Mapped[str] = mapped_column(String(64))
    model: Mapped[str] = mapped_column(String(63))
    spec: Mapped[dict[str, Any]] = mapped_column(JSON)
    image: Mapped[dict[str, Any] | None] = mapped_column(JSON(none_as_null=True))
    priority: Mapped[str] = mapped_column(String(16))
    deadline: Mapped[datetime | None] = mapped_column(UtcTime)
    create_time: Mapped[datetime] = mapped_column(UtcTime)
    update_time: Mapped[datetime] = mapped_column(UtcTime)
    expected_seconds: Mapped[dict[str, float]] = mapped_column(JSON)
    state: Mapped[str] = mapped_column(String(16))
    status: Mapped[dict[str, Any]] = mapped_column(JSON)
    sequence: Mapped[int] = mapped_column(BigInteger)
    collected: Mapped[str] = mapped_column(String(16), server_default="NOTHING")
    cost_millicredits: Mapped[int] = mapped_column(BigInteger, server_default="0")


class EventRow(Base):
    """Append-only. `sequence` grows by one with every event of a video; `status` is the video's after the event."""

    __tablename__ = "events"

    video_id: Mapped[str] = mapped_column(ForeignKey("videos.video_id", ondelete="CASCADE"), primary_key=True)
    sequence: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    time: Mapped[datetime] = mapped_column(UtcTime)
    status: Mapped[dict[str, Any]] = mapped_column(JSON)
    preview_jpeg: Mapped[bytes | None] = mapped_column(LargeBinary)
    preview_sound: Mapped[dict[str, Any] | None] = mapped_column(JSON(none_as_null=True))


class AttemptRow(Base):
    """One try of one stage. The row with `won` holds the outputs that later stages read; at most one a stage."""

    __tablename__ = "stage_attempts"
    __table_args__ = (
        Index(
            "uq_stage_attempts_winner",
            "video_id",
            "stage",
            unique=True,
            sqlite_where=sql("won = 1"),
            postgresql_where=sql("won = 1"),
        ),
        Index("ix_stage_attempts_model_stage_end_time", "model", "stage", "end_time"),
    )

    video_id: Mapped[str] = mapped_column(ForeignKey("videos.video_id", ondelete="CASCADE"), primary_key=True)
    stage: Mapped[str] = mapped_column(String(16), primary_key=True)
    attempt: Mapped[str] = mapped_column(String(64), primary_key=True)
    model: Mapped[str] = mapped_column(String(63))
    work_units: Mapped[float] = mapped_column(Float)
    start_time: Mapped[datetime] = mapped_column(UtcTime)
    end_time: Mapped[datetime | None] = mapped_column(UtcTime)
    outcome: Mapped[str] = mapped_column(String(64))
    number: Mapped[int] = mapped_column(Integer, server_default="0")
    message: Mapped[str] = mapped_column(String(400), server_default="")
    won: Mapped[int] = mapped_column(Integer)
    seconds: Mapped[float] = mapped_column(Float)
    load_seconds: Mapped[float] = mapped_column(Float)
    gpu_seconds: Mapped[float] = mapped_column(Float)
    duration_seconds: Mapped[float] = mapped_column(Float)
    outputs: Mapped[dict[str, Any]] = mapped_column(JSON)


class TenantRow(Base):
    """Whoever has a key, or was ever seen. What is null takes the default of the settings."""

    __tablename__ = "tenants"

    tenant: Mapped[str] = mapped_column(String(63), primary_key=True)
    weight: Mapped[float] = mapped_column(Float, server_default="1")
    max_queued_videos: Mapped[int | None] = mapped_column(Integer)
    max_running_videos: Mapped[int | None] = mapped_column(Integer)
    requests_per_second: Mapped[float | None] = mapped_column(Float)
    daily_credits: Mapped[float | None] = mapped_column(Float)
    create_time: Mapped[datetime] = mapped_column(UtcTime)


class ApiKeyRow(Base):
    """`secret_hash` is the SHA-256 of a secret of 256 random bits: nothing slower is needed for those."""

    __tablename__ = "api_keys"

    key_id: Mapped[str] = mapped_column(String(16), primary_key=True)
    tenant: Mapped[str] = mapped_column(ForeignKey("tenants.tenant"))
    label: Mapped[str] = mapped_column(String(100))
    secret_hash: Mapped[str] = mapped_column(String(64))
    create_time: Mapped[datetime] = mapped_column(UtcTime)
    expire_time: Mapped[datetime | None] = mapped_column(UtcTime)
    revoke_time: Mapped[datetime | None] = mapped_column(UtcTime)


class LedgerRow(Base):
    """Append-only, which triggers enforce. `number` counts a tenant's entries, the balance is the one after the entry.

    `reference` names what the entry is for. One entry a kind and reference: nothing is reserved or refunded twice.
    """

    __tablename__ = "ledger"
    __table_args__ = (Index("uq_ledger_tenant_kind_reference", "tenant", "kind", "reference", unique=True),)

    tenant: Mapped[str] = mapped_column(ForeignKey("tenants.tenant"), primary_key=True)
    number: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    time: Mapped[datetime] = mapped_column(UtcTime)
    kind: Mapped[str] = mapped_column(String(16))
    reference: Mapped[str] = mapped_column(String(64))
    amount_millicredits: Mapped[int] = mapped_column(BigInteger)
    balance_millicredits: Mapped[int] = mapped_column(BigInteger)


class QueueRow(Base):
    """One for each video that has not ended. `admit_time` is when it was given its place, from which it may begin."""

    __tablename__ = "queue"
    __table_args__ = (
        Index(
            "ix_queue_waiting",
            "tenant",
            "priority",
            "due_time",
            "create_time",
            "video_id",
            sqlite_where=sql("admit_time IS NULL"),
            postgresql_where=sql("admit_time IS NULL"),
        ),
        Index(
            "ix_queue_at_work",
            "tenant",
            sqlite_where=sql("admit_time IS NOT NULL"),
            postgresql_where=sql("admit_time IS NOT NULL"),
        ),
    )

    video_id: Mapped[str] = mapped_column(ForeignKey("videos.video_id", ondelete="CASCADE"), primary_key=True)
    tenant: Mapped[str] = mapped_column(String(63))
    priority: Mapped[str] = mapped_column(String(16))
    create_time: Mapped[datetime] = mapped_column(UtcTime)
    due_time: Mapped[datetime] = mapped_column(UtcTime)
    deadline: Mapped[datetime | None] = mapped_column(UtcTime)
    cost: Mapped[float] = mapped_column(Float)
    expected_seconds: Mapped[float] = mapped_column(Float)
    admit_time: Mapped[datetime | None] = mapped_column(UtcTime)


class TurnRow(Base):
    """What a tenant has had of a class, in virtual time (`order.py`), and when it last had a turn."""

    __tablename__ = "turns"
    __table_args__ = (Index("ix_turns_start", "start"),)

    tenant: Mapped[str] = mapped_column(String(63), primary_key=True)
    priority: Mapped[str] = mapped_column(String(16), primary_key=True)
    start: Mapped[float] = mapped_column(Float)
    finish: Mapped[float] = mapped_column(Float)
    last_time: Mapped[datetime] = mapped_column(UtcTime)


class WorkerRow(Base):
    """A worker that lives: its places count until `expire_time`, unless it says again that it is there."""

    __tablename__ = "workers"

    worker_id: Mapped[str] = mapped_column(String(64), primary_key=True)
    places: Mapped[int] = mapped_column(Integer)
    expire_time: Mapped[datetime] = mapped_column(UtcTime)
