"""What every command of `python -m models` needs: notes on standard error, errors in a sentence, Ctrl-C, a progress bar."""

from __future__ import annotations

import json
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn

from models.errors import ModelsError, Stopped

INTERRUPTED = 130  # the exit status of a command that Ctrl-C ended

notes = Console(stderr=True, highlight=False)

Json = Annotated[bool, typer.Option("--json", help="Write JSON to standard output, nothing else.")]
Device = Annotated[str, typer.Option(metavar="DEVICE", help="Where to compute: cpu, cuda, cuda:1 …")]


def say(text: str, style: str | None = None) -> None:
    """Tell people, on standard error: unwrapped, so that a path or a command can be copied, and with brackets as they are."""
    notes.print(text, style=style, markup=False, soft_wrap=True)


@contextmanager
def errors(as_json: bool) -> Iterator[None]:
    """Say what went wrong in a sentence, and end with status 1; a bug keeps its traceback."""
    try:
        yield
    except Stopped:
        say("stopped; nothing was written")
        raise typer.Exit(INTERRUPTED) from None
    except (ModelsError, OSError) as error:
        if as_json:
            typer.echo(json.dumps({"event": "error", "error": type(error).__name__, "message": str(error)}))
        say(f"error: {error}", style="red")
        raise typer.Exit(1) from error


@contextmanager
def interruptible() -> Iterator[Callable[[], bool]]:
    """Turn the first Ctrl-C (or SIGTERM) into a question to be asked; the second one ends the program at once."""
    asked = False
    before: dict[signal.Signals, Any] = {}

    def ask(_number: int, _frame: FrameType | None) -> None:
        nonlocal asked
        asked = True
        for which, handler in before.items():
            signal.signal(which, handler)

    for which in (signal.SIGINT, signal.SIGTERM):
        before[which] = signal.signal(which, ask)
    try:
        yield lambda: asked
    finally:
        for which, handler in before.items():
            signal.signal(which, handler)


def progress() -> Progress:
    """A bar on standard error with a note behind it (`fields: note`); silent where that is no terminal."""
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TaskProgressColumn(),
        TextColumn("{task.fields[note]}"),
        console=notes,
        transient=True,
        disable=not sys.stderr.isatty(),
    )
