"""Models over HTTP."""

from __future__ import annotations

from store import curves
from store.records import JobKind, Model
from tests.app.conftest import PNG, Service, assert_problem


def test_models_are_listed_and_shown(service: Service) -> None:
    old, new = service.add_model(), service.add_model(has_weights=False)

    page = service.http.get("/v1/models").json()
    shown = service.http.get(f"/v1/models/{old}").json()

    assert [model["id"] for model in page["data"]] == [new, old]
    assert page["data"][1] == shown
    assert (shown["object"], shown["kind"], shown["status"], shown["resolution"]) == ("model", "gan-dcgan", "ready", 32)
    assert (shown["classes"], shown["images_seen"], shown["metrics"]) == (["cat", "dog"], 1000, {"losses": {"D": 0.5}})
    assert (shown["can_generate"], shown["preview"]) == (True, f"/v1/models/{old}/preview")


def test_an_unknown_model_is_not_found(service: Service) -> None:
    for method, path in (("GET", ""), ("DELETE", ""), ("GET", "/preview")):
        response = service.http.request(method, f"/v1/models/mdl_nope{path}")
        assert_problem(response, 404, "model_not_found", "model_id")


def test_a_preview_is_revalidated_and_changes_with_the_training(service: Service) -> None:
    model_id = service.add_model()
    first = service.http.get(f"/v1/models/{model_id}/preview")
    assert (first.status_code, first.content, first.headers["content-type"]) == (200, PNG, "image/png")
    assert "no-cache" in first.headers["cache-control"]
    same = service.http.get(f"/v1/models/{model_id}/preview", headers={"If-None-Match": first.headers["etag"]})
    assert (same.status_code, same.content) == (304, b"")

    service.resources.blobs.put(f"models/{model_id}/previews/2-1.png", PNG + b"newer")
    with service.resources.database.transaction() as session:
        session.get_one(Model, model_id).preview = f"models/{model_id}/previews/2-1.png"

    newer = service.http.get(f"/v1/models/{model_id}/preview", headers={"If-None-Match": first.headers["etag"]})
    assert (newer.status_code, newer.content) == (200, PNG + b"newer")


def test_a_preview_that_is_not_there_yet_is_not_found(service: Service) -> None:
    model_id = service.add_model(has_weights=False)
    assert_problem(service.http.get(f"/v1/models/{model_id}/preview"), 404, "preview_not_found", "model_id")


def test_a_deleted_model_is_gone_with_its_weights(service: Service) -> None:
    model_id = service.add_model()
    events = service.resources.settings.resolved_tensorboard_dir / model_id
    events.mkdir(parents=True)
    assert service.http.delete(f"/v1/models/{model_id}").status_code == 204
    assert service.http.get(f"/v1/models/{model_id}").status_code == 404
    assert service.blob_files() == []
    assert not events.exists()


def test_a_model_that_a_job_needs_is_not_deleted(service: Service) -> None:
    model_id = service.add_model()
    job = service.http.post("/v1/generations", json={"model": model_id}).json()
    claim = service.worker.claim(JobKind.SAMPLE)

    assert assert_problem(service.http.delete(f"/v1/models/{model_id}"), 409, "in_use", "model_id")["jobs"] == [
        job["id"]
    ]

    service.worker.fail(claim, "internal", retryable=True)
    assert service.http.delete(f"/v1/models/{model_id}").status_code == 204


def test_learning_curves_are_thinned_to_what_was_asked_for(service: Service) -> None:
    model_id = service.add_model()
    with service.resources.database.transaction() as session:
        for n in range(1, 101):
            curves.add_point(
                session, model_id, images_seen=n, elapsed_s=n / 2, images_per_s=2.0, losses={"D": 1 / n, "G": 1.0}
            )

    all_of_it = service.http.get(f"/v1/models/{model_id}/metrics").json()
    thinned = service.http.get(f"/v1/models/{model_id}/metrics", params={"points": 10}).json()

    assert [point["images_seen"] for point in all_of_it["data"]] == list(range(1, 101))
    assert [point["images_seen"] for point in thinned["data"]] == list(range(10, 101, 10))
    assert thinned["data"][-1] == {
        "images_seen": 100,
        "elapsed_s": 50.0,
        "images_per_s": 2.0,
        "losses": {"D": 0.01, "G": 1.0},
        "gauges": {},
        "scores": None,
    }
    assert_problem(service.http.get("/v1/models/mdl_nope/metrics"), 404, "model_not_found", "model_id")
