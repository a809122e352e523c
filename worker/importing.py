"""Import jobs: an upload or a folder becomes prepared data."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from sqlalchemy.orm import Session

from models.catalog import DuplicatePolicy
from models.prepare import Manifest, prepare
from store.errors import StoreError
from store.records import Dataset, DatasetStatus
from worker.running import Finish, Run
from worker.scratch import scratch


def import_dataset(run: Run) -> Finish:
    """Prepare the job's pictures and store them; the returned finish fills the data set's row."""
    resources, request = run.resources, run.claim.request
    source_blob = request["source"].get("blob")
    folder = f"datasets/{run.claim.dataset_id}"
    with scratch(resources.settings, run.claim) as directory:
        source = (
            resources.blobs.fetch(source_blob, directory / "upload")
            if source_blob is not None
            else _inside_import_root(Path(request["source"]["path"]), resources.settings.import_root)
        )
        started = time.monotonic()

        def on_progress(done: int, total: int) -> None:
            rate = done / max(time.monotonic() - started, 1e-3)
            run.report(done=done, total=total, rate=rate, eta_s=(total - done) / rate if rate else None)

        manifest = prepare(
            source,
            directory / "prepared",
            resolution=request.get("resolution"),
            channels=request.get("channels"),
            background=_colour(request.get("background") or "#ffffff"),
            duplicates=DuplicatePolicy(request.get("duplicates") or DuplicatePolicy.KEEP),
            source_name=request["name"],
            on_progress=on_progress,
            should_stop=run.should_stop,
        )
        run.raise_if_stopped()
        size_bytes = 0
        for path in sorted((directory / "prepared").iterdir()):
            resources.blobs.put_file(f"{folder}/{path.name}", path)
            size_bytes += path.stat().st_size

    def finish(session: Session) -> dict[str, Any]:
        dataset = session.get_one(Dataset, run.claim.dataset_id)
        _fill(dataset, manifest, size_bytes)
        return {"dataset": dataset.id, "images": dataset.image_count, "refused": dataset.refused_count}

    return finish


def discard_upload(run: Run) -> None:
    """Deletes what the client sent, if anything, once the job has ended; it is of no more use."""
    upload = run.claim.request.get("source", {}).get("blob")
    if upload is not None:
        run.resources.blobs.delete(upload)


def _fill(dataset: Dataset, manifest: Manifest, size_bytes: int) -> None:
    dataset.status = DatasetStatus.READY
    dataset.image_count = manifest.count
    dataset.refused_count = len(manifest.refused)
    dataset.resolution = manifest.resolution
    dataset.channels = manifest.channels
    dataset.size_bytes = size_bytes
    if manifest.classes is not None and manifest.class_counts is not None:
        counts = zip(manifest.classes, manifest.class_counts, strict=True)
        dataset.classes = [{"name": name, "count": count} for name, count in counts]


def _inside_import_root(path: Path, root: Path | None) -> Path:
    # The API has checked the same; this worker's settings and disk may differ from its.
    resolved = path.resolve()
    if root is None or not resolved.is_relative_to(root):
        raise StoreError(f"{path} is not inside this worker's DARKROOM_IMPORT_ROOT ({root or 'not set'})")
    return resolved


def _colour(text: str) -> tuple[int, int, int]:
    red, green, blue = bytes.fromhex(text.removeprefix("#"))
    return red, green, blue
