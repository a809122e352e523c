"""Bringing a model in over HTTP: native exports go into the line, pickles are refused by their content."""

from __future__ import annotations

import io
import pickle
import tarfile
import zipfile

import httpx
import pytest

from store.queue import Lane
from tests.app.conftest import Service, assert_problem, zip_of

EXPORT = zip_of(**{"generator.json": b"{}", "generator.safetensors": b"weights"})


def upload(service: Service, content: bytes = EXPORT, filename: str = "shoes.zip", **fields: str) -> httpx.Response:
    return service.http.post("/v1/models", files={"file": (filename, content)}, data=fields)


def torch_file() -> bytes:
    """As torch.save writes it since 2020: a zip whose first entry is a pickle."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("netG/data.pkl", pickle.dumps({}))
        archive.writestr("netG/data/0", bytes(400))
    return file.getvalue()


def old_torch_file() -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("pickle"))
    return file.getvalue()


def test_an_uploaded_export_becomes_a_queued_job(service: Service) -> None:
    response = upload(service, name="Shoes")
    assert response.status_code == 202, response.text
    job = response.json()
    assert (job["kind"], job["status"]) == ("import-model", "queued")
    assert job["request"] == {"source": {"blob": f"uploads/{job['model']}.zip"}, "name": "Shoes"}
    assert service.resources.blobs.get(f"uploads/{job['model']}.zip") == EXPORT
    assert service.queue.waiting(Lane.IO) == 1
    assert upload(service).json()["request"]["name"] == "shoes"


@pytest.mark.parametrize("filename", ["netG.pth", "model.pt", "last.ckpt", "model.pkl", "innocent.zip"])
@pytest.mark.parametrize(
    "content", [torch_file(), old_torch_file(), pickle.dumps({}), pickle.dumps({}, protocol=0), b"", b"\x08\x00" * 200]
)
def test_pickles_and_others_are_refused_by_content_with_the_way_to_convert_them(
    service: Service, content: bytes, filename: str
) -> None:
    problem = assert_problem(upload(service, content, filename), 415, "unsupported_media_type", "file")
    assert "python -m models import-dcgan" in problem["remedy"]
    assert service.blob_files() == []


def test_an_export_is_taken_whatever_it_is_called(service: Service) -> None:
    assert upload(service, filename="netG.pth").status_code == 202


def test_an_unknown_field_is_refused_by_name(service: Service) -> None:
    assert_problem(upload(service, path="/etc/passwd"), 422, "invalid_parameter", "path")
    assert service.blob_files() == []


def test_what_is_no_form_is_refused(service: Service) -> None:
    response = service.http.post("/v1/models", content=EXPORT, headers={"Content-Type": "application/zip"})
    assert_problem(response, 415, "unsupported_media_type", "Content-Type")


def test_canceling_a_queued_import_deletes_the_upload(service: Service) -> None:
    job = upload(service).json()
    assert service.http.post(f"/v1/jobs/{job['id']}/cancel").json()["status"] == "canceled"
    assert service.blob_files() == []
