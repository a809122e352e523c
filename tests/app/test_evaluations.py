"""Asking how good a model is."""

from __future__ import annotations

from app.evaluations import DEFAULT_N, LEAST_N, MOST_N
from models.catalog import MAX_SEED
from models.evaluation import MOST_GENERATED
from models.evaluation.measuring import LEAST_PART
from store.queue import Lane
from store.records import Dataset, DatasetStatus, JobKind, Model
from store.strips import strips_key
from tests.app.conftest import PNG, Service, assert_problem

PATH = "/v1/evaluations"


def model_of_pets(service: Service) -> tuple[str, str]:
    """A model at 32 px and the data set that it learned from."""
    dataset_id, model_id = service.add_dataset(), service.add_model()
    with service.resources.database.transaction() as session:
        session.get_one(Model, model_id).dataset_id = dataset_id
        channels = session.get_one(Model, model_id).channels
        session.get_one(Dataset, dataset_id).channels = channels
    return model_id, dataset_id


def test_an_evaluation_is_a_job_of_the_newest_weights(service: Service) -> None:
    model_id, dataset_id = model_of_pets(service)
    response = service.http.post(PATH, json={"model": model_id, "seed": 5})

    assert response.status_code == 202, response.text
    job = response.json()
    assert response.headers["location"] == f"/v1/jobs/{job['id']}"
    assert (job["kind"], job["status"], job["model"], job["dataset"]) == ("evaluate", "queued", model_id, dataset_id)
    assert job["request"] == {"n": DEFAULT_N, "seed": 5, "against": None}
    assert (job["progress"]["total"], job["progress"]["unit"]) == (100, "percent")
    assert service.queue.waiting(Lane.TRAIN) == 1
    claim = service.worker.claim(JobKind.EVALUATE)
    with service.resources.database.snapshot() as session:
        assert claim.checkpoint == session.get_one(Model, model_id).checkpoint is not None


def test_its_numbers_are_seen_with_the_job_and_with_the_model(service: Service) -> None:
    model_id, _ = model_of_pets(service)
    job = service.http.post(PATH, json={"model": model_id, "n": 100}).json()
    claim = service.worker.claim(JobKind.EVALUATE)
    found = {"scores": {"kid": {"value": 0.1, "floor": 0.0}}}
    with service.resources.database.transaction() as session:
        session.get_one(Model, model_id).metrics = {"evaluation": found}
    service.worker.succeed(claim, {"model": model_id, "evaluation": found})

    assert service.http.get(f"/v1/jobs/{job['id']}").json()["result"]["evaluation"] == found
    assert service.http.get(f"/v1/models/{model_id}").json()["metrics"]["evaluation"] == found


def test_its_strips_are_a_picture_for_as_long_as_the_model_is_there(service: Service) -> None:
    model_id, _ = model_of_pets(service)
    job_id = service.http.post(PATH, json={"model": model_id}).json()["id"]
    strips = f"{PATH}/{job_id}/strips"
    assert_problem(service.http.get(strips), 404, "strips_not_found", "job_id")
    service.resources.blobs.put(strips_key(model_id, job_id), PNG)
    service.worker.succeed(service.worker.claim(JobKind.EVALUATE), {"model": model_id})

    found = service.http.get(strips)
    assert (found.status_code, found.headers["content-type"], found.content) == (200, "image/png", PNG)
    assert service.http.get(strips, headers={"If-None-Match": found.headers["etag"]}).status_code == 304
    assert service.http.delete(f"/v1/models/{model_id}").status_code == 204
    assert_problem(service.http.get(strips), 404, "strips_not_found", "job_id")
    assert_problem(service.http.get(f"{PATH}/job_nope/strips"), 404, "strips_not_found", "job_id")


def test_other_pictures_can_be_compared_with(service: Service) -> None:
    """Given another data set, I expect features of the model's own, while that is there."""
    model_id, own = model_of_pets(service)
    _, other = model_of_pets(service)

    job = service.http.post(PATH, json={"model": model_id, "dataset": other}).json()
    assert (job["dataset"], job["request"]["against"]) == (own, other)
    job = service.http.post(PATH, json={"model": model_id, "dataset": own}).json()
    assert (job["dataset"], job["request"]["against"]) == (own, None)

    with service.resources.database.transaction() as session:
        session.delete(session.get_one(Dataset, own))
    job = service.http.post(PATH, json={"model": model_id, "dataset": other}).json()
    assert (job["dataset"], job["request"]["against"]) == (other, None)
    assert_problem(service.http.post(PATH, json={"model": model_id}), 422, "invalid_parameter", "/dataset")


def test_the_same_key_gives_the_same_job(service: Service) -> None:
    model_id, _ = model_of_pets(service)
    key = {"Idempotency-Key": "once"}
    first, again = (service.http.post(PATH, json={"model": model_id, "n": 60}, headers=key).json() for _ in range(2))
    assert first["id"] == again["id"]
    assert_problem(
        service.http.post(PATH, json={"model": model_id, "n": 61}, headers=key),
        422,
        "idempotency_key_reused",
        "Idempotency-Key",
    )


def test_what_is_needed_by_an_evaluation_is_not_deleted(service: Service) -> None:
    model_id, dataset_id = model_of_pets(service)
    service.http.post(PATH, json={"model": model_id})
    assert_problem(service.http.delete(f"/v1/models/{model_id}"), 409, "in_use", "model_id")
    assert_problem(service.http.delete(f"/v1/datasets/{dataset_id}"), 409, "in_use", "dataset_id")


def test_what_cannot_be_measured_is_refused(service: Service) -> None:
    model_id, dataset_id = model_of_pets(service)
    assert_problem(service.http.post(PATH, json={"model": "mdl_nope"}), 404, "model_not_found", "/model")
    assert_problem(
        service.http.post(PATH, json={"model": model_id, "dataset": "ds_nope"}), 404, "dataset_not_found", "/dataset"
    )
    for wrong in (LEAST_N - 1, MOST_N + 1):
        assert_problem(service.http.post(PATH, json={"model": model_id, "n": wrong}), 422, "invalid_parameter", "/n")
    large = {"model": model_id, "seed": MAX_SEED}
    assert_problem(service.http.post(PATH, json=large), 422, "invalid_parameter", "/seed")

    bare = service.add_model(has_weights=False)
    assert_problem(service.http.post(PATH, json={"model": bare}), 409, "model_not_ready", "/model")

    with service.resources.database.transaction() as session:
        session.get_one(Dataset, dataset_id).resolution = 16
    assert_problem(service.http.post(PATH, json={"model": model_id}), 422, "invalid_parameter", "/dataset")
    with service.resources.database.transaction() as session:
        session.get_one(Dataset, dataset_id).status = DatasetStatus.FAILED
    assert_problem(service.http.post(PATH, json={"model": model_id}), 409, "dataset_not_ready", "/dataset")
    assert service.queue.waiting(Lane.TRAIN) == 0


def test_whatever_may_be_asked_for_can_be_measured() -> None:
    assert LEAST_PART <= LEAST_N <= DEFAULT_N <= MOST_N <= MOST_GENERATED
