"""What each attempt of a stage failed for."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("stage_attempts", sa.Column("number", sa.Integer(), nullable=False, server_default="0"))
    op.add_column("stage_attempts", sa.Column("message", sa.String(400), nullable=False, server_default=""))


def downgrade() -> None:
    op.drop_column("stage_attempts", "message")
    op.drop_column("stage_attempts", "number")
