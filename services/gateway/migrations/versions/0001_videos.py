"""Videos, their events, and the attempts of their stages."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    _videos()
    _events()
    _stage_attempts()


def downgrade() -> None:
    for table in ("stage_attempts", "events", "videos"):
        op.drop_table(table)


def _videos() -> None:
    op.create_table(
        "videos",
        sa.Column("video_id", sa.String(64), nullable=False),
        sa.Column("tenant", sa.String(63), nullable=False),
        sa.Column("request_id", sa.String(64), nullable=False),
        sa.Column("request_hash", sa.String(64), nullable=False),
        sa.Column("model", sa.String(63), nullable=False),
        sa.Column("spec", sa.JSON(), nullable=False),
        sa.Column("image", sa.JSON(), nullable=True),
        sa.Column("priority", sa.String(16), nullable=False),
        sa.Column("deadline", sa.DateTime(timezone=True), nullable=True),
        sa.Column("create_time", sa.DateTime(timezone=True), nullable=False),
        sa.Column("update_time", sa.DateTime(timezone=True), nullable=False),
        sa.Column("expected_seconds", sa.JSON(), nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("status", sa.JSON(), nullable=False),
        sa.Column("sequence", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("video_id", name="pk_videos"),
    )
    op.create_index("ix_videos_tenant_create_time_video_id", "videos", ["tenant", "create_time", "video_id"])
    op.create_index("ix_videos_state_update_time", "videos", ["state", "update_time"])
    given = sa.text("request_id <> ''")
    op.create_index(
        "uq_videos_tenant_request_id",
        "videos",
        ["tenant", "request_id"],
        unique=True,
        sqlite_where=given,
        postgresql_where=given,
    )


def _events() -> None:
    op.create_table(
        "events",
        sa.Column("video_id", sa.String(64), nullable=False),
        sa.Column("sequence", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("time", sa.DateTime(timezone=True), nullable=False),
        sa.Column("status", sa.JSON(), nullable=False),
        sa.Column("preview_jpeg", sa.LargeBinary(), nullable=True),
        sa.PrimaryKeyConstraint("video_id", "sequence", name="pk_events"),
        sa.ForeignKeyConstraint(["video_id"], ["videos.video_id"], name="fk_events_video_id", ondelete="CASCADE"),
    )


def _stage_attempts() -> None:
    op.create_table(
        "stage_attempts",
        sa.Column("video_id", sa.String(64), nullable=False),
        sa.Column("stage", sa.String(16), nullable=False),
        sa.Column("attempt", sa.String(64), nullable=False),
        sa.Column("model", sa.String(63), nullable=False),
        sa.Column("work_units", sa.Float(), nullable=False),
        sa.Column("start_time", sa.DateTime(timezone=True), nullable=False),
        sa.Column("end_time", sa.DateTime(timezone=True), nullable=True),
        sa.Column("outcome", sa.String(64), nullable=False),
        sa.Column("won", sa.Integer(), nullable=False),
        sa.Column("seconds", sa.Float(), nullable=False),
        sa.Column("load_seconds", sa.Float(), nullable=False),
        sa.Column("gpu_seconds", sa.Float(), nullable=False),
        sa.Column("duration_seconds", sa.Float(), nullable=False),
        sa.Column("outputs", sa.JSON(), nullable=False),
        sa.PrimaryKeyConstraint("video_id", "stage", "attempt", name="pk_stage_attempts"),
        sa.ForeignKeyConstraint(
            ["video_id"], ["videos.video_id"], name="fk_stage_attempts_video_id", ondelete="CASCADE"
        ),
    )
    won = sa.text("won = 1")
    op.create_index(
        "uq_stage_attempts_winner",
        "stage_attempts",
        ["video_id", "stage"],
        unique=True,
        sqlite_where=won,
        postgresql_where=won,
    )
    op.create_index("ix_stage_attempts_model_stage_end_time", "stage_attempts", ["model", "stage", "end_time"])
