"""Bringing pictures in, over a real socket."""

from __future__ import annotations

import errno
import io
import json
import os
import socket
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from app import uploads
from store.queue import Lane
from store.records import Dataset, Job
from tests.app.conftest import MAX_UPLOAD_BYTES, Service, assert_problem, eventually, running, zip_of

ZIP = zip_of(**{"cat/1.png": b"one", "dog/2.png": b"two"})


def upload(service: Service, content: bytes = ZIP, *, key: str | None = None, **fields: Any) -> httpx.Response:
    headers = {"Idempotency-Key": key} if key is not None else {}
    files = {"file": ("pets.zip", content, "application/zip")}
    return service.http.post("/v1/datasets", files=files, data=fields, headers=headers)


def test_an_uploaded_zip_becomes_a_dataset_and_a_queued_import(service: Service) -> None:
    response = upload(service, name="My pets", resolution="64", channels="3", background="#00ff00")

    assert response.status_code == 202
    job = response.json()
    assert response.headers["location"] == f"/v1/jobs/{job['id']}"
    assert (job["kind"], job["status"]) == ("import", "queued")
    assert job["request"] == {
        "source": {"blob": f"uploads/{job['dataset']}.zip"},
        "name": "My pets",
        "resolution": 64,
        "channels": 3,
        "background": "#00ff00",
        "duplicates": "keep",
    }
    assert service.resources.blobs.get(f"uploads/{job['dataset']}.zip") == ZIP
    assert service.queue.waiting(Lane.IO) == 1
    dataset = service.http.get(f"/v1/datasets/{job['dataset']}").json()
    assert (dataset["name"], dataset["status"], dataset["refused"]) == ("My pets", "importing", None)


@pytest.mark.parametrize("mode", ["w", "w:gz", "w:bz2", "w:xz"])
def test_a_tar_is_taken_as_well_compressed_or_not(service: Service, mode: str) -> None:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode=mode) as archive:  # type: ignore[call-overload] # the mode is a variable
        archive.addfile(tarfile.TarInfo("1.png"))
    response = upload(service, file.getvalue(), duplicates="drop-exact")
    assert response.status_code == 202, response.text
    assert response.json()["request"]["duplicates"] == "drop-exact"


def test_an_upload_without_a_name_is_called_like_its_file(service: Service) -> None:
    assert upload(service).json()["request"]["name"] == "pets"


def test_a_file_that_arrives_in_tiny_pieces_is_stored_whole(service: Service) -> None:
    content = zip_of(**{"1.png": bytes(range(256)) * 900})
    boundary = "------------pieces"
    body = (
        (f'--{boundary}\r\nContent-Disposition: form-data; name="file"; filename="a.zip"\r\n\r\n').encode()
        + content
        + (
            f'\r\n--{boundary}\r\nContent-Disposition: form-data; name="name"\r\n\r\nlate\r\n--{boundary}--\r\n'
        ).encode()
    )

    def pieces() -> Iterator[bytes]:  # without a Content-Length, so chunked
        for start in range(0, len(body), 997):
            yield body[start : start + 997]

    response = service.http.post(
        "/v1/datasets", content=pieces(), headers={"Content-Type": f"multipart/form-data; boundary={boundary}"}
    )

    assert response.status_code == 202, response.text
    job = response.json()
    assert job["request"]["name"] == "late"
    assert service.resources.blobs.get(f"uploads/{job['dataset']}.zip") == content


def assert_nothing_left(service: Service) -> None:
    assert service.blob_files() == []
    with service.resources.database.snapshot() as session:
        assert session.query(Dataset).count() == session.query(Job).count() == 0


def test_an_upload_that_says_it_is_too_large_is_refused_before_it_is_read(service: Service) -> None:
    response = upload(service, ZIP + bytes(MAX_UPLOAD_BYTES + 100_000))

    problem = assert_problem(response, 413, "too_large", "file")
    assert "300,000" in problem["detail"]
    assert "DARKROOM_MAX_UPLOAD_BYTES" in problem["remedy"]
    assert_nothing_left(service)


def test_an_upload_that_grows_too_large_is_refused_on_its_way(service: Service) -> None:
    head = b'--x\r\nContent-Disposition: form-data; name="file"; filename="a.zip"\r\n\r\n' + ZIP

    def endless() -> Iterator[bytes]:
        yield head
        for _ in range(40):
            yield bytes(65_536)

    response = service.http.post(
        "/v1/datasets", content=endless(), headers={"Content-Type": "multipart/form-data; boundary=x"}
    )

    assert_problem(response, 413, "too_large", "file")
    assert_nothing_left(service)


def test_a_body_with_much_besides_the_file_is_refused(service: Service) -> None:
    body = b'--x\r\nContent-Disposition: form-data; name="file"; filename="a.zip"\r\n\r\n' + ZIP + b"\r\n--x--\r\n"
    response = service.http.post(
        "/v1/datasets", content=body + bytes(100_000), headers={"Content-Type": "multipart/form-data; boundary=x"}
    )
    assert_problem(response, 413, "too_large")
    assert_nothing_left(service)


def test_a_client_that_hangs_up_leaves_nothing_behind(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(uploads, "BLOCK_BYTES", 1000)
    host, port = service.url.removeprefix("http://").split(":")
    head = b'--x\r\nContent-Disposition: form-data; name="file"; filename="a.zip"\r\n\r\n' + ZIP
    with socket.create_connection((host, int(port))) as connection:
        connection.sendall(
            b"POST /v1/datasets HTTP/1.1\r\nHost: localhost\r\nContent-Length: 200000\r\n"
            b"Authorization: Bearer " + service.key.encode() + b"\r\n"
            b"Content-Type: multipart/form-data; boundary=x\r\n\r\n" + head + bytes(50_000)
        )
        eventually(lambda: any(name.startswith(".incoming/") for name in service.blob_files()))
    eventually(lambda: service.blob_files() == [])
    assert_nothing_left(service)


@pytest.mark.parametrize("content", [b"", b"PK", b"\x89PNG\r\n\x1a\n....", b"PK\x01\x02....."])
def test_what_is_no_archive_is_refused(service: Service, content: bytes) -> None:
    assert_problem(upload(service, content), 422, "not_an_archive", "file")
    assert_nothing_left(service)


@pytest.mark.parametrize(
    ("fields", "parameter"),
    [
        ({"resolution": "7"}, "/resolution"),
        ({"resolution": "wide"}, "/resolution"),
        ({"resolution": "100000"}, "/resolution"),
        ({"channels": "4"}, "/channels"),
        ({"background": "white"}, "/background"),
        ({"name": "n" * 201}, "/name"),
    ],
)
def test_a_field_out_of_bounds_is_refused_by_name(service: Service, fields: dict[str, Any], parameter: str) -> None:
    assert_problem(upload(service, **fields), 422, "invalid_parameter", parameter)
    assert_nothing_left(service)


def test_a_field_that_is_too_long_is_refused(service: Service) -> None:
    assert_problem(upload(service, name="n" * 3000), 413, "too_large", "name")
    assert_nothing_left(service)


def test_an_unknown_field_is_refused_by_name(service: Service) -> None:
    problem = assert_problem(upload(service, colour="red"), 422, "invalid_parameter", "colour")
    assert "background, channels, duplicates, name, resolution" in problem["remedy"]
    assert_nothing_left(service)


def test_a_form_without_a_file_is_refused(service: Service) -> None:
    response = service.http.post("/v1/datasets", files={"name": (None, "pets")})
    assert_problem(response, 422, "invalid_parameter", "file")


def test_a_form_with_two_files_is_refused(service: Service) -> None:
    response = service.http.post("/v1/datasets", files=[("file", ("a.zip", ZIP)), ("file", ("b.zip", ZIP))])
    assert_problem(response, 422, "invalid_parameter", "file")
    assert_nothing_left(service)


@pytest.mark.parametrize(
    ("content_type", "body"),
    [
        ("multipart/form-data", b"--x\r\n"),  # no boundary
        ("multipart/form-data; boundary=x", b"nonsense"),
        (
            "multipart/form-data; boundary=x",
            b'--x\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n' + ZIP,
        ),
    ],
)
def test_a_malformed_form_is_refused(service: Service, content_type: str, body: bytes) -> None:
    response = service.http.post("/v1/datasets", content=body, headers={"Content-Type": content_type})
    assert response.json()["code"] == "malformed_request", response.text
    assert response.status_code == 400
    assert_nothing_left(service)


def test_another_content_type_is_refused(service: Service) -> None:
    response = service.http.post("/v1/datasets", content=ZIP, headers={"Content-Type": "application/zip"})
    assert_problem(response, 415, "unsupported_media_type", "Content-Type")


def test_json_that_is_none_is_refused(service: Service) -> None:
    response = service.http.post("/v1/datasets", content=b"{", headers={"Content-Type": "application/json"})
    assert_problem(response, 400, "malformed_json")


def test_json_without_a_path_is_refused(service: Service) -> None:
    assert_problem(service.http.post("/v1/datasets", json={"name": "pets"}), 422, "invalid_parameter", "/path")


@pytest.fixture
def import_root(service: Service) -> Path:
    root = service.resources.settings.import_root
    assert root is not None
    (root / "pets").mkdir(exist_ok=True)
    return root


def test_a_path_inside_the_import_root_becomes_an_import(service: Service, import_root: Path) -> None:
    for path in ("pets", str(import_root / "pets"), "pets/../pets"):
        response = service.http.post("/v1/datasets", json={"path": path, "resolution": 32})

        assert response.status_code == 202, response.text
        request = response.json()["request"]
        assert request["source"] == {"path": str(import_root / "pets")}
        assert (request["name"], request["resolution"], request["background"]) == ("pets", 32, "#ffffff")


@pytest.mark.parametrize("path", ["..", "/etc/passwd", "pets/../../x", "link/hostname", "a\0b"])
def test_a_path_that_leads_out_of_the_import_root_is_refused(service: Service, import_root: Path, path: str) -> None:
    link = import_root / "link"
    if not link.is_symlink():
        link.symlink_to("/etc")

    assert_problem(service.http.post("/v1/datasets", json={"path": path}), 403, "outside_import_root", "/path")


def test_a_path_that_is_not_there_is_refused(service: Service, import_root: Path) -> None:
    assert_problem(service.http.post("/v1/datasets", json={"path": "pest"}), 422, "source_not_found", "/path")


def test_a_path_that_the_system_refuses_to_look_at_is_answered_with_its_reason(
    service: Service, import_root: Path
) -> None:
    # Longer than a file name may be: refused as a folder without permission is, but for root as well.
    response = service.http.post("/v1/datasets", json={"path": "pets/" + "x" * 300})

    problem = assert_problem(response, 422, "source_unreadable", "/path")
    assert os.strerror(errno.ENAMETOOLONG) in problem["detail"]


def test_imports_by_path_need_an_import_root(tmp_path: Path) -> None:
    with running(tmp_path, import_root=None) as service:
        problem = assert_problem(
            service.http.post("/v1/datasets", json={"path": "pets"}), 403, "imports_by_path_disabled", "/path"
        )
    assert "DARKROOM_IMPORT_ROOT" in problem["remedy"]


def test_the_same_key_and_upload_give_the_same_job(service: Service) -> None:
    first, second = upload(service, key="k1", name="pets"), upload(service, key="k1", name="pets")

    assert first.status_code == second.status_code == 202
    assert first.headers["location"] == second.headers["location"]
    assert first.json()["id"] == second.json()["id"]
    assert service.blob_files() == [f"uploads/{first.json()['dataset']}.zip"]


def test_the_same_key_with_other_bytes_or_fields_is_refused(service: Service) -> None:
    first = upload(service, key="k1", name="pets")
    for other in (upload(service, zip_of(a=b"b"), key="k1", name="pets"), upload(service, key="k1", name="cats")):
        assert_problem(other, 422, "idempotency_key_reused", "Idempotency-Key")
    assert service.blob_files() == [f"uploads/{first.json()['dataset']}.zip"]


def test_the_same_key_and_path_give_the_same_job(service: Service, import_root: Path) -> None:
    body = {"path": "pets", "name": "pets"}
    first = service.http.post("/v1/datasets", json=body, headers={"Idempotency-Key": "k2"})
    reordered = json.dumps({"name": "pets", "path": "pets"})
    second = service.http.post(
        "/v1/datasets", content=reordered, headers={"Idempotency-Key": "k2", "Content-Type": "application/json"}
    )
    assert first.json()["id"] == second.json()["id"]


def test_canceling_a_queued_import_deletes_the_upload(service: Service) -> None:
    job = upload(service).json()

    canceled = service.http.post(f"/v1/jobs/{job['id']}/cancel").json()

    assert canceled["status"] == "canceled"
    assert service.http.get(f"/v1/datasets/{job['dataset']}").json()["status"] == "failed"
    assert service.blob_files() == []
