"""The extractor learns a data set once, is the same every time, and is kept with its hash."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from models.data import PreparedImages
from models.errors import BadCheckpoint, CheckpointError, ResolutionTooHigh, Stopped, TooFewImages
from models.evaluation.extractor import Extractor, extractor_paths, kept_extractor, train_extractor
from models.evaluation.network import FEATURES
from tests.models.conftest import Prepare
from tests.pictures import prepared_shapes


@pytest.fixture(scope="module")
def shapes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three hundred discs, squares and rings, prepared."""
    return prepared_shapes(tmp_path_factory.mktemp("shapes"), 300, channels=1, classes=3)


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lessons of a few steps."""
    monkeypatch.setattr("models.evaluation.extractor.LESSON_IMAGES", 64)


def test_with_labels_it_learns_to_read_them(shapes: Path) -> None:
    data = PreparedImages.open(shapes)
    extractor = train_extractor(data, 32, lesson_images=2500)
    images = data.load(32)
    features, logits = extractor.read(images.pixels)
    assert images.labels is not None
    assert (logits.argmax(dim=1) == images.labels).double().mean() > 0.7  # chance: 0.33
    assert (extractor.card.lesson, extractor.card.classes) == ("labels", ["class-0", "class-1", "class-2"])
    assert features.shape == (300, FEATURES)
    assert features.mean(dim=0).abs().max() < 0.3
    assert 0.8 < float(features.std(dim=0).mean()) < 1.2


def test_without_labels_it_learns_to_tell_pictures_apart(prepared: Prepare) -> None:
    """Given pictures without labels, when one is seen again a little changed, I expect its features to be the nearest."""
    data = prepared(100, classes=0)
    extractor = train_extractor(data, 32, lesson_images=800)
    pixels = data.load(32).pixels
    features, _ = extractor.read(pixels)
    changed, _ = extractor.read((pixels.float() * 0.9 + 12).to(torch.uint8).roll((1, 1), dims=(2, 3)))
    found = torch.cdist(changed, features).argmin(dim=1) == torch.arange(100)
    assert found.double().mean() > 0.8
    assert (extractor.card.lesson, extractor.card.classes) == ("contrast", None)


def test_labels_with_too_few_images_each_are_not_learnt(prepared: Prepare) -> None:
    assert train_extractor(prepared(60, classes=20), 32, lesson_images=64).card.lesson == "contrast"


@pytest.mark.parametrize("classes", [0, 2])
def test_equal_seeds_give_equal_weights(classes: int, prepared: Prepare) -> None:
    data = prepared(60, classes=classes)
    torch.manual_seed(1)
    first = train_extractor(data, 32, lesson_images=128)
    torch.manual_seed(2)  # the world outside must not matter
    again, other = (train_extractor(data, 32, lesson_images=128, seed=seed) for seed in (0, 1))
    assert first.sha256 == again.sha256 != other.sha256


@pytest.mark.parametrize(("channels", "prepared_at", "resolution"), [(3, 64, 64), (1, 96, 32), (3, 96, 96)])
def test_every_size_and_colour_can_be_read(channels: int, prepared_at: int, resolution: int, prepared: Prepare) -> None:
    data = prepared(50, channels=channels, resolution=prepared_at)
    features, _ = train_extractor(data, resolution, lesson_images=32).read(data.load(resolution).pixels[:4])
    assert features.shape == (4, FEATURES)
    assert features.isfinite().all()


def test_it_does_not_look_at_its_neighbours(prepared: Prepare) -> None:
    data = prepared(50)
    extractor = train_extractor(data, 32, lesson_images=64)
    together, _ = extractor.read(data.load(32).pixels)
    alone, _ = extractor.read(data.load(32).pixels[7:8])
    assert torch.allclose(together[7:8], alone, atol=1e-4)
    assert extractor.read(data.load(32).pixels[:0])[0].shape == (0, FEATURES)


def test_it_is_kept_beside_the_data_and_found_again(shapes: Path, tmp_path: Path, short: None) -> None:
    directory = _copy(shapes, tmp_path)
    learnt = kept_extractor(directory, 32)
    weights, _ = extractor_paths(directory, 32)
    assert weights.name == "extractor-32.safetensors"
    assert learnt.sha256 == hashlib.sha256(weights.read_bytes()).hexdigest()

    calls: list[int] = []
    found = kept_extractor(directory, 32, on_progress=lambda done, total: calls.append(done))
    assert calls == []
    assert (found.sha256, found.card) == (learnt.sha256, learnt.card)
    pixels = PreparedImages.open(directory).load(32).pixels
    assert torch.equal(found.read(pixels)[0], learnt.read(pixels)[0])


def _damage(directory: Path) -> None:
    weights, _ = extractor_paths(directory, 32)
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)


def _tear(directory: Path) -> None:
    extractor_paths(directory, 32)[1].write_text("{")


def _import_others(directory: Path) -> None:
    manifest = PreparedImages.open(directory).manifest
    changed = [replace(manifest.images[0], sha256="0" * 64), *manifest.images[1:]]
    replace(manifest, images=changed).write(directory)


@pytest.mark.parametrize("harm", [_damage, _tear, _import_others])
def test_one_that_is_damaged_or_of_other_images_is_learnt_anew(
    harm: Callable[[Path], None], shapes: Path, tmp_path: Path, short: None
) -> None:
    directory = _copy(shapes, tmp_path)
    kept_extractor(directory, 32)
    harm(directory)
    calls: list[int] = []
    anew = kept_extractor(directory, 32, on_progress=lambda done, total: calls.append(done))
    assert calls[-1] >= 64
    assert Extractor.load(directory, 32).sha256 == anew.sha256


def test_what_is_not_there_cannot_be_loaded(tmp_path: Path) -> None:
    with pytest.raises(BadCheckpoint):
        Extractor.load(tmp_path, 32)


def test_a_directory_that_takes_no_files_is_named(prepared: Prepare, tmp_path: Path) -> None:
    extractor = train_extractor(prepared(50), 32, lesson_images=64)
    with pytest.raises(CheckpointError, match="nowhere"):
        extractor.save(tmp_path / "nowhere")


def test_when_stopped_nothing_is_kept(shapes: Path, tmp_path: Path) -> None:
    directory = _copy(shapes, tmp_path)
    with pytest.raises(Stopped):
        kept_extractor(directory, 32, should_stop=lambda: True)
    assert not list(directory.glob("extractor-*"))


def test_too_few_images_and_too_many_pixels_are_refused(prepared: Prepare) -> None:
    with pytest.raises(TooFewImages, match="49 images are too few"):
        train_extractor(prepared(49), 32)
    with pytest.raises(ResolutionTooHigh):
        train_extractor(prepared(50), 64)


def _copy(shapes: Path, tmp_path: Path) -> Path:
    directory = tmp_path / "prepared"
    directory.mkdir()
    for path in shapes.iterdir():
        if not path.name.startswith("extractor"):
            (directory / path.name).write_bytes(path.read_bytes())
    return directory
