"""What commands print: tables and messages for people, JSON for programs.

Results go to the standard output; progress, notes and errors to the standard error, so that a pipe gets results alone.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from app.client import ClientError

STATUS_STYLES = {
    "queued": "yellow",
    "importing": "yellow",
    "running": "cyan",
    "training": "cyan",
    "succeeded": "green",
    "ready": "green",
    "failed": "red",
    "canceled": "dim",
}


def results() -> Console:
    """The console of results."""
    return Console(highlight=False, soft_wrap=True)


def notes() -> Console:
    """The console of progress, notes and errors."""
    return Console(stderr=True, highlight=False, soft_wrap=True)


def print_json(value: object) -> None:
    """Prints one JSON value, indented."""
    results().print(json.dumps(value, indent=2, ensure_ascii=False), markup=False)


def print_error(error: Exception) -> None:
    """Prints what went wrong, and what to do about it."""
    console = notes()
    if not isinstance(error, ClientError):
        console.print(f"[red]Error:[/] {escape(str(error))}")
        return
    about = f" [dim]({escape(error.parameter)})[/]" if error.parameter else ""
    console.print(f"[red]Error:[/] {escape(error.message)}{about} [dim]\\[{escape(error.code)}][/]")
    if error.remedy:
        console.print(f"  {escape(error.remedy)}")


def print_table(columns: Sequence[str], rows: Iterable[Sequence[str]], *, empty: str, wrap: bool = False) -> None:
    """Prints rows under headings, or `empty` where there are none.

    Args:
        columns: the headings.
        rows: their cells may hold rich's markup.
        empty: what to say where there are no rows.
        wrap: whether a long last column is broken into lines; else lines are as long as they need to be, so that an id
            can be copied.
    """
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        table.add_column(column, no_wrap=not wrap or column is not columns[-1])
    for row in rows:
        table.add_row(*row)
    console = results()
    if not table.row_count:
        notes().print(empty)
        return
    if not wrap:
        console.width = max(
            console.width, console.measure(table, options=console.options.update(max_width=10_000)).maximum
        )
    console.print(table, soft_wrap=False, crop=False)


def print_members(members: Iterable[tuple[str, str | None]]) -> None:
    """Prints names and values in two columns; members without a value are left out."""
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in members:
        if value is not None:
            table.add_row(name, value)
    results().print(table, soft_wrap=False)


def status(word: str) -> str:
    """A status in its colour."""
    return f"[{STATUS_STYLES.get(word, 'default')}]{escape(word)}[/]"


def plain(text: object) -> str:
    """Text that came from elsewhere: its brackets are no markup; None is a dash."""
    return "-" if text is None else escape(str(text))


def duration(seconds: float | None) -> str:
    """A time span for people: `8 s`, `2 min 05 s`, `3 h 20 min`."""
    if seconds is None or not math.isfinite(seconds):
        return "-"
    whole = max(0, round(seconds))
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def amount(value: float | None) -> str:
    """A number for people: `1,797`, `0.25`, `12.5`; None is a dash."""
    if value is None:
        return "-"
    return f"{value:,.0f}" if value == int(value) or abs(value) >= 100 else f"{value:,.3g}"


def size(size_bytes: float) -> str:
    """A number of bytes for people: `4.2 MiB`."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if size_bytes < 1024 or unit == "GiB":
            return f"{size_bytes:.0f} B" if unit == "B" else f"{size_bytes:.1f} {unit}"
        size_bytes /= 1024
    raise AssertionError("unreachable")


def moment(rfc3339: str | None) -> str:
    """A moment in this machine's own time zone."""
    if rfc3339 is None:
        return "-"
    return datetime.fromisoformat(rfc3339).astimezone().strftime("%Y-%m-%d %H:%M:%S")


def losses(metrics: dict[str, Any] | None) -> str | None:
    """A training's newest losses: `D 0.61  G 1.84`; None before the first."""
    return numbers((metrics or {}).get("losses"))


def numbers(values: dict[str, Any] | None) -> str | None:
    """Named numbers: `D 0.610  lr_G 0.0002  n 1,000`; None where there are none."""
    named = {name: value for name, value in (values or {}).items() if value is not None}
    return "  ".join(f"{escape(name)} {_number(value)}" for name, value in named.items()) or None


def score(scores: dict[str, Any] | None) -> str:
    """FD-domain among scores, with its floor where that is known: `3.1 (floor 0.4)`; a dash where it was not measured."""
    if not scores or "fd_domain" not in scores:
        return "-"
    floor = f" (floor {scores['fd_domain_floor']:.3g})" if "fd_domain_floor" in scores else ""
    return f"{scores['fd_domain']:.3g}{floor}"


def _number(value: float) -> str:
    if value == int(value) and abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.3f}" if abs(value) >= 0.01 or value == 0 else f"{value:.2g}"
