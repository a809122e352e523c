"""Looking at data sets and deleting them."""

from __future__ import annotations

import json

from store.records import JobKind
from tests.app.conftest import Service, assert_problem


def test_a_ready_dataset_shows_its_classes_and_what_was_refused(service: Service) -> None:
    dataset_id = service.add_dataset()

    dataset = service.http.get(f"/v1/datasets/{dataset_id}").json()

    assert (dataset["object"], dataset["status"], dataset["image_count"]) == ("dataset", "ready", 20)
    assert (dataset["resolution"], dataset["channels"], dataset["size_bytes"]) == (64, 3, 1000)
    assert dataset["classes"] == [{"name": "cat", "count": 10}, {"name": "dog", "count": 10}]
    assert dataset["refused_count"] == 2
    assert dataset["refused"] == [{"path": f"cat/{number}.png", "reason": "not an image"} for number in range(2)]


def test_refused_files_are_shown_up_to_a_limit(service: Service) -> None:
    dataset_id = service.add_dataset()
    for limit in (0, 1):
        shown = service.http.get(f"/v1/datasets/{dataset_id}", params={"refused_limit": limit}).json()
        assert len(shown["refused"]) == limit


def test_images_that_are_there_twice_are_shown_by_their_paths_up_to_a_limit(service: Service) -> None:
    dataset_id = service.add_dataset()
    shown = service.http.get(f"/v1/datasets/{dataset_id}", params={"duplicates_limit": 1}).json()
    assert shown["duplicates"] == {
        "exact": {"images": 5, "groups": 2, "first": [["cat/2.png", "cat/3.png"]]},
        "near": {"images": 3, "groups": 1, "first": [["cat/2.png", "cat/3.png", "cat/4.png"]]},
    }
    assert shown["skipped_count"] == 3
    assert service.http.get("/v1/datasets").json()["data"][0]["duplicates"] is None


def test_the_manifest_of_an_earlier_release_is_read_as_one_that_knows_of_no_duplicates(service: Service) -> None:
    dataset_id = service.add_dataset()
    key = f"datasets/{dataset_id}/manifest.json"
    manifest = json.loads(service.resources.blobs.get(key))
    del manifest["duplicates"], manifest["skipped"]
    service.resources.blobs.put(key, json.dumps(manifest).encode())
    shown = service.http.get(f"/v1/datasets/{dataset_id}").json()
    assert shown["duplicates"]["near"] == {"images": 0, "groups": 0, "first": []}


def test_datasets_are_listed_newest_first_page_by_page(service: Service) -> None:
    ids = [service.add_dataset() for _ in range(5)][::-1]

    first = service.http.get("/v1/datasets", params={"limit": 3}).json()
    second = service.http.get("/v1/datasets", params={"limit": 3, "after": first["data"][-1]["id"]}).json()

    assert [one["id"] for one in first["data"]] == ids[:3]
    assert first["has_more"] is True
    assert [one["id"] for one in second["data"]] == ids[3:]
    assert second["has_more"] is False


def test_pages_stay_right_when_the_last_row_was_deleted_meanwhile(service: Service) -> None:
    ids = [service.add_dataset() for _ in range(3)][::-1]
    service.http.delete(f"/v1/datasets/{ids[1]}")
    rest = service.http.get("/v1/datasets", params={"after": ids[1]}).json()
    assert [one["id"] for one in rest["data"]] == ids[2:]


def test_after_must_be_an_id_of_the_list(service: Service) -> None:
    assert_problem(service.http.get("/v1/datasets", params={"after": "job_1"}), 422, "invalid_parameter", "after")


def test_limit_is_bounded(service: Service) -> None:
    for limit in (0, 101):
        assert_problem(service.http.get("/v1/datasets", params={"limit": limit}), 422, "invalid_parameter", "limit")


def test_an_unknown_dataset_is_not_found(service: Service) -> None:
    for method in ("GET", "DELETE"):
        response = service.http.request(method, "/v1/datasets/ds_nope")
        assert_problem(response, 404, "dataset_not_found", "dataset_id")


def test_a_deleted_dataset_is_gone_with_its_blobs(service: Service) -> None:
    dataset_id = service.add_dataset()

    response = service.http.delete(f"/v1/datasets/{dataset_id}")

    assert (response.status_code, response.content) == (204, b"")
    assert service.http.get(f"/v1/datasets/{dataset_id}").status_code == 404
    assert service.blob_files() == []


def test_a_dataset_that_a_training_needs_is_not_deleted(service: Service) -> None:
    dataset_id = service.add_dataset()
    job = service.http.post("/v1/trainings", json={"dataset": dataset_id}).json()

    problem = assert_problem(service.http.delete(f"/v1/datasets/{dataset_id}"), 409, "in_use", "dataset_id")

    assert problem["jobs"] == [job["id"]]
    assert job["id"] in problem["detail"]
    service.worker.succeed(service.worker.claim(JobKind.TRAIN), {})
    assert service.http.delete(f"/v1/datasets/{dataset_id}").status_code == 204
