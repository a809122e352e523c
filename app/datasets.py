"""Data sets: looking at what became of pictures that were brought in (app/imports.py), and deleting them."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Any

from fastapi import APIRouter, Query
from pydantic import BaseModel, ConfigDict, Field
from sqlalchemy import ColumnElement, select
from sqlalchemy.orm import Session

from app.auth import Caller, MayRead, MayTrain
from app.dependencies import AfterDataset, Attached, DatasetId, Limit
from app.errors import InUse, NotFound
from app.pages import Page, example_page, newest_first
from app.refusals import refusals
from store import records
from store.errors import BlobNotFound
from store.records import DatasetStatus, JobStatus
from store.removal import delete_blobs
from store.resources import Resources

router = APIRouter(prefix="/v1/datasets", tags=["datasets"])

MANIFEST = "manifest.json"
PATHS_SHOWN = 100  # of one group of duplicates

EXAMPLE: dict[str, Any] = {
    "id": "ds_019ad3a8c0de7c3f8f4d2b6a10c5e7f1",
    "object": "dataset",
    "name": "digits",
    "status": "ready",
    "created_at": "2026-01-05T12:00:00Z",
    "image_count": 1797,
    "refused_count": 1,
    "resolution": 32,
    "channels": 1,
    "classes": [{"name": "0", "count": 178}, {"name": "1", "count": 1619}],
    "size_bytes": 1840128,
    "refused": [{"path": "3/broken.png", "reason": "truncated: the file ends early"}],
    "skipped_count": 2,
    "duplicates": {
        "exact": {"images": 2, "groups": 1, "first": [["3/1.png", "3/1 (copy).png"]]},
        "near": {"images": 0, "groups": 0, "first": []},
    },
    "links": {
        "self": "/v1/datasets/ds_019ad3a8c0de7c3f8f4d2b6a10c5e7f1",
        "jobs": "/v1/jobs?dataset=ds_019ad3a8c0de7c3f8f4d2b6a10c5e7f1",
    },
}


class ClassCount(BaseModel):
    """A class of a data set."""

    name: str = Field(description="The folder's name.")
    count: int = Field(description="Images in it.")

    model_config = ConfigDict(json_schema_extra={"examples": [{"name": "0", "count": 178}]})


class Refused(BaseModel):
    """A file that was not taken in."""

    path: str = Field(description="Its path within the archive or folder.")
    reason: str = Field(description="Why, and what could be done.")

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"path": "3/broken.png", "reason": "truncated: the file ends early"}]}
    )


class DuplicateGroups(BaseModel):
    """Groups of images that are one picture."""

    images: int = Field(description="Images in all groups.")
    groups: int = Field(description="Number of groups.")
    first: list[list[str]] = Field(description="The first groups, with the first paths of each.")

    model_config = ConfigDict(json_schema_extra={"examples": [EXAMPLE["duplicates"]["exact"]]})

    @classmethod
    def of(cls, groups: list[list[int]], paths: list[str], limit: int) -> DuplicateGroups:
        """Groups of places in a manifest as groups of paths."""
        first = [[paths[place] for place in group[:PATHS_SHOWN]] for group in groups[:limit]]
        return cls(images=sum(map(len, groups)), groups=len(groups), first=first)


class Duplicates(BaseModel):
    """Images that are there more than once."""

    exact: DuplicateGroups = Field(description="Of the same file, byte for byte.")
    near: DuplicateGroups = Field(description="That look the same, though their files differ.")

    model_config = ConfigDict(json_schema_extra={"examples": [EXAMPLE["duplicates"]]})


@dataclass(frozen=True)
class Report:
    """What the manifest of a data set says of its files."""

    refused: list[Refused]
    skipped_count: int
    duplicates: Duplicates


class Dataset(BaseModel):
    """Pictures that a model can be trained on."""

    id: str = Field(description="Id of the data set.")
    object: str = Field("dataset", description="Always `dataset`.")
    name: str = Field(description="What people call it.")
    status: DatasetStatus = Field(description="Whether it can be trained on.")
    created_at: datetime = Field(description="When it was uploaded.")
    image_count: int = Field(description="Images taken in.")
    refused_count: int = Field(description="Files that were not.")
    resolution: int | None = Field(description="Side of the prepared squares in pixels; null until it is ready.")
    channels: int | None = Field(description="1 for grey, 3 for RGB; null until it is ready.")
    classes: list[ClassCount] | None = Field(description="Its classes by label index; null when it has no labels.")
    size_bytes: int = Field(description="Size of the prepared data.")
    refused: list[Refused] | None = Field(
        None, description="The first refused files with the reasons; null in lists, and until it is ready."
    )
    skipped_count: int | None = Field(
        None, description="Files that systems leave behind, such as .DS_Store; null in lists, and until it is ready."
    )
    duplicates: Duplicates | None = Field(
        None, description="Images that are there more than once; null in lists, and until it is ready."
    )
    links: dict[str, str] = Field(description="Paths of what belongs to it.")

    model_config = ConfigDict(json_schema_extra={"examples": [EXAMPLE]})

    @classmethod
    def of(cls, dataset: records.Dataset, report: Report | None = None) -> Dataset:
        """The row as clients see it, with what its manifest reports."""
        return cls(
            id=dataset.id,
            name=dataset.name,
            status=dataset.status,
            created_at=dataset.created_at,
            image_count=dataset.image_count,
            refused_count=dataset.refused_count,
            resolution=dataset.resolution,
            channels=dataset.channels,
            classes=[ClassCount(**one) for one in dataset.classes] if dataset.classes is not None else None,
            size_bytes=dataset.size_bytes,
            refused=report.refused if report else None,
            skipped_count=report.skipped_count if report else None,
            duplicates=report.duplicates if report else None,
            links={"self": f"/v1/datasets/{dataset.id}", "jobs": f"/v1/jobs?dataset={dataset.id}"},
        )


class DatasetPage(Page[Dataset]):
    """One page of data sets."""

    model_config = ConfigDict(
        json_schema_extra=example_page({**EXAMPLE, "refused": None, "skipped_count": None, "duplicates": None})
    )


@router.get("", summary="List data sets", operation_id="list_datasets")
def list_datasets(caller: MayRead, resources: Attached, after: AfterDataset = None, limit: Limit = 20) -> DatasetPage:
    """Data sets, newest first."""
    with resources.database.snapshot() as session:
        rows, more = newest_first(
            session,
            caller.seen(select(records.Dataset), records.Dataset),
            records.Dataset.id,
            "ds",
            after=after,
            limit=limit,
        )
        return DatasetPage(data=[Dataset.of(dataset) for dataset in rows], has_more=more)


@router.get("/{dataset_id}", summary="Show a data set", operation_id="get_dataset")
def get_dataset(
    caller: MayRead,
    resources: Attached,
    dataset_id: DatasetId,
    refused_limit: Annotated[int, Query(ge=0, le=100_000, description="Most refused files to show.")] = 100,
    duplicates_limit: Annotated[
        int, Query(ge=0, le=10_000, description="Most groups of duplicates to show of each sort.")
    ] = 20,
) -> Dataset:
    """A data set with the files that were refused, and why, and those that are there more than once."""
    with resources.database.snapshot() as session:
        dataset = find(session, caller, dataset_id)
    is_ready = dataset.status is DatasetStatus.READY
    return Dataset.of(dataset, _report(resources, dataset_id, refused_limit, duplicates_limit) if is_ready else None)


@router.delete(
    "/{dataset_id}",
    summary="Delete a data set",
    operation_id="delete_dataset",
    status_code=204,
    responses=refusals(InUse),
)
def delete_dataset(caller: MayTrain, resources: Attached, dataset_id: DatasetId) -> None:
    """Deletes its pictures for good; models that learned from it stay. Refused while a job needs it."""
    with resources.database.transaction() as session:
        dataset = find(session, caller, dataset_id, locked=True)
        refuse_if_in_use(session, records.Job.dataset_id == dataset_id, f"the data set {dataset_id}", "dataset_id")
        session.delete(dataset)
    delete_blobs(resources.blobs, [f"datasets/{dataset_id}", f"uploads/{dataset_id}.zip"])


def find(
    session: Session, caller: Caller, dataset_id: str, *, locked: bool = False, parameter: str = "dataset_id"
) -> records.Dataset:
    """Return the row, until the transaction ends nobody else's where it is locked.

    Raises:
        NotFound: there is none that the caller may see.
    """
    dataset = session.get(records.Dataset, dataset_id, with_for_update=True if locked else None)
    if dataset is None or not caller.sees(dataset):
        raise NotFound(
            f"there is no data set {dataset_id}",
            code="dataset_not_found",
            parameter=parameter,
            remedy="GET /v1/datasets lists the data sets that there are",
        )
    return dataset


def refuse_if_in_use(session: Session, needs_it: ColumnElement[bool], what: str, parameter: str) -> None:
    """Raise InUse while unfinished jobs need it.

    Args:
        needs_it: the condition on a job's row.
        what: how the message calls it.
        parameter: the request's parameter that named it.
    """
    unfinished = records.Job.status.in_([JobStatus.QUEUED, JobStatus.RUNNING])
    ids = session.scalars(select(records.Job.id).where(needs_it, unfinished).order_by(records.Job.id).limit(4)).all()
    if ids:
        raise InUse(
            f"{what} is needed by {', '.join(ids[:3])}{' and others' if len(ids) > 3 else ''}",
            parameter=parameter,
            remedy="cancel them with POST /v1/jobs/{id}/cancel, or wait until they have ended",
            more={"jobs": list(ids[:3])},
        )


def _report(resources: Resources, dataset_id: str, refused_limit: int, duplicates_limit: int) -> Report | None:
    try:
        manifest = json.loads(resources.blobs.get(f"datasets/{dataset_id}/{MANIFEST}"))
    except BlobNotFound:
        return None  # deleted between the row and here
    paths = [image["path"] for image in manifest["images"]]
    groups = manifest.get("duplicates", {})  # an import of an earlier release did not look for them
    return Report(
        refused=[Refused(path=one["path"], reason=one["reason"]) for one in manifest["refused"][:refused_limit]],
        skipped_count=manifest.get("skipped", 0),
        duplicates=Duplicates(
            exact=DuplicateGroups.of(groups.get("exact", []), paths, duplicates_limit),
            near=DuplicateGroups.of(groups.get("near", []), paths, duplicates_limit),
        ),
    )
