"""`darkroom jobs`: what is being done, and what was."""

from __future__ import annotations

from typing import Annotated

import typer

from app.cli import output
from app.cli.credential import connect
from app.cli.options import JsonOption, UrlOption, YesOption
from app.cli.watching import finish, watch
from app.client import DEFAULT_URL, JsonObject

commands = typer.Typer(no_args_is_help=True, help="What is being done: list, show, watch, cancel, delete.")

JobArgument = Annotated[str, typer.Argument(metavar="JOB", help="Id of the job.")]


@commands.command("list")
def list_(
    status: Annotated[
        list[str] | None,
        typer.Option(
            metavar="STATUS", help="Only queued, running, succeeded, failed or canceled ones; may be repeated."
        ),
    ] = None,
    kind: Annotated[
        list[str] | None, typer.Option(metavar="KIND", help="Only import, train or sample; may be repeated.")
    ] = None,
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, metavar="N", help="At most so many.")] = 20,
    as_json: JsonOption = False,
    url: UrlOption = DEFAULT_URL,
) -> None:
    """Lists jobs, newest first.

    Example: darkroom jobs list --status running --kind train
    """
    with connect(url) as client:
        rows = client.jobs(status=status or [], kind=kind or [], limit=limit)
    if as_json:
        output.print_json(rows)
        return
    output.print_table(
        ("ID", "KIND", "STATUS", "PROGRESS", "LEFT", "CREATED", "ABOUT"),
        (
            (
                row["id"],
                row["kind"],
                output.status(row["status"]),
                _progress(row),
                output.duration(row["progress"]["eta_s"]) if row["status"] == "running" else "-",
                output.moment(row["created_at"]),
                output.plain(row.get("model") or row.get("dataset")),
            )
            for row in rows
        ),
        empty="There are no such jobs.",
    )


@commands.command()
def show(job: JobArgument, as_json: JsonOption = False, url: UrlOption = DEFAULT_URL) -> None:
    """Shows one job: status, progress, error, result.

    Example: darkroom jobs show job_019ad0…
    """
    with connect(url) as client:
        found = client.job(job)
    if as_json:
        output.print_json(found)
    else:
        print_job(found)


@commands.command("watch")
def watch_(job: JobArgument, as_json: JsonOption = False, url: UrlOption = DEFAULT_URL) -> None:
    """Shows a job's progress until it has ended. Ctrl-C ends the watching, not the job.

    Example: darkroom jobs watch job_019ad0…
    """
    with connect(url) as client:
        found = watch(client, client.job(job))
    if as_json:
        output.print_json(found)
    else:
        print_job(found)
    finish(found)


@commands.command()
def cancel(job: JobArgument, as_json: JsonOption = False, url: UrlOption = DEFAULT_URL) -> None:
    """Cancels a job: a queued one at once, a running one as soon as it notices. What it has made is kept.

    Example: darkroom jobs cancel job_019ad0…
    """
    with connect(url) as client:
        found = client.cancel(job)
    if as_json:
        output.print_json(found)
    elif found["status"] == "canceled":
        output.results().print(f"{found['id']} is canceled.")
    else:
        output.results().print(f"{found['id']} was told to stop.")


@commands.command()
def delete(job: JobArgument, yes: YesOption = False, url: UrlOption = DEFAULT_URL) -> None:
    """Deletes a job that has ended, for good: a generation with its images, an export with its file.

    Example: darkroom jobs delete job_019ad0…
    """
    with connect(url) as client:
        found = client.job(job)
        if not yes:
            typer.confirm(f"Delete {found['id']} ({found['kind']}) and its images?", abort=True, err=True)
        client.delete_job(found["id"])
    output.notes().print(f"{found['id']} is deleted.")


def print_job(job: JsonObject) -> None:
    """Prints one job for people."""
    error, progress = job.get("error") or {}, job["progress"]
    output.print_members(
        [
            ("job", job["id"]),
            ("kind", job["kind"]),
            ("status", output.status(job["status"])),
            ("data set", job.get("dataset")),
            ("model", job.get("model")),
            ("progress", _progress(job)),
            ("rate", f"{output.amount(progress['rate'])} {progress['unit']}/s" if progress.get("rate") else None),
            ("time left", output.duration(progress["eta_s"]) if progress.get("eta_s") else None),
            ("error", f"[red]{output.plain(error.get('message'))}[/]" if error else None),
            ("created", output.moment(job["created_at"])),
            ("started", output.moment(job["started_at"]) if job.get("started_at") else None),
            ("finished", output.moment(job["finished_at"]) if job.get("finished_at") else None),
        ]
    )


def _progress(job: JsonObject) -> str:
    progress = job["progress"]
    of = f"/{output.amount(progress['total'])}" if progress.get("total") else ""
    return f"{output.amount(round(progress['done'] or 0))}{of} {progress['unit']}"
