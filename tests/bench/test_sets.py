"""Image sets are laid out once, with the same pictures in both forms, and nothing held out among them."""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from bench.sets import ImageSet, lay_out
from models.data import PreparedImages
from tests.pictures import folder_of_shapes


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    """Sixty pictures of two classes, the first with a transparent half that hides red."""
    folder = folder_of_shapes(tmp_path / "pictures", 60)
    pixels = np.zeros((32, 32, 4), np.uint8)
    pixels[..., 0] = 255
    pixels[:16, :, 3] = 255
    Image.fromarray(pixels).save(folder / "class-0/0000.png")
    with zipfile.ZipFile(tmp_path / "shapes.zip", "w") as file:
        for path in sorted(folder.rglob("*.png")):
            file.write(path, path.relative_to(folder))
    return tmp_path / "shapes.zip"


def test_both_forms_hold_the_same_pictures_and_none_that_is_held_out(archive: Path, tmp_path: Path) -> None:
    laid = lay_out(ImageSet("shapes", archive.name, 32), archive.parent, tmp_path / "work")
    learnt, held_out = PreparedImages.open(laid.prepared), PreparedImages.open(laid.held_out)
    assert len(learnt) + len(held_out) == 60
    assert len(held_out) >= 4
    hashes = [{image.sha256 for image in data.manifest.images} for data in (learnt, held_out)]
    assert hashes[0] & hashes[1] == set()
    files = sorted(laid.files.rglob("*.png"), key=lambda path: path.name)
    read = np.stack([np.asarray(Image.open(path).convert("RGB")).transpose(2, 0, 1) for path in files])
    assert np.array_equal(read, learnt.images)
    assert {path.parent.name for path in files} == {"class-000", "class-001"}


def test_a_set_is_laid_out_once_unless_its_archive_changes(archive: Path, tmp_path: Path) -> None:
    image_set = ImageSet("shapes", archive.name, 32)
    laid = lay_out(image_set, archive.parent, tmp_path / "work")
    kept = laid.prepared / "extractor.json"
    kept.touch()
    lay_out(image_set, archive.parent, tmp_path / "work")
    assert kept.exists()
    with zipfile.ZipFile(archive, "a") as file:
        file.writestr("class-0/more.png", (tmp_path / "pictures/class-0/0002.png").read_bytes())
    lay_out(image_set, archive.parent, tmp_path / "work")
    assert not kept.exists()


def test_copies_are_named_by_their_places_in_the_parts(archive: Path, tmp_path: Path) -> None:
    """Given files that are there twice, whose places in the whole set are beyond its parts, when it is divided, I expect each
    part to name its own."""
    with zipfile.ZipFile(archive, "a") as file:
        for number in range(50, 60):
            path = sorted((tmp_path / "pictures").rglob("*.png"))[number]
            file.writestr(f"class-1/copy-{number}.png", path.read_bytes())
    laid = lay_out(ImageSet("shapes", archive.name, 32), archive.parent, tmp_path / "work")
    parts = [PreparedImages.open(place).manifest for place in (laid.prepared, laid.held_out)]
    groups = [[part.images[place].sha256 for place in group] for part in parts for group in part.duplicates.exact]
    assert len(groups) == 10  # a copy is where its original is
    assert all(first == second for first, second in groups)
