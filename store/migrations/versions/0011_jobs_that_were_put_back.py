"""Jobs that were put back for no fault of their own, and what their workers must understand

Revision: 0011, after 0010
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None


def upgrade() -> None:
    with op.batch_alter_table("jobs") as jobs:
        jobs.add_column(sa.Column("put_back_at", sa.DateTime(timezone=True), nullable=True))
        jobs.add_column(sa.Column("needs", sa.Integer(), nullable=False, server_default=sa.text("1")))


def downgrade() -> None:
    with op.batch_alter_table("jobs") as jobs:
        jobs.drop_column("needs")
        jobs.drop_column("put_back_at")
