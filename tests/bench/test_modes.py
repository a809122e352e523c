"""Stacked pictures have 1,000 modes, those that are shown are counted, and the command goes on where it stopped."""

from __future__ import annotations

import json
import math
import zipfile
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import numpy as np
import pytest
import torch
from torch import Tensor
from typer.testing import CliRunner

from bench.modes import ADVERSARIAL, app
from bench.stacking import count_modes, stacked, write
from models.data import PreparedImages
from models.evaluation.extractor import Extractor, ExtractorCard
from tests.pictures import folder_of_shapes, prepared_shapes


class Brightness(Extractor):
    """Classes by how bright a picture is: for counting, when what is right must be known."""

    def __init__(self) -> None:
        self.card = cast(ExtractorCard, SimpleNamespace(classes=[str(number) for number in range(10)]))

    def read(self, images: Tensor, **_: object) -> tuple[Tensor, Tensor]:
        classes = images[:, 0, 0, 0].long() // 25
        return torch.empty(0), torch.nn.functional.one_hot(classes.clamp_max(9), 10).float()


def of_classes(*rows: tuple[int, int, int]) -> Tensor:
    return torch.tensor(rows, dtype=torch.uint8)[:, :, None, None].mul(25).expand(-1, -1, 4, 4)


def test_modes_are_triples_in_their_order() -> None:
    found = count_modes(Brightness(), of_classes((0, 1, 2), (2, 1, 0), (0, 1, 2), (9, 9, 9)))
    assert (found.modes, found.of, found.pictures) == (3, 1000, 4)
    shares = np.array([0.5, 0.25, 0.25])
    assert found.kl == pytest.approx(float((shares * np.log(shares * 1000)).sum()))


def test_every_mode_once_is_no_divergence_and_one_mode_is_all_of_it() -> None:
    every = of_classes(*((a, b, c) for a in range(10) for b in range(10) for c in range(10)))
    assert count_modes(Brightness(), every).modes == 1000
    assert count_modes(Brightness(), every).kl == pytest.approx(0, abs=1e-9)
    assert count_modes(Brightness(), every[:1].repeat(7, 1, 1, 1)).kl == pytest.approx(math.log(1000))


def test_channels_are_drawn_by_themselves_from_every_class(tmp_path: Path) -> None:
    data = PreparedImages.open(prepared_shapes(tmp_path / "grey", 60, channels=1, classes=3))
    pixels = stacked(data, 300, seed=3)
    known = {
        picture[0].tobytes(): image.label for picture, image in zip(data.images, data.manifest.images, strict=True)
    }
    modes = {tuple(known[channel.tobytes()] for channel in picture) for picture in pixels}
    assert len(modes) == 27
    assert np.array_equal(pixels, stacked(data, 300, seed=3))
    write(pixels, data, tmp_path / "stacked")
    back = PreparedImages.open(tmp_path / "stacked")
    assert (back.manifest.channels, back.manifest.classes, len(back)) == (3, None, 300)
    assert np.array_equal(back.images, pixels)


@pytest.mark.slow
def test_a_kind_is_trained_and_counted_once(tmp_path: Path) -> None:
    for name, count, folder in (("fashion-mnist", 120, "a"), ("fashion-mnist-test", 40, "b")):
        source = folder_of_shapes(tmp_path / folder, count, channels=1)
        with zipfile.ZipFile(tmp_path / f"{name}.zip", "w") as file:
            for path in sorted(source.rglob("*.png")):
                file.write(path, path.relative_to(source))
    results = tmp_path / "results.jsonl"
    command = ["--quick", "--json", "--threads", "1", "--data-dir", str(tmp_path), "--work", str(tmp_path / "work")]
    command += ["--results", str(results), "--only", "gan-fewshot"]
    first = CliRunner().invoke(app, command)
    assert first.exit_code == 0, first.output
    (row,) = map(json.loads, results.read_text().splitlines())
    assert row["found"]["pictures"] == 128
    assert 1 <= row["found"]["modes"] <= row["found"]["of"]
    assert row["floor"]["modes"] >= 1
    assert str(tmp_path) not in results.read_text()
    again = CliRunner().invoke(app, command)
    assert [json.loads(line)["value"] for line in again.stdout.splitlines()] == [
        row["found"]["modes"],
        row["found"]["kl"],
    ]
    assert len(results.read_text().splitlines()) == 1


def test_all_kinds_with_an_adversary_are_in_it() -> None:
    assert ADVERSARIAL == ("gan-dcgan", "gan-r3", "gan-fewshot", "vae-gan", "gan-dcgan@quick", "gan-r3@quick")
