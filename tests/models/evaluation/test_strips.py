"""Strips: the most suspicious pictures, each beside the training pictures that it resembles."""

from __future__ import annotations

import io

import numpy as np
import torch
from PIL import Image

from models.data import PreparedImages
from models.evaluation import Extractor, evaluate, strips
from models.evaluation.split import split
from models.evaluation.strips import NEIGHBOURS, ROWS, find_suspects
from tests.models.evaluation.shapes import Album, album_generator


def test_the_nearest_come_first_and_no_training_picture_has_two_rows() -> None:
    """Given points on a line, two of which are nearest to the same one, I expect the nearer of these alone."""
    training = torch.tensor([[0.0], [10.0], [20.0]])
    generated = torch.tensor([[13.0], [10.1], [19.0], [9.0]])
    found = find_suspects(generated, training, neighbours=2)
    assert [(index, near) for index, near, _ in found] == [(1, [1, 2]), (2, [2, 1])]
    assert np.allclose(found[0][2], [0.1, 9.9], atol=1e-5)
    assert len(find_suspects(generated, training, neighbours=2, rows=1)) == 1


def test_a_model_that_copies_shows_the_same_picture_twice_in_every_row(
    data: PreparedImages, extractor: Extractor
) -> None:
    study = split(data.manifest).study
    generator = album_generator(Album(data.load(32).pixels[study[:60]]))
    found = evaluate(generator, data, extractor, n=50)
    assert len(found.suspects) == ROWS
    assert all(len(suspect.neighbours) == NEIGHBOURS for suspect in found.suspects)
    assert all(data.manifest.images[near.index].path == near.path for near in found.suspects[0].neighbours)

    sheet = np.asarray(Image.open(io.BytesIO(strips(found.suspects, generator, data))))
    side, step = 64, 66  # 32 px doubled, and the gap
    assert sheet.shape == (ROWS * step - 2, (1 + NEIGHBOURS) * step - 2)
    for row in range(ROWS):
        line = sheet[row * step : row * step + side]
        assert np.array_equal(line[:, :side], line[:, step : step + side])
        assert not np.array_equal(line[:, :side], line[:, 2 * step : 2 * step + side])
