"""Jobs that bring a model in: the uploaded zip of a native export becomes a model that can generate."""

from __future__ import annotations

from typing import Any

from sqlalchemy.orm import Session

from store.records import Job, Model, ModelStatus
from worker.child import said_by_child
from worker.running import Finish, Run
from worker.scratch import scratch


def import_model(run: Run) -> Finish:
    """Check the upload in a child process and store its two files; the returned finish adds the model's row."""
    resources, claim = run.resources, run.claim
    with scratch(resources.settings, claim) as directory:
        upload = resources.blobs.fetch(claim.request["source"]["blob"], directory / "upload")
        card = said_by_child(run, ["import-model", str(upload), str(directory / "model")])
        run.raise_if_stopped()
        prefix = f"models/{claim.model_id}/{card['images_seen']:012d}-{claim.fence}"
        for path in sorted((directory / "model").iterdir()):
            resources.blobs.put_file(f"{prefix}/{path.name}", path)

    def finish(session: Session) -> dict[str, Any]:
        session.add(
            Model(
                id=claim.model_id,
                account=session.get_one(Job, claim.job_id).account,
                name=claim.request["name"],
                kind=card["kind"],
                status=ModelStatus.READY,
                resolution=card["resolution"],
                channels=card["channels"],
                classes=card["classes"],
                options=card["options"],
                seed=0,
                images_seen=card["images_seen"],
                metrics={"notes": [*card.get("notes", ()), "imported from an upload"]},
                checkpoint=prefix,
                created_at=resources.database.now(session),
            )
        )
        return {"model": claim.model_id}

    return finish
