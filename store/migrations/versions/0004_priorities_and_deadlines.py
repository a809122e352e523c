"""Priorities that age, and deadlines

Revision: 0004, after 0003
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

HAS_DEADLINE = sa.text("deadline_at IS NOT NULL")


def upgrade() -> None:
    # Nothing ever set the number that stood here, so no job loses its place.
    with op.batch_alter_table("jobs") as jobs:
        jobs.drop_index("ix_jobs_claim")
        jobs.drop_column("priority")
    with op.batch_alter_table("jobs") as jobs:
        jobs.add_column(sa.Column("priority", sa.String(length=16), nullable=False, server_default="interactive"))
        jobs.add_column(sa.Column("deadline_at", sa.DateTime(timezone=True), nullable=True))
    with op.batch_alter_table("jobs") as jobs:
        jobs.alter_column("priority", existing_type=sa.String(length=16), server_default=None)
        jobs.create_index("ix_jobs_claim", ["status", "kind", "turn_at", "id"], unique=False)
    op.create_index(
        "ix_jobs_late", "jobs", ["status", "deadline_at"], sqlite_where=HAS_DEADLINE, postgresql_where=HAS_DEADLINE
    )


def downgrade() -> None:
    op.drop_index("ix_jobs_late", "jobs")
    with op.batch_alter_table("jobs") as jobs:
        jobs.drop_index("ix_jobs_claim")
        jobs.drop_column("deadline_at")
        jobs.drop_column("priority")
    with op.batch_alter_table("jobs") as jobs:
        jobs.add_column(sa.Column("priority", sa.Integer(), nullable=False, server_default="0"))
    with op.batch_alter_table("jobs") as jobs:
        jobs.alter_column("priority", existing_type=sa.Integer(), server_default=None)
        jobs.create_index("ix_jobs_claim", ["status", "kind", "priority", "turn_at", "id"], unique=False)
