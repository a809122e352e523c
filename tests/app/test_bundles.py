"""All pictures of a generation in one file."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from PIL import Image as Picture

from app import bundles
from app.grid import GAP_PX
from models.png import encode
from store.identifiers import new_id
from store.records import Image, JobKind
from tests.app import conftest
from tests.app.conftest import Service, assert_problem
from tests.pictures import shapes
from worker.provenance import xmp_packet


@pytest.fixture(autouse=True)
def _real(monkeypatch: pytest.MonkeyPatch) -> None:
    """The hands that play the worker make real pictures, 64 px."""
    monkeypatch.setattr(conftest, "PNG", encode(shapes(1, 64)[0][0], xmp=xmp_packet()))


def made(service: Service, n: int) -> dict[str, Any]:
    """A generation of n images, seeds 5 and on, that has succeeded."""
    job = service.http.post("/v1/generations", json={"model": service.add_model(), "n": n, "seed": 5}).json()
    service.worker.sample()
    shown: dict[str, Any] = service.http.get(f"/v1/jobs/{job['id']}").json()
    assert shown["status"] == "succeeded"
    return shown


def test_a_zip_holds_every_png_by_position_and_seed(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    """Given more images than are read at once and than fit into one piece, I expect a whole archive."""
    monkeypatch.setattr(bundles, "ROWS_AT_ONCE", 3)
    monkeypatch.setattr(bundles, "CHUNK_BYTES", 4000)
    job = made(service, 11)

    response = service.http.get(job["links"]["zip"])

    assert (response.status_code, response.headers["content-type"]) == (200, "application/zip")
    assert response.headers["content-disposition"] == f'attachment; filename="{job["id"]}.zip"'
    with zipfile.ZipFile(io.BytesIO(response.content)) as archive:
        assert archive.testzip() is None
        assert archive.namelist() == [f"{position:06d}-seed-{5 + position}.png" for position in range(11)]
        for entry, image in zip(archive.infolist(), job["images"], strict=True):
            assert archive.read(entry) == service.http.get(image["url"]).content
            assert not entry.flag_bits & 0x08  # sizes stand before the data, so that readers of streams can take it too
    assert service.http.get(job["links"]["zip"]).content == response.content


def test_a_zip_is_written_piece_by_piece(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    """Given a zip that is read slowly, I expect only what is asked for to be read from the blobs."""
    monkeypatch.setattr(bundles, "CHUNK_BYTES", 1)
    job, read = made(service, 20), list[str]()
    blobs = service.resources.blobs
    get = blobs.get

    def noted(key: str) -> bytes:
        read.append(key)
        return get(key)

    monkeypatch.setattr(blobs, "get", noted)

    pieces = bundles._zip(service.resources, job["id"], 20)
    sizes = [len(next(pieces)) for _ in range(3)]

    assert len(read) == 3
    assert max(sizes) < 2 * job["images"][0]["size_bytes"]
    pieces.close()  # type: ignore[attr-defined]


def test_a_zip_whose_png_is_gone_breaks_off_and_is_not_taken_for_whole(service: Service) -> None:
    job = made(service, 2)
    service.resources.blobs.delete("images")
    with pytest.raises(httpx.RemoteProtocolError):
        service.http.get(job["links"]["zip"])


def test_a_contact_sheet_shows_the_first_ones_row_by_row(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bundles, "MOST_IN_A_GRID", 6)
    job = made(service, 8)

    sheet = service.http.get(job["links"]["grid"])
    rows = service.http.get(job["links"]["grid"], params={"columns": 2})

    assert sheet.headers["content-type"] == rows.headers["content-type"] == "image/png"
    step = 64 + GAP_PX
    with Picture.open(io.BytesIO(sheet.content)) as square, Picture.open(io.BytesIO(rows.content)) as narrow:
        assert square.size == (3 * step + GAP_PX, 2 * step + GAP_PX)
        assert narrow.size == (2 * step + GAP_PX, 3 * step + GAP_PX)
        assert b"trainedAlgorithmicMedia" in square.info["xmp"]


@pytest.mark.parametrize("form", ["zip", "grid"])
def test_who_has_a_bundle_already_is_told_so_until_there_are_more_images(service: Service, form: str) -> None:
    job = made(service, 2)
    etag = service.http.get(job["links"][form]).headers["etag"]

    same = service.http.get(job["links"][form], headers={"If-None-Match": etag})
    with service.resources.database.transaction() as session:
        last = session.get_one(Image, job["images"][-1]["id"])
        columns = {name: getattr(last, name) for name in Image.__table__.columns.keys()}  # noqa: SIM118
        session.add(Image(**columns | {"id": new_id("img"), "position": 2}))
    longer = service.http.get(job["links"][form], headers={"If-None-Match": etag})

    assert (same.status_code, same.content) == (304, b"")
    assert same.headers["cache-control"] == "private, no-cache"
    assert longer.status_code == 200


@pytest.mark.parametrize("name", ["images.zip", "grid.png"])
def test_what_has_no_images_has_no_bundle(service: Service, name: str) -> None:
    assert_problem(service.http.get(f"/v1/jobs/job_nope/{name}"), 404, "job_not_found", "job_id")
    queued = service.http.post("/v1/generations", json={"model": service.add_model()}).json()
    problem = assert_problem(service.http.get(f"/v1/jobs/{queued['id']}/{name}"), 404, "images_not_found", "job_id")
    assert problem["detail"].endswith("yet")
    body = {"dataset": service.add_dataset(), "budget": {"images": 100}}
    training = service.http.post("/v1/trainings", json=body).json()
    assert training["kind"] == JobKind.TRAIN
    problem = assert_problem(service.http.get(f"/v1/jobs/{training['id']}/{name}"), 404, "images_not_found", "job_id")
    assert problem["detail"].endswith("train")


@pytest.mark.parametrize("columns", [0, 257, "many"])
def test_columns_out_of_bounds_are_refused(service: Service, columns: int | str) -> None:
    job = made(service, 1)
    response = service.http.get(job["links"]["grid"], params={"columns": columns})
    assert_problem(response, 422, "invalid_parameter", "columns")


def test_a_damaged_picture_in_a_sheet_is_named_as_such(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(conftest, "PNG", b"no picture")
    assert_problem(service.http.get(made(service, 2)["links"]["grid"]), 500, "picture_damaged")


def test_a_zip_leaves_out_what_is_deleted_and_is_not_taken_for_the_one_before(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = service.http.post("/v1/generations", json={"model": service.add_model(), "n": 3, "seed": 5}).json()["id"]
    service.worker.sample()
    before = service.http.get(f"/v1/jobs/{job}/images.zip")
    images = service.http.get("/v1/images", params={"job": job}).json()["data"]
    service.http.delete(f"/v1/images/{images[1]['id']}")
    read = bundles._images  # between it and the reading of the file there is nothing to hold on to

    def read_then_deleted(*arguments: Any) -> Iterator[Image]:
        rows = list(read(*arguments))
        service.http.delete(f"/v1/images/{images[2]['id']}")
        yield from rows

    monkeypatch.setattr(bundles, "_images", read_then_deleted)
    after = service.http.get(f"/v1/jobs/{job}/images.zip", headers={"If-None-Match": before.headers["etag"]})

    assert after.status_code == 200
    assert zipfile.ZipFile(io.BytesIO(after.content)).namelist() == ["000000-seed-5.png"]
