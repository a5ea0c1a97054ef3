"""Which files of a video were deleted after its time."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("videos", sa.Column("collected", sa.String(16), nullable=False, server_default="NOTHING"))
    op.create_index("ix_videos_collected_state_update_time", "videos", ["collected", "state", "update_time"])


def downgrade() -> None:
    op.drop_index("ix_videos_collected_state_update_time", "videos")
    op.drop_column("videos", "collected")
