"""API keys, and whose each row is

Revision: 0009, after 0008
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None

OWNED = ("datasets", "models", "jobs", "images")


def upgrade() -> None:
    op.create_table(
        "api_keys",
        sa.Column("id", sa.String(length=40), nullable=False),
        sa.Column("name", sa.String(length=200), nullable=False),
        sa.Column("account", sa.String(length=40), nullable=False),
        sa.Column("scopes", sa.JSON(none_as_null=True), nullable=False),
        sa.Column("hash", sa.String(length=64), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("revoked_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("last_used_at", sa.DateTime(timezone=True), nullable=True),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index("ix_api_keys_account", "api_keys", ["account"])
    for table in OWNED:
        # The default stays: workers of the release before this one go on inserting rows without an account.
        with op.batch_alter_table(table) as rows:
            rows.add_column(sa.Column("account", sa.String(length=40), nullable=False, server_default="default"))
        op.create_index(f"ix_{table}_account", table, ["account", "id"])


def downgrade() -> None:
    for table in OWNED:
        op.drop_index(f"ix_{table}_account", table)
        with op.batch_alter_table(table) as rows:
            rows.drop_column("account")
    op.drop_index("ix_api_keys_account", "api_keys")
    op.drop_table("api_keys")
