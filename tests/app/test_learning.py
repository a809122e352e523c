"""Trainings as they go on, over HTTP."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from store import curves, kept
from store.records import JobKind, Model
from tests.app.conftest import PNG, Service, assert_problem

SCORES = {100: 3.0, 200: 1.0, 300: 2.0}


@pytest.fixture
def training(service: Service) -> tuple[str, str]:
    """A training at work that has kept three checkpoints and two previews: its id, and its model's."""
    job = service.http.post("/v1/trainings", json={"dataset": service.add_dataset(), "budget": {"images": 1000}}).json()
    claim = service.worker.claim(JobKind.TRAIN)
    service.worker.report(claim, 300, 1000)
    with service.resources.database.transaction() as session:
        model = session.get_one(Model, job["model"])
        for images_seen, score in SCORES.items():
            kept.add_checkpoint(
                session,
                model,
                images_seen=images_seen,
                blob=f"models/{model.id}/{images_seen}",
                scores={"fd_domain": score},
                now=datetime.now(UTC),
                most=6,
            )
            curves.add_point(
                session,
                model.id,
                images_seen=images_seen,
                elapsed_s=images_seen / 10,
                images_per_s=10.0,
                losses={"G": 1.0},
                gauges={"R_t": 0.5},
                scores={"fd_domain": score},
            )
        for images_seen in (100, 300):
            key = f"models/{model.id}/previews/{images_seen}.png"
            service.resources.blobs.put(key, PNG + str(images_seen).encode())
            kept.add_preview(session, model, images_seen=images_seen, blob=key, now=datetime.now(UTC), most=12)
    return job["id"], job["model"]


def test_a_training_shows_its_newest_numbers_and_its_best_checkpoint(
    service: Service, training: tuple[str, str]
) -> None:
    job_id, model_id = training

    shown = service.http.get(f"/v1/trainings/{job_id}").json()

    assert (shown["id"], shown["model"], shown["status"]) == (job_id, model_id, "running")
    assert (shown["progress"]["done"], shown["progress"]["total"]) == (300, 1000)
    assert shown["newest"]["gauges"] == {"R_t": 0.5}
    assert (shown["best"]["images_seen"], shown["best"]["scores"]) == (200, {"fd_domain": 1.0})
    assert service.http.get(f"/v1/trainings/{model_id}").json() == shown
    assert service.http.get("/v1/trainings").json()["data"] == [shown]
    for path in shown["links"].values():
        if not path.endswith("/events"):
            assert service.http.get(path).status_code == 200, path


def test_only_trainings_are_trainings(service: Service) -> None:
    generation = service.http.post("/v1/generations", json={"model": service.add_model()}).json()
    assert service.http.get("/v1/trainings").json()["data"] == []
    for path in (generation["id"], "job_nope", "mdl_nope"):
        for method, end in (("GET", ""), ("GET", "/metrics"), ("GET", "/checkpoints"), ("GET", "/previews/1")):
            response = service.http.request(method, f"/v1/trainings/{path}{end}")
            assert_problem(response, 404, "training_not_found", "training_id")


def test_its_curves_are_its_model_s(service: Service, training: tuple[str, str]) -> None:
    job_id, model_id = training
    found = service.http.get(f"/v1/trainings/{job_id}/metrics").json()
    assert [point["scores"]["fd_domain"] for point in found["data"]] == list(SCORES.values())
    assert found == service.http.get(f"/v1/models/{model_id}/metrics").json()


def test_previews_are_listed_and_each_has_its_own_picture(service: Service, training: tuple[str, str]) -> None:
    listed = service.http.get(f"/v1/trainings/{training[0]}/previews").json()["data"]
    assert [one["images_seen"] for one in listed] == [100, 300]
    first = service.http.get(listed[0]["url"])
    assert (first.status_code, first.content, first.headers["content-type"]) == (200, PNG + b"100", "image/png")
    again = service.http.get(listed[0]["url"], headers={"If-None-Match": first.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")
    missing = service.http.get(f"/v1/trainings/{training[0]}/previews/200")
    assert_problem(missing, 404, "preview_not_found", "images_seen")


def test_a_promoted_checkpoint_is_what_the_model_samples_from(service: Service, training: tuple[str, str]) -> None:
    job_id, model_id = training
    before = service.http.get(f"/v1/trainings/{job_id}/checkpoints").json()["data"]
    assert [(one["images_seen"], one["current"], one["best"]) for one in before] == [
        (100, False, False),
        (200, False, True),
        (300, True, False),
    ]

    model = service.http.post(f"/v1/trainings/{job_id}/checkpoints/200/promote").json()

    assert (model["id"], model["promoted"], model["images_seen"]) == (model_id, 200, 200)
    service.http.post("/v1/generations", json={"model": model_id})
    assert service.worker.claim(JobKind.SAMPLE).checkpoint == f"models/{model_id}/200"
    after = service.http.get(f"/v1/trainings/{job_id}/checkpoints").json()["data"]
    assert [one["images_seen"] for one in after if one["current"]] == [200]


def test_promoting_the_newest_follows_the_training_again(service: Service, training: tuple[str, str]) -> None:
    service.http.post(f"/v1/trainings/{training[0]}/checkpoints/100/promote")
    model = service.http.post(f"/v1/trainings/{training[0]}/checkpoints/300/promote").json()
    assert (model["promoted"], model["images_seen"]) == (None, 300)


def test_what_was_not_kept_can_not_be_promoted(service: Service, training: tuple[str, str]) -> None:
    response = service.http.post(f"/v1/trainings/{training[0]}/checkpoints/150/promote")
    assert_problem(response, 404, "checkpoint_not_found", "images_seen")


def test_patience_and_what_becomes_of_the_best_are_part_of_the_request(service: Service) -> None:
    body = {"dataset": service.add_dataset(), "patience": 5, "promote_best": False}
    request = service.http.post("/v1/trainings", json=body).json()["request"]
    assert (request["patience"], request["promote_best"]) == (5, False)
    response = service.http.post("/v1/trainings", json={**body, "patience": 0})
    assert_problem(response, 422, "invalid_parameter", "/patience")
