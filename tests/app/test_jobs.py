"""Jobs over HTTP: listing, ETags, long polling and canceling."""

from __future__ import annotations

import socket
from typing import Any

import pytest

from store import jobs
from store.exports import export_key
from store.records import JobKind
from store.strips import strips_key
from tests.app.conftest import Service, assert_problem, at_the_same_time, eventually


def generate(service: Service, **body: Any) -> dict[str, Any]:
    model_id = body.pop("model", None) or service.add_model()
    job: dict[str, Any] = service.http.post("/v1/generations", json={"model": model_id, **body}).json()
    return job


def test_jobs_are_listed_newest_first_and_filtered(service: Service) -> None:
    dataset_id, model_id = service.add_dataset(), service.add_model()
    train = service.http.post("/v1/trainings", json={"dataset": dataset_id}).json()
    first, second = generate(service, model=model_id), generate(service, model=model_id)
    service.http.post(f"/v1/jobs/{second['id']}/cancel")

    def listed(**query: Any) -> list[str]:
        return [job["id"] for job in service.http.get("/v1/jobs", params=query).json()["data"]]

    assert listed() == [second["id"], first["id"], train["id"]]
    assert listed(kind="train") == listed(dataset=dataset_id) == [train["id"]]
    assert listed(status="canceled") == [second["id"]]
    assert listed(status=["canceled", "queued"], kind=["sample", "train"]) == listed()
    assert listed(model=model_id) == [second["id"], first["id"]]
    assert listed(model=model_id, status="queued") == [first["id"]]
    assert listed(limit=1) == [second["id"]]
    assert listed(limit=2, after=second["id"]) == [first["id"], train["id"]]


def test_a_filter_that_is_none_is_refused(service: Service) -> None:
    for query in ({"status": "pending"}, {"kind": "dance"}):
        response = service.http.get("/v1/jobs", params=query)
        (name,) = query
        assert response.json()["parameter"].startswith(name)
        assert response.status_code == 422


def test_a_job_shows_its_progress_error_and_links(service: Service) -> None:
    job = generate(service, n=4)
    claim = service.worker.claim(JobKind.SAMPLE)
    service.worker.report(claim, 1, 4)

    running = service.http.get(f"/v1/jobs/{job['id']}").json()
    assert (running["object"], running["status"], running["attempts"]) == ("job", "running", 1)
    assert running["progress"] == {"done": 1, "total": 4, "unit": "images", "rate": 10, "eta_s": 1, "fraction": 0.25}
    assert running["started_at"].endswith("Z")
    assert (running["finished_at"], running["error"], running["result"]) == (None, None, None)

    service.worker.fail(claim, "internal", retryable=True)
    failed = service.http.get(f"/v1/jobs/{job['id']}").json()
    assert failed["error"] == {"code": "internal", "message": "internal happened", "retryable": True}
    for link in ("self", "model", "images"):
        assert service.http.get(failed["links"][link]).status_code == 200


def test_an_unknown_job_is_not_found_never_pending(service: Service) -> None:
    for method, path in (("GET", ""), ("GET", "?wait=5"), ("POST", "/cancel"), ("GET", "/events")):
        response = service.http.request(method, f"/v1/jobs/job_nope{path}")
        assert_problem(response, 404, "job_not_found", "job_id")


def test_a_job_is_sent_again_only_when_it_has_changed(service: Service) -> None:
    path = f"/v1/jobs/{generate(service)['id']}"
    etag = service.http.get(path).headers["etag"]

    same = service.http.get(path, headers={"If-None-Match": etag})
    assert (same.status_code, same.content, same.headers["etag"]) == (304, b"", etag)

    service.worker.claim(JobKind.SAMPLE)
    changed = service.http.get(path, headers={"If-None-Match": f'"other", W/{etag}'})
    assert (changed.status_code, changed.json()["status"]) == (200, "running")


def test_a_long_poll_answers_when_the_job_has_ended(service: Service) -> None:
    path = f"/v1/jobs/{generate(service)['id']}"

    def work() -> None:
        eventually(lambda: service.news.listeners == 1)
        service.worker.sample()

    with at_the_same_time(work):
        job = service.http.get(path, params={"wait": 9}).json()

    assert job["status"] == "succeeded"
    assert service.http.get(path, params={"wait": 9}).json() == job  # at once: it has ended already
    assert service.news.listeners == 0


def test_a_long_poll_with_an_etag_answers_when_the_job_has_changed(service: Service) -> None:
    path = f"/v1/jobs/{generate(service)['id']}"
    etag = service.http.get(path).headers["etag"]

    def work() -> None:
        eventually(lambda: service.news.listeners == 1)
        service.worker.claim(JobKind.SAMPLE)

    with at_the_same_time(work):
        response = service.http.get(path, params={"wait": 9}, headers={"If-None-Match": etag})

    assert (response.status_code, response.json()["status"]) == (200, "running")


def test_a_long_poll_in_vain_answers_as_without_waiting(service: Service) -> None:
    path = f"/v1/jobs/{generate(service)['id']}"
    unchanged = service.http.get(path)
    assert service.http.get(path, params={"wait": 0.05}).json() == unchanged.json()
    again = service.http.get(path, params={"wait": 0.05}, headers={"If-None-Match": unchanged.headers["etag"]})
    assert again.status_code == 304


def test_a_long_poll_ends_although_the_bus_said_nothing(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("app.jobs.REREAD_S", 0.05)
    path = f"/v1/jobs/{generate(service)['id']}"
    claim = service.worker.claim(JobKind.SAMPLE)

    def work() -> None:
        eventually(lambda: service.news.listeners == 1)
        service.worker.succeed(claim, {}, tells=False)

    with at_the_same_time(work):
        assert service.http.get(path, params={"wait": 9}).json()["status"] == "succeeded"


def test_who_hangs_up_no_longer_waits(service: Service) -> None:
    job = generate(service)
    host, port = service.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port))) as connection:
        connection.sendall(f"GET /v1/jobs/{job['id']}?wait=9 HTTP/1.1\r\nHost: localhost\r\n".encode())
        connection.sendall(f"Authorization: Bearer {service.key}\r\n\r\n".encode())
        eventually(lambda: service.news.listeners == 1)
    eventually(lambda: service.news.listeners == 0)


def test_a_queued_job_is_canceled_at_once_and_twice_is_as_good(service: Service) -> None:
    job = generate(service)
    for _ in range(2):
        response = service.http.post(f"/v1/jobs/{job['id']}/cancel")
        assert (response.status_code, response.json()["status"]) == (200, "canceled")
    assert [event.type for event in service.resources.bus.history(job["id"])][-1] == "done"


def test_a_running_job_is_asked_to_stop(service: Service) -> None:
    job = generate(service)
    service.worker.claim(JobKind.SAMPLE)
    canceled = service.http.post(f"/v1/jobs/{job['id']}/cancel").json()
    assert (canceled["status"], canceled["cancel_requested"]) == ("running", True)


def test_a_finished_job_can_not_be_canceled(service: Service) -> None:
    job = generate(service)
    service.worker.sample()
    problem = assert_problem(service.http.post(f"/v1/jobs/{job['id']}/cancel"), 409, "job_ended", "job_id")
    assert "succeeded" in problem["detail"]


def test_a_job_shows_its_first_hundred_images_and_links_to_all(service: Service) -> None:
    job = generate(service, n=120, seed=0)
    service.worker.sample()

    job = service.http.get(f"/v1/jobs/{job['id']}").json()
    assert [image["seed"] for image in job["images"]] == list(range(100))
    page = service.http.get(job["links"]["images"], params={"job": job["id"], "limit": 100}).json()
    rest = service.http.get("/v1/images", params={"job": job["id"], "after": page["data"][-1]["id"]}).json()
    assert page["data"] == job["images"]
    assert [image["position"] for image in rest["data"]] == list(range(100, 120))
    assert (page["has_more"], rest["has_more"]) == (True, False)
    (listed,) = service.http.get("/v1/jobs").json()["data"]
    assert listed["images"] is None


def test_a_deleted_generation_is_gone_with_its_images(service: Service) -> None:
    model_id = service.add_model()
    gone, stays = (service.http.post("/v1/generations", json={"model": model_id, "n": n}).json()["id"] for n in (3, 2))
    service.worker.sample()

    assert service.http.delete(f"/v1/jobs/{gone}").status_code == 204

    assert_problem(service.http.get(f"/v1/jobs/{gone}"), 404, "job_not_found", "job_id")
    assert_problem(service.http.delete(f"/v1/jobs/{gone}"), 404, "job_not_found", "job_id")
    assert {image["job"] for image in service.http.get("/v1/images").json()["data"]} == {stays}
    assert len([path for path in service.blob_files() if path.startswith("images/")]) == 2


def test_an_unfinished_job_is_not_deleted(service: Service) -> None:
    job = service.http.post("/v1/generations", json={"model": service.add_model(), "n": 1}).json()["id"]
    assert_problem(service.http.delete(f"/v1/jobs/{job}"), 409, "in_use", "job_id")
    claim = service.worker.claim(JobKind.SAMPLE)
    assert_problem(service.http.delete(f"/v1/jobs/{job}"), 409, "in_use", "job_id")
    service.worker.fail(claim, "broken", retryable=False)
    assert service.http.delete(f"/v1/jobs/{job}").status_code == 204


def test_a_training_s_job_goes_only_after_its_model(service: Service) -> None:
    body = {"dataset": service.add_dataset(), "kind": "gan-dcgan", "resolution": 64, "budget": {"images": 100}}
    job = service.http.post("/v1/trainings", json=body).json()
    service.worker.fail(service.worker.claim(JobKind.TRAIN), "broken", retryable=False)
    assert_problem(service.http.delete(f"/v1/jobs/{job['id']}"), 409, "in_use", "job_id")
    assert service.http.delete(f"/v1/models/{job['model']}").status_code == 204
    assert service.http.delete(f"/v1/jobs/{job['id']}").status_code == 204


@pytest.mark.parametrize("kind", [JobKind.EXPORT, JobKind.EVALUATE])
def test_a_deleted_export_or_evaluation_takes_its_file_along(service: Service, kind: JobKind) -> None:
    model_id = service.add_model()
    with service.resources.database.transaction() as session:
        now = service.resources.database.now(session)
        job = jobs.submit(session, kind, {"format": "onnx"}, now=now, model_id=model_id).id
    claim = service.worker.claim(kind)
    key = export_key(model_id, job, claim.fence) if kind is JobKind.EXPORT else strips_key(model_id, job)
    service.resources.blobs.put(key, b"file")
    service.worker.succeed(claim, {})
    assert service.http.delete(f"/v1/jobs/{job}").status_code == 204
    assert not service.resources.blobs.exists(key)
