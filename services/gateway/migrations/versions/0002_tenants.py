"""Tenants with their limits and keys, the ledger of credits, and what a video costs."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("videos", sa.Column("cost_millicredits", sa.BigInteger(), nullable=False, server_default="0"))
    _tenants()
    _api_keys()
    _ledger()
    for statement in APPEND_ONLY[op.get_bind().dialect.name]:
        op.execute(statement)


def downgrade() -> None:
    for table in ("ledger", "api_keys", "tenants"):
        op.drop_table(table)
    if op.get_bind().dialect.name == "postgresql":
        op.execute("DROP FUNCTION ledger_is_append_only")
    op.drop_column("videos", "cost_millicredits")


# So that no later code, and nobody at a prompt, changes what was written.
APPEND_ONLY = {
    "sqlite": [
        f"CREATE TRIGGER ledger_no_{verb.lower()} BEFORE {verb} ON ledger "
        "BEGIN SELECT RAISE(ABORT, 'the ledger is append-only'); END"
        for verb in ("UPDATE", "DELETE")
    ],
    "postgresql": [
        "CREATE FUNCTION ledger_is_append_only() RETURNS trigger LANGUAGE plpgsql AS "
        "$$ BEGIN RAISE EXCEPTION 'the ledger is append-only'; END $$",
        "CREATE TRIGGER ledger_append_only BEFORE UPDATE OR DELETE ON ledger "
        "FOR EACH ROW EXECUTE FUNCTION ledger_is_append_only()",
    ],
}


def _tenants() -> None:
    op.create_table(
        "tenants",
        sa.Column("tenant", sa.String(63), nullable=False),
        sa.Column("weight", sa.Float(), nullable=False, server_default="1"),
        sa.Column("max_queued_videos", sa.Integer(), nullable=True),
        sa.Column("max_running_videos", sa.Integer(), nullable=True),
        sa.Column("requests_per_second", sa.Float(), nullable=True),
        sa.Column("daily_credits", sa.Float(), nullable=True),
        sa.Column("create_time", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("tenant", name="pk_tenants"),
    )


def _api_keys() -> None:
    op.create_table(
        "api_keys",
        sa.Column("key_id", sa.String(16), nullable=False),
        sa.Column("tenant", sa.String(63), nullable=False),
        sa.Column("label", sa.String(100), nullable=False),
        sa.Column("secret_hash", sa.String(64), nullable=False),
        sa.Column("create_time", sa.DateTime(timezone=True), nullable=False),
        sa.Column("expire_time", sa.DateTime(timezone=True), nullable=True),
        sa.Column("revoke_time", sa.DateTime(timezone=True), nullable=True),
        sa.PrimaryKeyConstraint("key_id", name="pk_api_keys"),
        sa.ForeignKeyConstraint(["tenant"], ["tenants.tenant"], name="fk_api_keys_tenant"),
    )


def _ledger() -> None:
    op.create_table(
        "ledger",
        sa.Column("tenant", sa.String(63), nullable=False),
        sa.Column("number", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("time", sa.DateTime(timezone=True), nullable=False),
        sa.Column("kind", sa.String(16), nullable=False),
        sa.Column("reference", sa.String(64), nullable=False),
        sa.Column("amount_millicredits", sa.BigInteger(), nullable=False),
        sa.Column("balance_millicredits", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("tenant", "number", name="pk_ledger"),
        sa.ForeignKeyConstraint(["tenant"], ["tenants.tenant"], name="fk_ledger_tenant"),
    )
    op.create_index("uq_ledger_tenant_kind_reference", "ledger", ["tenant", "kind", "reference"], unique=True)
