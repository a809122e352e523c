"""Learning curves

Revision: 0002, after 0001
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "training_metrics",
        sa.Column("model_id", sa.String(length=40), nullable=False),
        sa.Column("images_seen", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("elapsed_s", sa.Double(), nullable=False),
        sa.Column("images_per_s", sa.Double(), nullable=False),
        sa.Column("losses", sa.JSON(none_as_null=True), nullable=False),
        sa.ForeignKeyConstraint(["model_id"], ["models.id"], ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("model_id", "images_seen"),
    )


def downgrade() -> None:
    op.drop_table("training_metrics")
