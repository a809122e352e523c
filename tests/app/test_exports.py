"""Asking for a model in another form, and fetching it."""

from __future__ import annotations

import hashlib

from store.exports import export_key
from store.queue import Lane
from store.records import JobKind, Model
from tests.app.conftest import Service, assert_problem


def exporting(service: Service, content: bytes, form: str = "onnx") -> None:
    """A worker that exports whatever comes."""
    claim = service.worker.claim(JobKind.EXPORT)
    assert claim.model_id is not None
    service.resources.blobs.put(export_key(claim.model_id, claim.job_id, claim.fence), content)
    result = {
        "model": claim.model_id,
        "format": form,
        "sha256": hashlib.sha256(content).hexdigest(),
        "size_bytes": len(content),
        "url": f"/v1/models/{claim.model_id}/exports/{form}",
    }
    service.worker.succeed(claim, result)


def test_an_export_is_a_job_of_the_newest_weights(service: Service) -> None:
    model_id = service.add_model()
    response = service.http.post(f"/v1/models/{model_id}/exports", json={"format": "onnx"})
    assert response.status_code == 202, response.text
    job = response.json()
    assert response.headers["location"] == f"/v1/jobs/{job['id']}"
    assert (job["kind"], job["status"], job["model"], job["request"]) == (
        "export",
        "queued",
        model_id,
        {"format": "onnx"},
    )
    assert service.queue.waiting(Lane.IO) == 1
    claim = service.worker.claim(JobKind.EXPORT)
    with service.resources.database.snapshot() as session:
        assert claim.checkpoint == session.get_one(Model, model_id).checkpoint is not None


def test_the_newest_file_of_a_format_is_served_and_revalidated(service: Service) -> None:
    model_id = service.add_model()
    path = f"/v1/models/{model_id}/exports"
    for content in (b"PK first", b"PK second" * 300_000):
        service.http.post(path, json={"format": "onnx"})
        exporting(service, content)
    service.http.post(path, json={"format": "native"})
    exporting(service, b"PK native", "native")

    got = service.http.get(f"{path}/onnx")
    assert (got.status_code, got.content) == (200, b"PK second" * 300_000)
    assert got.headers["content-type"] == "application/zip"
    assert got.headers["content-length"] == str(len(got.content))
    assert got.headers["content-disposition"] == f'attachment; filename="{model_id}-onnx.zip"'
    etag = got.headers["etag"]
    assert etag == f'"{hashlib.sha256(got.content).hexdigest()}"'
    assert service.http.get(f"{path}/onnx", headers={"If-None-Match": etag}).status_code == 304
    assert service.http.get(f"{path}/native").content == b"PK native"
    head = service.http.head(f"{path}/onnx")
    assert (head.status_code, head.content, head.headers["etag"]) == (200, b"", etag)


def test_what_is_not_there_is_named(service: Service) -> None:
    model_id = service.add_model()
    path = f"/v1/models/{model_id}/exports"
    assert_problem(service.http.get(f"{path}/onnx"), 404, "export_not_found", "format")
    service.http.post(path, json={"format": "onnx"})
    assert_problem(service.http.get(f"{path}/onnx"), 404, "export_not_found", "format")
    assert_problem(service.http.get("/v1/models/mdl_nope/exports/onnx"), 404, "model_not_found", "model_id")
    assert_problem(
        service.http.post("/v1/models/mdl_nope/exports", json={"format": "onnx"}), 404, "model_not_found", "model_id"
    )


def test_what_cannot_be_exported_is_refused(service: Service) -> None:
    model_id, bare = service.add_model(), service.add_model(has_weights=False)
    path = f"/v1/models/{model_id}/exports"
    problem = assert_problem(service.http.post(path, json={"format": "jpeg"}), 422, "invalid_parameter", "/format")
    assert "torch-export" in problem["detail"]
    assert_problem(service.http.get(f"{path}/jpeg"), 422, "invalid_parameter", "format")
    refused = service.http.post(f"/v1/models/{bare}/exports", json={"format": "onnx"})
    assert_problem(refused, 409, "model_not_ready", "model_id")
    assert service.queue.waiting(Lane.IO) == 0


def test_the_same_key_gives_the_same_job(service: Service) -> None:
    path, key = f"/v1/models/{service.add_model()}/exports", {"Idempotency-Key": "once"}
    first, again = (service.http.post(path, json={"format": "onnx"}, headers=key).json() for _ in range(2))
    assert first["id"] == again["id"]
    other = service.http.post(path, json={"format": "native"}, headers=key)
    assert_problem(other, 422, "idempotency_key_reused", "Idempotency-Key")


def test_a_model_is_not_deleted_under_its_export_and_takes_its_files_along(service: Service) -> None:
    model_id = service.add_model()
    service.http.post(f"/v1/models/{model_id}/exports", json={"format": "onnx"})
    assert_problem(service.http.delete(f"/v1/models/{model_id}"), 409, "in_use", "model_id")
    exporting(service, b"PK")
    assert service.http.delete(f"/v1/models/{model_id}").status_code == 204
    assert service.resources.blobs.keys(f"models/{model_id}") == []
