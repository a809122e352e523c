"""Prepared data opens without being read, scales down with a filter, and gives batches in [-1, 1]."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from models.data import PreparedImages
from models.errors import NotPrepared, ResolutionTooHigh
from models.manifest import Manifest
from tests.pictures import prepared_shapes, shapes


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return prepared_shapes(tmp_path_factory.mktemp("shapes"), count=10, resolution=32, classes=2)


def changed(directory: Path, target: Path, **values: Any) -> Path:
    """A copy of the prepared data with a manifest that says something else."""
    target.mkdir()
    (target / "images.u8").write_bytes((directory / "images.u8").read_bytes())
    manifest = json.loads((directory / "manifest.json").read_text())
    (target / "manifest.json").write_text(json.dumps(manifest | values))
    return target


def test_images_and_labels_are_those_that_were_imported(directory: Path) -> None:
    data = PreparedImages.open(directory)
    pixels, labels = shapes(10, 32, 3, 2)
    by_class = np.argsort(labels, kind="stable")
    assert len(data) == 10
    assert data.manifest.classes == ["class-0", "class-1"]
    assert (data.images == pixels[by_class]).all()
    assert data.labels is not None
    assert data.labels.dtype == np.int64
    assert data.labels.tolist() == [labels[index] for index in by_class]


def test_unlabelled_data_has_no_labels(tmp_path: Path) -> None:
    data = PreparedImages.open(prepared_shapes(tmp_path, count=4, labelled=False))
    assert data.labels is None
    assert data.load(32).batch(torch.arange(4))[1] is None


def test_a_batch_spans_minus_one_to_one(directory: Path) -> None:
    data = PreparedImages.open(directory)
    data.images[0, :, 0, :3] = (0, 128, 255)
    images, labels = data.load(32).batch(torch.tensor([3, 0]))
    assert images.shape == (2, 3, 32, 32)
    assert images.dtype == torch.float32
    assert images[1, 0, 0, :3].tolist() == [-1, pytest.approx(1 / 255, abs=1e-6), 1]
    assert labels is not None
    assert labels.tolist() == [0, 0]


def test_changing_images_in_memory_leaves_the_file_alone(directory: Path) -> None:
    before = (directory / "images.u8").read_bytes()
    PreparedImages.open(directory).images[:] = 0
    assert (directory / "images.u8").read_bytes() == before


def test_at_the_prepared_resolution_no_copy_is_made(directory: Path) -> None:
    data = PreparedImages.open(directory)
    assert data.load(32).pixels.data_ptr() == data.images.ctypes.data


def test_smaller_images_weigh_every_pixel(directory: Path) -> None:
    data = PreparedImages.open(directory)
    data.images[0] = np.arange(32) % 4 == 0
    data.images[0] *= 200  # one bright column in four, which skipping pixels would lose or take for all
    loaded = data.load(8).pixels
    assert loaded.shape == (10, 3, 8, 8)
    assert abs(loaded[0, :, :, 1:-1].float() - 50).max() <= 5


def test_a_smaller_plain_image_stays_plain(directory: Path) -> None:
    data = PreparedImages.open(directory)
    data.images[0] = 255
    data.images[1] = 0
    loaded = data.load(20).pixels
    assert (loaded[0] == 255).all()
    assert (loaded[1] == 0).all()


def test_more_pixels_than_were_prepared_are_refused_with_the_remedy(directory: Path) -> None:
    with pytest.raises(ResolutionTooHigh, match=r"64 is more than the 32 .* import the originals again at 64") as error:
        PreparedImages.open(directory).load(64)
    assert (error.value.wanted, error.value.prepared) == (64, 32)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("share", [0.4, 0.0])
def test_batches_on_a_gpu_are_those_of_the_cpu_also_when_images_do_not_fit(
    directory: Path, share: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("models.data._DEVICE_SHARE", share)
    data, indices = PreparedImages.open(directory), torch.tensor([9, 0, 4])
    on_gpu, on_cpu = data.load(16, "cuda"), data.load(16)
    assert on_gpu.pixels.is_cuda == (share > 0)
    images, labels = on_gpu.batch(indices)
    expected, expected_labels = on_cpu.batch(indices)
    assert images.is_cuda
    assert torch.allclose(images.cpu(), expected, atol=1e-6)
    assert labels is not None
    assert expected_labels is not None
    assert labels.is_cuda
    assert torch.equal(labels.cpu(), expected_labels)


def test_an_empty_directory_is_not_prepared(tmp_path: Path) -> None:
    with pytest.raises(NotPrepared, match="no prepared data"):
        PreparedImages.open(tmp_path)


def test_pixels_that_do_not_match_the_manifest_are_refused(directory: Path, tmp_path: Path) -> None:
    copy = changed(directory, tmp_path / "copy")
    with (copy / "images.u8").open("ab") as file:
        file.write(b"\0")
    with pytest.raises(NotPrepared, match="30,721 bytes where the manifest says 30,720"):
        PreparedImages.open(copy)
    (copy / "images.u8").unlink()
    with pytest.raises(NotPrepared, match="has 0 bytes"):
        PreparedImages.open(copy)


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({"version": 2}, "version 2"),
        ({"count": 9}, "counts 9 images and lists 10"),
        ({"classes": ["only one"]}, "label .* not of its 1 classes"),
        ({"images": [{"path": "a"}] * 10}, "damaged"),
        ({"unknown": 1}, "damaged"),
        ({"background": 3}, "damaged"),
    ],
)
def test_a_manifest_that_makes_no_sense_is_refused(
    directory: Path, tmp_path: Path, values: dict[str, Any], reason: str
) -> None:
    with pytest.raises(NotPrepared, match=reason):
        PreparedImages.open(changed(directory, tmp_path / "copy", **values))


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "{}"])
def test_a_text_that_is_no_manifest_is_refused(text: str) -> None:
    with pytest.raises(NotPrepared, match="damaged"):
        Manifest.from_json(text)


def test_a_manifest_survives_its_own_text(directory: Path) -> None:
    manifest = Manifest.read(directory)
    assert Manifest.from_json(manifest.to_json()) == manifest
