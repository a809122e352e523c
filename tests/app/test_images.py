"""Images over HTTP."""

from __future__ import annotations

import hashlib
from typing import Any

from tests.app.conftest import PNG, Service, assert_problem


def make(service: Service, n: int = 1, model: str | None = None) -> list[dict[str, Any]]:
    body = {"model": model or service.add_model(), "n": n, "seed": 5}
    job = service.http.post("/v1/generations", json=body).json()
    service.worker.sample()
    images: list[dict[str, Any]] = service.http.get(f"/v1/jobs/{job['id']}").json()["images"]
    return images


def test_an_image_knows_where_it_comes_from(service: Service) -> None:
    (image,) = make(service)

    shown = service.http.get(f"/v1/images/{image['id']}").json()

    assert shown == image
    assert (shown["object"], shown["seed"], shown["position"], shown["label"]) == ("image", 5, 0, None)
    assert (shown["width"], shown["height"]) == (32, 32)
    assert shown["checkpoint"].startswith(f"models/{shown['model']}/")


def test_a_png_is_kept_for_ever(service: Service) -> None:
    (image,) = make(service)

    response = service.http.get(image["url"])

    assert (response.status_code, response.headers["content-type"]) == (200, "image/png")
    assert response.content.startswith(PNG)
    assert response.headers["etag"] == f'"{hashlib.sha256(response.content).hexdigest()}"' == f'"{image["sha256"]}"'
    assert response.headers["cache-control"] == "private, max-age=31536000, immutable"
    assert response.headers["x-content-type-options"] == "nosniff"
    same = service.http.get(image["url"], headers={"If-None-Match": response.headers["etag"]})
    assert (same.status_code, same.content) == (304, b"")
    head = service.http.head(image["url"])
    assert (head.status_code, head.content) == (200, b"")
    assert head.headers["content-length"] == str(len(response.content))


def test_images_are_listed_by_model_newest_first(service: Service) -> None:
    model_id = service.add_model()
    mine, _others = make(service, 3, model_id), make(service, 2)

    page = service.http.get("/v1/images", params={"model": model_id, "limit": 2}).json()
    rest = service.http.get("/v1/images", params={"model": model_id, "after": page["data"][-1]["id"]}).json()

    assert page["data"] + rest["data"] == mine[::-1]
    assert (page["has_more"], rest["has_more"]) == (True, False)
    assert len(service.http.get("/v1/images").json()["data"]) == 5


def test_images_survive_their_model(service: Service) -> None:
    model_id = service.add_model()
    (image,) = make(service, 1, model_id)
    assert service.http.delete(f"/v1/models/{model_id}").status_code == 204
    assert service.http.get(image["url"]).status_code == 200


def test_a_page_after_an_image_of_another_job_is_refused(service: Service) -> None:
    (one,), (other,) = make(service), make(service)
    response = service.http.get("/v1/images", params={"job": one["job"], "after": other["id"]})
    assert_problem(response, 422, "invalid_parameter", "after")


def test_job_and_model_are_not_both_given(service: Service) -> None:
    response = service.http.get("/v1/images", params={"job": "job_1", "model": "mdl_1"})
    assert_problem(response, 422, "invalid_parameter", "model")


def test_an_unknown_image_is_not_found(service: Service) -> None:
    for path in ("", "/content"):
        response = service.http.get(f"/v1/images/img_nope{path}")
        assert_problem(response, 404, "image_not_found", "image_id")


def test_an_image_whose_png_is_gone_is_not_found(service: Service) -> None:
    (image,) = make(service)
    service.resources.blobs.delete("images")
    assert_problem(service.http.get(image["url"]), 404, "blob_not_found")
