"""What follows a training: the data set's extractor, found or taught, and nothing where that would not be worth it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from models.config import TrainingConfig
from models.data import PreparedImages
from models.errors import Stopped
from models.evaluation import Extractor, live_measure
from models.evaluation.live import WORTH_A_LESSON_IMAGES
from tests.models.conftest import Prepare
from tests.models.evaluation.shapes import Album, album_generator, control

Configure = Callable[..., TrainingConfig]


def kept(extractor: Extractor) -> None:
    raise AssertionError("there was no need to teach one")


def test_an_extractor_that_is_at_hand_measures_any_training(
    extractor: Extractor, data: PreparedImages, configured: Configure, tmp_path: Path
) -> None:
    extractor.save(tmp_path)
    config = replace(configured(images=8), resolution=extractor.card.resolution)

    live = live_measure(tmp_path, data, config, kept)

    assert live.measure is not None
    scores = live.measure(album_generator(Album(control(data))))
    assert scores.keys() == {
        "fd_domain",
        "fd_domain_floor",
        "kid",
        "coverage",
        "coverage_floor",
        "ms_ssim",
        "ms_ssim_floor",
        "diversity",
        "copies",
        "n",
    }
    assert scores["fd_domain_floor"] < scores["fd_domain"] < 3 * scores["fd_domain_floor"]


@pytest.mark.parametrize(
    ("count", "images", "words"),
    [(100, 1000, "too short"), (10, WORTH_A_LESSON_IMAGES, "10 images are too few")],
)
def test_why_nothing_is_measured_is_said(
    count: int, images: int, words: str, prepared: Prepare, configured: Configure, tmp_path: Path
) -> None:
    live = live_measure(tmp_path, prepared(count), configured(images=images), kept)
    assert live.measure is None
    assert words in (live.note or "")


def test_measuring_that_was_declined_teaches_nothing(prepared: Prepare, configured: Configure, tmp_path: Path) -> None:
    config = replace(configured(images=WORTH_A_LESSON_IMAGES), evaluation_share=0.0)
    live = live_measure(tmp_path, prepared(100), config, kept)
    assert (live.measure, live.note) == (None, None)


def test_a_long_training_is_worth_a_lesson_which_can_be_stopped(
    prepared: Prepare, configured: Configure, tmp_path: Path
) -> None:
    with pytest.raises(Stopped, match="learning"):
        live_measure(tmp_path, prepared(100), configured(images=WORTH_A_LESSON_IMAGES), kept, should_stop=lambda: True)


def test_a_lesson_is_kept_for_the_next_training(
    prepared: Prepare, configured: Configure, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("models.evaluation.extractor.LESSON_IMAGES", 128)
    data, config = prepared(100), configured(images=WORTH_A_LESSON_IMAGES)
    taught: list[Extractor] = []
    assert live_measure(tmp_path, data, config, taught.append).measure is not None
    taught[0].save(tmp_path)
    assert live_measure(tmp_path, data, config, kept).measure is not None
