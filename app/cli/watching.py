"""Watching a job: a progress bar from its events until it has ended."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import typer
from rich.console import Console, RenderableType
from rich.markup import escape
from rich.progress import BarColumn, Progress, TaskID, TextColumn
from rich.text import Text

from app.cli import output
from app.client import DEFAULT_URL, Client, JsonObject

VERBS = {
    "import": "importing",
    "import-model": "importing",
    "train": "training",
    "sample": "generating",
    "evaluate": "evaluating",
    "export": "exporting",
}
PLAIN_INTERVAL_S = 10.0  # between two lines where the output is no terminal
INTERRUPTED = 130  # the shell's own number for Ctrl-C


def watch(client: Client, job: JsonObject) -> JsonObject:
    """Shows a job's progress until it has ended, and returns it as it then is.

    Raises:
        ClientError: the service went away.
        typer.Exit: Ctrl-C; the job goes on, and this was said.
    """
    console = output.notes()
    try:
        with _view(console, job) as view:
            for event in client.events(job["id"]):
                view.take(event.type, event.data)
    except KeyboardInterrupt:
        say_it_goes_on(console, client, job["id"])
        raise typer.Exit(INTERRUPTED) from None
    return client.job(job["id"])


def finish(job: JsonObject) -> None:
    """Returns when the job has succeeded; else says why it has not, and ends the command with 1."""
    if job["status"] == "succeeded":
        return
    console = output.notes()
    if job["status"] == "canceled":
        console.print(f"[yellow]{job['id']} was canceled.[/]")
    else:
        error = job.get("error") or {}
        console.print(f"[red]{job['id']} failed:[/] {escape(str(error.get('message') or 'no reason was given'))}")
    raise typer.Exit(1)


def say_it_goes_on(console: Console, client: Client, job_id: str) -> None:
    """Tells someone who stopped watching that the job has not stopped."""
    url = f" --url {client.url}" if client.url != DEFAULT_URL else ""
    console.print(
        f"\nThe job goes on without you. Watch it again with [bold]darkroom jobs watch {job_id}{url}[/],\n"
        f"or stop it with [bold]darkroom jobs cancel {job_id}{url}[/]."
    )


class _View:
    """What is known of a job from its events, as one line of progress."""

    def __init__(self, job: JsonObject) -> None:
        self._verb = VERBS.get(str(job["kind"]), str(job["kind"]))
        self.status: str = job["status"]
        self.progress: JsonObject = job.get("progress") or {}
        self.metrics: JsonObject = {}
        self.scores: JsonObject = {}  # as last measured
        self.note = ""

    def take(self, kind: str, data: JsonObject) -> None:
        if kind == "snapshot":
            self.status = data.get("status", self.status)
            self.progress = data.get("progress") or self.progress
        elif kind in {"status", "done"}:
            self.status = data.get("status", self.status)
        elif kind == "progress":
            self.progress = {**self.progress, **data}
        elif kind == "metrics":
            self.metrics, self.note = data, ""
            self.scores = data.get("scores") or self.scores
        elif kind == "note":
            self.note = str(data.get("text") or "")

    @property
    def title(self) -> str:
        return self._verb if self.status == "running" else self.status

    @property
    def done(self) -> float:
        if self.status == "succeeded" and self.total:  # its last progress may not have been told
            return self.total
        return float(self.progress.get("done") or 0.0)

    @property
    def total(self) -> float | None:
        total = self.progress.get("total")
        return float(total) if total else None

    @property
    def details(self) -> str:
        """Counts, rate, FD-domain and losses, as far as they are known; before them, what there is to say."""
        if self.note:
            return self.note
        unit = self.progress.get("unit") or ""
        of = f"/{output.amount(self.total)}" if self.total else ""
        parts = [f"{output.amount(round(self.done))}{of} {unit}".strip()]
        rate, rate_unit = self.progress.get("rate"), unit
        if self.metrics.get("images_per_s") is not None:
            rate, rate_unit = self.metrics["images_per_s"], "images"
        if rate and rate_unit != "seconds":
            parts.append(f"{output.amount(rate)} {rate_unit}/s")
        if "fd_domain" in self.scores:
            parts.append(f"FD-domain {self.scores['fd_domain']:.3g}")
        if losses := output.losses(self.metrics):
            parts.append(f"loss {losses}")
        parts += [f"!{trouble['name']}" for trouble in self.metrics.get("troubles") or []]
        return "  ".join(parts)

    @property
    def left(self) -> str:
        """The time left while it runs, as far as it is known."""
        eta_s = self.progress.get("eta_s")
        return f"{output.duration(eta_s)} left" if self.status == "running" and eta_s is not None else ""


class _BarView(_View):
    """The line as a bar in a terminal."""

    def __init__(self, job: JsonObject, progress: Progress) -> None:
        super().__init__(job)
        self._progress = progress
        self._task: TaskID = progress.add_task("", total=None)
        self._show()

    def take(self, kind: str, data: JsonObject) -> None:
        super().take(kind, data)
        self._show()

    def _show(self) -> None:
        self._progress.update(
            self._task,
            description=self.title,
            completed=self.done,
            total=self.total,
            left=self.left,
            details=self.details,
        )


class _LineView(_View):
    """A line now and then, where the output is a file or a pipe."""

    def __init__(self, job: JsonObject, console: Console) -> None:
        super().__init__(job)
        self._console, self._told_at, self._told = console, -PLAIN_INTERVAL_S, ""

    def take(self, kind: str, data: JsonObject) -> None:
        super().take(kind, data)
        now = time.monotonic()
        if self.title != self._told or now - self._told_at >= PLAIN_INTERVAL_S:
            self._told_at, self._told = now, self.title
            left = f"  {self.left}" if self.left else ""
            self._console.print(f"{self.title}: {escape(self.details)}{left}")


@contextmanager
def _view(console: Console, job: JsonObject) -> Iterator[_View]:
    if not console.is_terminal:
        yield _LineView(job, console)
        return
    with Bars(console) as progress:
        yield _BarView(job, progress)


class Bars(Progress):
    """Bars with what each task's `left` says behind them, and its `details` on a line below: both fit into 80 columns."""

    def __init__(self, console: Console, *, transient: bool = False) -> None:
        columns = [
            TextColumn("{task.description:>10}"),
            BarColumn(bar_width=36),
            TextColumn("{task.percentage:>3.0f} %"),
            TextColumn("{task.fields[left]}"),
        ]
        super().__init__(*columns, console=console, transient=transient)

    def add_task(self, description: str, *arguments: Any, **fields: Any) -> TaskID:
        """As rich's own, with nothing to say behind and below."""
        return super().add_task(description, *arguments, **{"left": "", "details": "", **fields})

    def get_renderables(self) -> Iterable[RenderableType]:
        """The bars, each with its line below."""
        for task in self.tasks:
            if task.visible:
                yield self.make_tasks_table([task])
                yield Text("    " + task.fields["details"], style="dim", no_wrap=True, overflow="ellipsis")
