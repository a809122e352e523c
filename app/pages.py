"""Keyset pages: `after` is the id of the last row that the client has, so pages stay right while rows come and go."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Generic, TypeVar

from pydantic import BaseModel, Field
from sqlalchemy import Select
from sqlalchemy.orm import InstrumentedAttribute, Session

from app.errors import InvalidParameter
from store.identifiers import Prefix

Row = TypeVar("Row")
Item = TypeVar("Item", bound=BaseModel)


class Page(BaseModel, Generic[Item]):
    """One page of a list."""

    object: str = Field("list", description="Always `list`.")
    data: list[Item] = Field(description="The rows of this page.")
    has_more: bool = Field(description="Whether rows follow; pass the last one's id as `after`.")


def example_page(example: dict[str, Any]) -> dict[str, Any]:
    """The schema's example of a page that holds one row."""
    return {"examples": [{"object": "list", "data": [example], "has_more": False}]}


def newest_first(
    session: Session,
    rows: Select[Row],
    id_column: InstrumentedAttribute[str],
    prefix: Prefix,
    *,
    after: str | None,
    limit: int,
) -> tuple[Sequence[Row], bool]:
    """Return a page of rows, newest first, and whether more follow.

    Ids sort by the time they were made, so the id alone is the key. A row that was deleted meanwhile still marks its place.

    Args:
        rows: the filtered rows.
        id_column: their id.
        prefix: what their ids begin with.
        after: id of the last row of the page before.
        limit: length of the page.

    Raises:
        InvalidParameter: `after` is no id of such a row.
    """
    if after is not None:
        if not after.startswith(f"{prefix}_"):
            raise InvalidParameter(
                f"after: {after!r} is no id of this list",
                parameter="after",
                remedy=f"pass the id of the last row of the page before, {prefix}_…",
            )
        rows = rows.where(id_column < after)
    return cut(session.scalars(rows.order_by(id_column.desc()).limit(limit + 1)).all(), limit)


def cut(rows: Sequence[Row], limit: int) -> tuple[Sequence[Row], bool]:
    """Return at most `limit` rows of one more than that, and whether there was one more."""
    return rows[:limit], len(rows) > limit
