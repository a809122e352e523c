"""Checkpoints, previews, gauges and scores of trainings

Revision: 0003, after 0002
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

JSON = sa.JSON(none_as_null=True)


def upgrade() -> None:
    with op.batch_alter_table("models") as models:
        models.add_column(sa.Column("promoted", sa.BigInteger(), nullable=True))
    with op.batch_alter_table("training_metrics") as metrics:
        metrics.add_column(sa.Column("gauges", JSON, nullable=True))
        metrics.add_column(sa.Column("scores", JSON, nullable=True))
    for table, *columns in (
        ("training_checkpoints", sa.Column("scores", JSON, nullable=True)),
        ("training_previews",),
    ):
        op.create_table(
            table,
            sa.Column("model_id", sa.String(length=40), nullable=False),
            sa.Column("images_seen", sa.BigInteger(), autoincrement=False, nullable=False),
            sa.Column("blob", sa.String(length=200), nullable=False),
            *columns,
            sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
            sa.ForeignKeyConstraint(["model_id"], ["models.id"], ondelete="CASCADE"),
            sa.PrimaryKeyConstraint("model_id", "images_seen"),
        )
    # Until now a training kept one checkpoint, and the model's row was all that knew of it.
    op.execute(
        "INSERT INTO training_checkpoints (model_id, images_seen, blob, created_at) "
        "SELECT id, images_seen, checkpoint, created_at FROM models WHERE checkpoint IS NOT NULL"
    )


def downgrade() -> None:
    op.drop_table("training_previews")
    op.drop_table("training_checkpoints")
    with op.batch_alter_table("training_metrics") as metrics:
        metrics.drop_column("scores")
        metrics.drop_column("gauges")
    with op.batch_alter_table("models") as models:
        models.drop_column("promoted")
