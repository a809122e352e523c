"""Limits of keys, and what accounts use up

Revision: 0010, after 0009
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None


def upgrade() -> None:
    with op.batch_alter_table("api_keys") as keys:
        keys.add_column(sa.Column("limits", sa.JSON(none_as_null=True), nullable=True))
    op.create_table(
        "image_usage",
        sa.Column("account", sa.String(length=40), nullable=False),
        sa.Column("day", sa.String(length=10), nullable=False),
        sa.Column("images", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("account", "day"),
    )


def downgrade() -> None:
    op.drop_table("image_usage")
    with op.batch_alter_table("api_keys") as keys:
        keys.drop_column("limits")
