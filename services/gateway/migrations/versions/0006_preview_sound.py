"""Where the preview of a video's sound lies that an event brought."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("events", sa.Column("preview_sound", sa.JSON(), nullable=True))


def downgrade() -> None:
    op.drop_column("events", "preview_sound")
