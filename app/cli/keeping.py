"""`darkroom backup`, `restore` and `gc`: keeping what must stay, and clearing away what need not. They work on the database and
the blobs themselves, so they run where the service's settings and disks are; the API need not be up."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeRemainingColumn

from app.cli import output
from app.cli.options import DataDirOption, JsonOption
from app.cli.up import only_one
from app.client import ClientError

if TYPE_CHECKING:
    from store.blobs import Blobs
    from store.database import Database
    from store.manifest import Manifest
    from store.settings import Settings

# What opens databases is imported where it is used: the other commands start faster without it.

SHOWN = 20  # names of a list that are printed for people; --json has all


def backup(
    target: Annotated[Path, typer.Argument(metavar="DIR", file_okay=False, help="Where the backup is, or will be.")],
    verify: Annotated[
        bool, typer.Option("--verify", help="Make none: check that every file of this one is as it was written.")
    ] = False,
    data_dir: DataDirOption = None,
    as_json: JsonOption = False,
) -> None:
    """Backs up everything into DIR while the service runs: rows, pictures, models, data sets, keys. Not settings nor logs.

    Into the same DIR again it copies what is new. Restore it with `darkroom restore`, to SQLite or PostgreSQL alike.

    Example: darkroom backup /mnt/disk/darkroom
    """
    from store.backup import back_up
    from store.manifest import verify as verified

    with _progress() as on_progress:
        if verify:
            manifest = verified(target.resolve(), on_progress)
        else:
            with _opened(data_dir) as (_, database, blobs):
                manifest = back_up(database, blobs, target.resolve(), on_progress)
    _print(manifest, as_json, "whole" if verify else "complete", target)


def restore(
    source: Annotated[Path, typer.Argument(metavar="DIR", file_okay=False, help="Where the backup is.")],
    data_dir: DataDirOption = None,
    as_json: JsonOption = False,
) -> None:
    """Restores the backup in DIR to an empty database and blob directory, those that the settings name.

    Every file is checked first. Jobs that were queued or running go on when the service starts.

    Example: darkroom restore /mnt/disk/darkroom --data-dir ~/darkroom
    """
    from store.restore import restore as restored

    with (
        _opened(data_dir, fresh=True) as (settings, database, blobs),
        only_one(settings.data_dir),
        _progress() as on_progress,
    ):
        manifest = restored(source.resolve(), database, blobs, on_progress)
    _print(manifest, as_json, "restored to", settings.data_dir)


def gc(
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would go.")] = False,
    grace_min: Annotated[
        float, typer.Option("--grace", min=0, metavar="MINUTES", help="Leave alone what was written within this time.")
    ] = 60.0,
    data_dir: DataDirOption = None,
    as_json: JsonOption = False,
) -> None:
    """Removes files that nothing refers to: what killed processes left behind. It runs beside the service.

    It also names rows whose files are missing; then the exit status is 1.

    Example: darkroom gc --dry-run
    """
    from store.garbage import collect, collect_files

    grace_s = grace_min * 60
    with _opened(data_dir) as (settings, database, blobs), _progress() as on_progress:
        found = collect(
            database, blobs, grace_s=grace_s, dry=dry_run, on_progress=lambda done: on_progress("blobs", done, 0)
        )
        collect_files(database, settings, found, grace_s=grace_s, dry=dry_run)
    if as_json:
        output.print_json(
            {
                "dry_run": dry_run,
                "kept_bytes": dict(found.kept),
                "garbage_bytes": dict(found.garbage),
                "removed": found.removed,
                "unknown": found.unknown,
                "missing": found.missing,
            }
        )
    else:
        kinds = sorted({*found.kept, *found.garbage})
        output.print_table(
            ("KIND", "STAYS", "WOULD GO" if dry_run else "GONE"),
            ((kind, output.size(found.kept[kind]), output.size(found.garbage[kind])) for kind in kinds),
            empty="There are no blobs yet.",
        )
        for title, names in (("Unknown, left alone", found.unknown), ("Missing", found.missing)):
            for name in names[:SHOWN]:
                output.notes().print(f"{title}: {name}", markup=False)
            if len(names) > SHOWN:
                output.notes().print(f"{title}: {len(names) - SHOWN:,} more, see --json", markup=False)
    if found.missing:
        raise typer.Exit(1)


@contextmanager
def _opened(data_dir: Path | None, *, fresh: bool = False) -> Iterator[tuple[Settings, Database, Blobs]]:
    """The database and blobs of the settings; where they must be there already, a wrong directory is refused, not made."""
    from store.blobs import LocalBlobs
    from store.database import Database
    from store.resources import open_blobs
    from store.settings import load_settings

    settings = load_settings(**({"data_dir": data_dir} if data_dir is not None else {}))
    database = Database(settings.resolved_database_url)
    file = database.url.database if database.is_sqlite else None
    if file is not None and not fresh and not Path(file).exists():
        raise ClientError(
            "no_data", f"there is no Darkroom in {settings.data_dir}", remedy="name its directory with --data-dir"
        )
    if file is not None:
        Path(file).parent.mkdir(parents=True, exist_ok=True)
    try:
        # What is fresh has no tables to ask; `restore` refuses one with rows or blobs itself.
        blobs = LocalBlobs(settings.resolved_blobs_dir) if fresh else open_blobs(settings, database)
        yield settings, database, blobs
    finally:
        database.close()


@contextmanager
def _progress() -> Iterator[Callable[[str, int, int], None]]:
    """Bars, one for each stage."""
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=output.notes(), transient=True) as bars:
        tasks: dict[str, Any] = {}

        def show(stage: str, done: int, total: int) -> None:
            if stage not in tasks:
                tasks[stage] = bars.add_task(stage, total=total or None)
            bars.update(tasks[stage], completed=done, total=total or None)

        yield show


def _print(manifest: Manifest, as_json: bool, done: str, place: Path) -> None:
    if as_json:
        output.print_json(manifest.model_dump(mode="json"))
        return
    output.print_members(
        [
            (done, str(place)),
            ("of", output.moment(manifest.created_at.isoformat())),
            ("rows", f"{sum(table.rows for table in manifest.tables.values()):,}"),
            ("blobs", f"{manifest.blobs:,}, {output.size(manifest.size_bytes)}"),
            ("by", f"Darkroom {manifest.release}"),
        ]
    )
    for name in manifest.missing[:SHOWN]:
        output.notes().print(f"Missing or damaged before the backup: {name}", markup=False)
