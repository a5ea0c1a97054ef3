"""The queue, whose turn it was, and the workers' places."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    _queue()
    _turns()
    _workers()
    _enqueue_what_has_not_ended()


def downgrade() -> None:
    for table in ("workers", "turns", "queue"):
        op.drop_table(table)


def _queue() -> None:
    op.create_table(
        "queue",
        sa.Column("video_id", sa.String(64), nullable=False),
        sa.Column("tenant", sa.String(63), nullable=False),
        sa.Column("priority", sa.String(16), nullable=False),
        sa.Column("create_time", sa.DateTime(timezone=True), nullable=False),
        sa.Column("due_time", sa.DateTime(timezone=True), nullable=False),
        sa.Column("deadline", sa.DateTime(timezone=True), nullable=True),
        sa.Column("cost", sa.Float(), nullable=False),
        sa.Column("expected_seconds", sa.Float(), nullable=False),
        sa.Column("admit_time", sa.DateTime(timezone=True), nullable=True),
        sa.PrimaryKeyConstraint("video_id", name="pk_queue"),
        sa.ForeignKeyConstraint(["video_id"], ["videos.video_id"], name="fk_queue_video_id", ondelete="CASCADE"),
    )
    waiting, at_work = sa.text("admit_time IS NULL"), sa.text("admit_time IS NOT NULL")
    op.create_index(
        "ix_queue_waiting",
        "queue",
        ["tenant", "priority", "due_time", "create_time", "video_id"],
        sqlite_where=waiting,
        postgresql_where=waiting,
    )
    op.create_index("ix_queue_at_work", "queue", ["tenant"], sqlite_where=at_work, postgresql_where=at_work)


def _turns() -> None:
    op.create_table(
        "turns",
        sa.Column("tenant", sa.String(63), nullable=False),
        sa.Column("priority", sa.String(16), nullable=False),
        sa.Column("start", sa.Float(), nullable=False),
        sa.Column("finish", sa.Float(), nullable=False),
        sa.Column("last_time", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("tenant", "priority", name="pk_turns"),
    )
    op.create_index("ix_turns_start", "turns", ["start"])


def _workers() -> None:
    op.create_table(
        "workers",
        sa.Column("worker_id", sa.String(64), nullable=False),
        sa.Column("places", sa.Integer(), nullable=False),
        sa.Column("expire_time", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("worker_id", name="pk_workers"),
    )


def _enqueue_what_has_not_ended() -> None:
    """Videos accepted before there was a queue: those that began hold a place, the others wait for one."""
    op.execute(
        """
        INSERT INTO queue (video_id, tenant, priority, create_time, due_time, deadline, cost, expected_seconds,
                           admit_time)
        SELECT video_id, tenant, priority, create_time, COALESCE(deadline, create_time), deadline, 1.0, 0.0,
               CASE WHEN state = 'QUEUED' THEN NULL ELSE update_time END
        FROM videos WHERE state IN ('QUEUED', 'RUNNING', 'CANCELLING')
        """
    )
