"""Alembic's entry: runs the migrations on the connection that store/database.py hands over."""

from __future__ import annotations

from typing import Any, Literal

from alembic import context
from alembic.autogenerate.api import AutogenContext

from store.records import Record, UtcDateTime


def render_item(kind: str, item: Any, _context: AutogenContext) -> str | Literal[False]:
    """A migration must outlive our classes, so it names the plain type that is underneath."""
    return "sa.DateTime(timezone=True)" if kind == "type" and isinstance(item, UtcDateTime) else False


context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=Record.metadata,
    render_as_batch=True,  # SQLite can't alter a column in place
    compare_type=True,
    render_item=render_item,
)
context.run_migrations()
