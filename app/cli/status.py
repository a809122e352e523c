"""`darkroom status`: what waits, which workers there are, and how fast they are."""

from __future__ import annotations

from datetime import UTC, datetime

from app.cli import output
from app.cli.credential import connect
from app.cli.options import JsonOption, UrlOption
from app.client import DEFAULT_URL, JsonObject

STAGES = ("claim", "render", "encode", "store", "commit")  # in the order in which they happen


def status(as_json: JsonOption = False, url: UrlOption = DEFAULT_URL) -> None:
    """Shows what waits, and every worker: images/s, mean batch, mean wait, milliseconds of each stage.

    Example: darkroom status
    """
    with connect(url) as client:
        found = client.system()
    if as_json:
        output.print_json(found)
        return
    output.print_members(
        [
            ("version", found["version"]),
            *(
                (f"{lane} jobs", f"{depth['queued']:,} queued, {depth['running']:,} running")
                for lane, depth in found["queue"].items()
            ),
            ("images waiting", f"{found['images_waiting']:,} of at most {found['max_queued_images']:,}"),
            ("images/s", output.amount(found["images_per_s"])),
            ("generators", f"{output.size(found['cache_bytes'])} loaded"),
            ("disk", _disk(found)),
        ]
    )
    output.print_table(
        ("WORKER", "DEVICE", "SEEN", "IMAGES", "IMAGES/S", "BATCH", "WAIT S", "CLAIM/RENDER/ENCODE/STORE/COMMIT MS"),
        (
            (
                worker["name"],
                worker["device"],
                f"{_age_s(worker['seen_at']):.0f} s ago",
                f"{worker['images']:,}",
                output.amount(worker["images_per_s"]),
                output.amount(worker["batch_images"]["mean"]),
                output.amount(worker["wait_s"]["mean"]),
                "/".join(_milliseconds(worker, stage) for stage in STAGES) if worker["stages"] else "-",
            )
            for worker in found["workers"]
        ),
        empty="No worker has reported within the last half minute.",
    )


def _disk(found: JsonObject) -> str:
    left = f"{output.size(found['free_bytes'])} free of {output.size(found['disk_bytes'])}"
    warning = "; [bold red]that is little[/], free some: darkroom gc, or DARKROOM_KEEP_…_DAYS"
    return left + (warning if found["low_on_disk"] else "")


def _age_s(moment: str) -> float:
    return max(0.0, (datetime.now(UTC) - datetime.fromisoformat(moment)).total_seconds())


def _milliseconds(worker: JsonObject, stage: str) -> str:
    return f"{worker['stages'][stage]['mean_s'] * 1000:.1f}" if stage in worker["stages"] else "-"
