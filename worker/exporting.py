"""Export jobs: a model becomes a file that others can run.

A child process does it, as `python -m models export` would (worker/child.py): what converts networks takes hundreds of
megabytes that it would not give back, and this worker would otherwise hold no PyTorch (docs/decisions/0009-exports.md).
"""

from __future__ import annotations

import hashlib
import zipfile
from pathlib import Path
from typing import Any

from sqlalchemy.orm import Session

from store.exports import export_folder, export_key, newest_exports, unfinished_exports
from worker.child import said_by_child
from worker.running import Finish, Run
from worker.scratch import scratch

UNCHANGING = (1980, 1, 1, 0, 0, 0)  # the date of a zip's members: equal files give an equal zip


def export_model(run: Run) -> Finish:
    """Export the weights that the job is pinned to, as one zip; the returned finish says where it is."""
    resources, claim = run.resources, run.claim
    assert claim.checkpoint is not None
    assert claim.model_id is not None
    form = claim.request["format"]
    with scratch(resources.settings, claim) as directory:
        model = resources.blobs.fetch(claim.checkpoint, directory / "model")
        said = said_by_child(run, ["export", str(model), str(directory / "export"), "--format", form])
        archive = directory / "export.zip"
        _pack(directory / "export", archive)
        run.raise_if_stopped()
        _clear_away(run)
        resources.blobs.put_file(export_key(claim.model_id, claim.job_id, claim.fence), archive)
        size_bytes = archive.stat().st_size
        with archive.open("rb") as file:
            sha256 = hashlib.file_digest(file, "sha256").hexdigest()

    def finish(_session: Session) -> dict[str, Any]:
        return {
            "model": claim.model_id,
            "format": form,
            "images_seen": said["images_seen"],
            "files": said["files"],
            "largest_difference": said["largest_difference"],
            "size_bytes": size_bytes,
            "sha256": sha256,
            "url": f"/v1/models/{claim.model_id}/exports/{form}",
        }

    return finish


def _pack(directory: Path, archive: Path) -> None:
    """Weights hardly get smaller by compressing, so nothing is."""
    with zipfile.ZipFile(archive, "x", zipfile.ZIP_STORED) as packed:
        for path in sorted(directory.iterdir()):
            with path.open("rb") as source, packed.open(zipfile.ZipInfo(path.name, UNCHANGING), "w") as member:
                while chunk := source.read(2**20):
                    member.write(chunk)


def _clear_away(run: Run) -> None:
    """Deletes what no export job serves any more; the one that this job replaces stays: somebody may be fetching it."""
    resources, model_id = run.resources, run.claim.model_id or ""
    keys = resources.blobs.keys(
        export_folder(model_id)
    )  # before the rows: what another job writes after them is not judged
    with resources.database.snapshot() as session:
        served = {export_key(model_id, job.id, job.fence) for job in newest_exports(session, model_id).values()}
        unfinished = unfinished_exports(session, model_id)
    for key in keys:
        job_id = key.rpartition("/")[2].rpartition("-")[0]
        if key not in served and job_id not in unfinished:
            resources.blobs.delete(key)
