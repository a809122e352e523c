"""Images over HTTP."""

from __future__ import annotations

import hashlib
import io
import threading
from contextlib import ExitStack
from functools import partial
from typing import Any

import pytest
from PIL import Image as Picture

from app.renditions import Rendition
from models.png import encode
from tests.app import conftest
from tests.app.conftest import PNG, Service, assert_problem, at_the_same_time, eventually
from tests.pictures import shapes
from worker.provenance import xmp_packet


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


@pytest.fixture
def _real(monkeypatch: pytest.MonkeyPatch) -> None:
    """The hands that play the worker make real pictures, 64 px."""
    monkeypatch.setattr(conftest, "PNG", encode(shapes(1, 64)[0][0], text={"AIGC": "{}"}, xmp=xmp_packet()))


@pytest.mark.usefixtures("_real")
def test_a_picture_comes_in_other_forms(service: Service) -> None:
    (image,) = make(service)

    small = service.http.get(image["url"], params={"size": 16})
    webp = service.http.get(image["url"], params={"format": "webp"})
    jpeg = service.http.get(image["url"], params={"format": "jpeg", "size": 128, "quality": 50})

    answers = [service.http.get(image["url"]), small, webp, jpeg]
    assert [answer.headers["content-type"] for answer in answers] == [
        "image/png",
        "image/png",
        "image/webp",
        "image/jpeg",
    ]
    pictures = [Picture.open(io.BytesIO(answer.content)) for answer in answers]
    assert [(picture.format, picture.width) for picture in pictures] == [
        ("PNG", 64),
        ("PNG", 16),
        ("WEBP", 64),
        ("JPEG", 128),
    ]
    assert all(b"trainedAlgorithmicMedia" in picture.info["xmp"] for picture in pictures)
    assert len({answer.headers["etag"] for answer in answers}) == 4
    assert {answer.headers["cache-control"] for answer in answers} == {"private, max-age=31536000, immutable"}


@pytest.mark.usefixtures("_real")
def test_who_has_a_form_already_is_told_so(service: Service) -> None:
    (image,) = make(service)
    params: dict[str, str | int] = {"format": "webp", "size": 32}
    etag = service.http.get(image["url"], params=params).headers["etag"]

    same = service.http.get(image["url"], params=params, headers={"If-None-Match": etag})
    other = service.http.get(image["url"], params={**params, "size": 33}, headers={"If-None-Match": etag})

    assert (same.status_code, same.content) == (304, b"")
    assert other.status_code == 200


@pytest.mark.parametrize(
    ("params", "parameter"),
    [
        ({"format": "gif"}, "format"),
        ({"size": 15}, "size"),
        ({"size": 1025}, "size"),
        ({"size": "big"}, "size"),
        ({"format": "jpeg", "quality": 0}, "quality"),
        ({"format": "webp", "quality": 101}, "quality"),
        ({"quality": 90}, "quality"),
    ],
)
def test_a_form_that_there_is_not_is_refused(service: Service, params: dict[str, Any], parameter: str) -> None:
    (image,) = make(service)
    assert_problem(service.http.get(image["url"], params=params), 422, "invalid_parameter", parameter)


def test_a_damaged_picture_is_named_as_such(service: Service) -> None:
    (image,) = make(service)  # the hands' usual picture is none
    response = service.http.get(image["url"], params={"size": 32})
    assert "checkpoint" in assert_problem(response, 500, "picture_damaged")["remedy"]


@pytest.mark.usefixtures("_real")
def test_no_more_pictures_are_encoded_at_once_than_may_and_the_rest_is_served_meanwhile(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Given encoders that take their time, I expect as many at work as may be, and stored PNGs without a wait."""
    (image,) = make(service)
    most = int(service.app.state.encoders.total_tokens)
    arrived, go_on, encoded = threading.Semaphore(0), threading.Event(), Rendition.of

    def slow(self: Rendition, png: bytes) -> bytes:
        if not self.is_stored:
            arrived.release()
            assert go_on.wait(10)
        return encoded(self, png)

    monkeypatch.setattr(Rendition, "of", slow)
    with ExitStack() as asking:
        for side_px in range(16, 16 + most + 2):
            ask = partial(service.http.get, image["url"], params={"size": side_px})
            asking.enter_context(at_the_same_time(ask))
        assert all(arrived.acquire(timeout=10) for _ in range(most))
        eventually(lambda: service.app.state.encoders.statistics().tasks_waiting == 2)
        assert not arrived.acquire(blocking=False)
        assert service.http.get(image["url"]).status_code == 200
        go_on.set()


def test_a_deleted_image_is_gone_with_its_file_and_its_neighbours_stay(service: Service) -> None:
    first, second = make(service, n=2)

    assert service.http.delete(f"/v1/images/{first['id']}").status_code == 204

    for path in (first["url"], f"/v1/images/{first['id']}"):
        assert_problem(service.http.get(path), 404, "image_not_found", "image_id")
    assert_problem(service.http.delete(f"/v1/images/{first['id']}"), 404, "image_not_found", "image_id")
    assert service.http.get(second["url"]).status_code == 200
    assert [image["id"] for image in service.http.get("/v1/images").json()["data"]] == [second["id"]]
    assert len([path for path in service.blob_files() if path.startswith("images/")]) == 1
