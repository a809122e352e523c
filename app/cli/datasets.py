"""`darkroom dataset`: pictures to learn from."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from app.cli import output
from app.cli.archive import archive_of
from app.cli.credential import connect
from app.cli.options import JsonOption, UrlOption, WatchOption, YesOption
from app.cli.watching import Bars, finish, watch
from app.client import DEFAULT_URL, Client, JsonObject
from models.catalog import DuplicatePolicy

commands = typer.Typer(no_args_is_help=True, help="Pictures to learn from: import, list, show, delete.")

REFUSED_SHOWN = 20
GROUPS_SHOWN, PATHS_SHOWN = 5, 4


@commands.command("import")
def import_(
    path: Annotated[Path, typer.Argument(metavar="PATH", exists=True, help="A zip, a tar, or a folder of pictures.")],
    name: Annotated[
        str | None, typer.Option(metavar="NAME", help="What to call it. (default: the file's name)")
    ] = None,
    resolution: Annotated[
        int | None,
        typer.Option(metavar="PX", help="Side of the prepared squares in pixels. (default: what suits the pictures)"),
    ] = None,
    duplicates: Annotated[
        DuplicatePolicy,
        typer.Option(
            help="Pictures that are there twice: exactly, byte for byte, or nearly. Of dropped ones the first stays."
        ),
    ] = DuplicatePolicy.KEEP,
    watching: WatchOption = True,
    as_json: JsonOption = False,
    url: UrlOption = DEFAULT_URL,
) -> None:
    """Uploads an archive or a folder of pictures and prepares it for training.

    Folders inside it are classes, where there are at least two. Files that can't be used are named at the end, and how
    many pictures are there twice.

    Example: darkroom dataset import ~/pictures/flowers --name flowers --resolution 64
    """
    with connect(url) as client:
        job = upload(client, path, name or default_name(path), resolution, duplicates)
        if not watching:
            _print_submitted(job, as_json)
            return
        job = watch(client, job)
        finish(job)
        dataset = client.dataset(dataset_of(job))
    if as_json:
        output.print_json(dataset)
    else:
        print_dataset(dataset)


@commands.command("list")
def list_(as_json: JsonOption = False, url: UrlOption = DEFAULT_URL) -> None:
    """Lists the data sets, newest first.

    Example: darkroom dataset list --json
    """
    with connect(url) as client:
        rows = client.datasets()
    if as_json:
        output.print_json(rows)
        return
    output.print_table(
        ("ID", "NAME", "STATUS", "IMAGES", "REFUSED", "PX", "CLASSES"),
        (
            (
                row["id"],
                output.plain(row["name"]),
                output.status(row["status"]),
                output.amount(row["image_count"]),
                output.amount(row["refused_count"]),
                output.plain(row["resolution"]),
                output.plain(len(row["classes"]) if row["classes"] else None),
            )
            for row in rows
        ),
        empty="There are no data sets yet; `darkroom dataset import PATH` makes one.",
    )


@commands.command()
def show(
    dataset: Annotated[str, typer.Argument(metavar="DATASET", help="Id or name.")],
    as_json: JsonOption = False,
    url: UrlOption = DEFAULT_URL,
) -> None:
    """Shows one data set: counts, classes, pictures that are there twice, and the files that were refused with the reasons.

    Example: darkroom dataset show flowers
    """
    with connect(url) as client:
        found = client.dataset(dataset)
    if as_json:
        output.print_json(found)
    else:
        print_dataset(found)


@commands.command()
def delete(
    dataset: Annotated[str, typer.Argument(metavar="DATASET", help="Id or name.")],
    yes: YesOption = False,
    url: UrlOption = DEFAULT_URL,
) -> None:
    """Deletes a data set; models that learned from it stay.

    Example: darkroom dataset delete flowers --yes
    """
    with connect(url) as client:
        found = client.dataset(dataset)
        if not yes:
            typer.confirm(f"Delete the data set {found['name']} ({found['id']})?", abort=True, err=True)
        client.delete_dataset(found["id"])
    output.notes().print(f"Deleted {found['id']}.")


def upload(
    client: Client,
    path: Path,
    name: str,
    resolution: int | None,
    duplicates: DuplicatePolicy = DuplicatePolicy.KEEP,
) -> JsonObject:
    """Sends an archive or folder with a progress bar, and returns the job that imports it."""
    with Bars(output.notes(), transient=True) as progress:
        packing = progress.add_task("packing", total=None, visible=path.is_dir())
        sending = progress.add_task("uploading", total=None, start=False, visible=False)

        def packed(done: int, total: int) -> None:
            progress.update(packing, completed=done, total=total, details=f"{done:,}/{total:,} files")

        def sent(done_bytes: int) -> None:
            progress.update(sending, completed=done_bytes, details=output.size(done_bytes))

        with archive_of(path, packed) as archive:
            total_bytes = archive.seek(0, 2)
            archive.seek(0)
            progress.update(sending, total=total_bytes, visible=True)
            progress.start_task(sending)
            return client.upload(archive, name=name, resolution=resolution, duplicates=duplicates, on_progress=sent)


def default_name(path: Path) -> str:
    """The file's name without its ending, or the folder's."""
    return (path.resolve().name if path.is_dir() else path.stem) or "pictures"


def dataset_of(job: JsonObject) -> str:
    """Id of the data set that an import makes."""
    return str(job["dataset"])


def print_dataset(dataset: JsonObject) -> None:
    """Prints one data set for people."""
    classes = dataset["classes"]
    counts = ", ".join(f"{entry['name']} ({entry['count']:,})" for entry in classes) if classes else "none: unlabelled"
    resolution, channels = dataset["resolution"], dataset["channels"]
    shape = f"{resolution}x{resolution} {'grey' if channels == 1 else 'RGB'}" if resolution else None
    output.print_members(
        [
            ("data set", dataset["id"]),
            ("name", output.plain(dataset["name"])),
            ("status", output.status(dataset["status"])),
            ("images", output.amount(dataset["image_count"])),
            ("prepared as", shape),
            ("classes", output.plain(counts) if resolution else None),
            ("size", output.size(dataset["size_bytes"]) if dataset.get("size_bytes") else None),
            ("skipped", output.amount(dataset["skipped_count"]) if dataset.get("skipped_count") else None),
            ("created", output.moment(dataset["created_at"])),
        ]
    )
    _print_duplicates(dataset.get("duplicates") or {})
    refused, count = dataset.get("refused") or [], dataset["refused_count"]
    if count:
        console = output.results()
        console.print(f"\n{count:,} {'file was' if count == 1 else 'files were'} refused:")
        for entry in refused[:REFUSED_SHOWN]:
            console.print(f"  {output.plain(entry['path'])}: [yellow]{output.plain(entry['reason'])}[/]")
        if count > min(len(refused), REFUSED_SHOWN):
            more = count - min(len(refused), REFUSED_SHOWN)
            console.print(f"  … and {more:,} more; `darkroom dataset show {dataset['id']} --json` has more of them")


def _print_duplicates(duplicates: JsonObject) -> None:
    console = output.results()
    for sort, words in (("exact", "are copies of the same files"), ("near", "look the same")):
        found = duplicates.get(sort, {})
        if not found.get("images"):
            continue
        console.print(f"\n{found['images']:,} images {words}, in {found['groups']:,} groups:")
        for paths in found["first"][:GROUPS_SHOWN]:
            console.print(
                f"  {output.plain(', '.join(paths[:PATHS_SHOWN]))}{', …' if len(paths) > PATHS_SHOWN else ''}"
            )
        if found["groups"] > GROUPS_SHOWN:
            console.print("  …")


def _print_submitted(job: JsonObject, as_json: bool) -> None:
    if as_json:
        output.print_json(job)
    else:
        output.results().print(
            f"{job['id']} imports {dataset_of(job)}; watch it with `darkroom jobs watch {job['id']}`"
        )
