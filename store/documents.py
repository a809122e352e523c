"""Rows as clients see them, where both the API and the workers show them."""

from __future__ import annotations

from typing import Any

from store.records import Job, JobKind, JobStatus


def job_document(job: Job) -> dict[str, Any]:
    """Return a job as JSON-like values, without its images; app/jobs.py says what each member means."""
    here = f"/v1/jobs/{job.id}"
    links = {"self": here, "events": f"{here}/events", "cancel": f"{here}/cancel"}
    if job.dataset_id is not None:
        links["dataset"] = f"/v1/datasets/{job.dataset_id}"
    if job.model_id is not None:
        links["model"] = f"/v1/models/{job.model_id}"
    if job.kind is JobKind.SAMPLE:
        links |= {"images": f"/v1/images?job={job.id}", "zip": f"{here}/images.zip", "grid": f"{here}/grid.png"}
    error = None
    if job.error_code is not None:
        error = {"code": job.error_code, "message": job.error_message or "", "retryable": bool(job.error_retryable)}
    return {
        "id": job.id,
        "object": "job",
        "kind": job.kind,
        "priority": job.priority,
        "deadline_at": job.deadline_at,
        "status": job.status,
        "created_at": job.created_at,
        "started_at": job.started_at,
        "finished_at": job.finished_at,
        "progress": progress_document(job),
        "attempts": job.attempts,
        "cancel_requested": job.cancel_requested,
        "error": error,
        "result": job.result,
        "dataset": job.dataset_id,
        "model": job.model_id,
        "request": job.request,
        "request_id": job.request_id,
        "links": links,
    }


def progress_document(job: Job) -> dict[str, Any]:
    """Return how far a job is."""
    fraction = 1.0 if job.status is JobStatus.SUCCEEDED else None
    if fraction is None and job.total:
        fraction = min(1.0, max(0.0, job.done / job.total))
    return {
        "done": job.done,
        "total": job.total,
        "unit": job.unit,
        "rate": job.rate,
        "eta_s": job.eta_s,
        "fraction": fraction,
    }
