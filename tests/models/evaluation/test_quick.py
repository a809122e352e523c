"""Quick measures: the ends of full ones, cheaper, and good enough to see a model go wrong."""

from __future__ import annotations

import time
from dataclasses import replace

import pytest
import torch

from models.data import PreparedImages
from models.errors import NotComparable, Stopped
from models.evaluation import Extractor, QuickMeasure, evaluate
from models.evaluation.frechet import frechet_distance
from models.evaluation.neighbours import manifold
from models.evaluation.split import split
from models.generator import Generator
from tests.models.evaluation.shapes import CLASSES, Album, album_generator, control, labels_of


@pytest.fixture(scope="module")
def quick(extractor: Extractor, data: PreparedImages) -> QuickMeasure:
    return QuickMeasure(extractor, data)


def test_a_perfect_generator_scores_about_the_floor(quick: QuickMeasure, data: PreparedImages) -> None:
    labels = labels_of(data)[split(data.manifest).control]
    found, floor = quick.measure(album_generator(Album(control(data), labels), CLASSES), 120), quick.floor(120)
    assert found.fd_domain < 3 * floor.fd_domain
    assert abs(found.kid) < 0.3
    assert found.coverage > 0.7 * floor.coverage
    assert found.ms_ssim == pytest.approx(floor.ms_ssim, abs=0.12)  # the album repeats itself
    assert (found.n, found.n_reference) == (120, len(split(data.manifest).reference))
    assert found.extractor_sha256 == quick.extractor.sha256


def test_a_collapsed_one_is_seen_by_every_number(quick: QuickMeasure, data: PreparedImages) -> None:
    found, floor = quick.measure(album_generator(Album(control(data)[:3])), 120), quick.floor(120, labelled=False)
    assert found.fd_domain > 10 * floor.fd_domain
    assert found.kid > 1 > floor.kid
    assert found.coverage < 0.3 < floor.coverage
    assert found.ms_ssim > floor.ms_ssim + 0.1
    assert found.diversity < 0.9 < floor.diversity


def test_training_images_are_seen_to_be_copies(quick: QuickMeasure, data: PreparedImages) -> None:
    learnt = data.load(32).pixels[split(data.manifest).study]
    copied, new = quick.measure(album_generator(Album(learnt)), 120), quick.floor(120, labelled=False)
    assert copied.copies == 1
    assert new.copies < 0.1


def test_its_numbers_are_those_of_the_full_measures(
    quick: QuickMeasure, data: PreparedImages, extractor: Extractor
) -> None:
    """Given the pictures that a full evaluation floors itself with, I expect the same distance and coverage."""
    album = album_generator(Album(control(data)))
    size = len(split(data.manifest).control)
    full, floor = evaluate(album, data, extractor, n=size), quick.floor(size)
    assert floor.fd_domain == pytest.approx(full.scores["fd_domain"].floor, rel=1e-5)
    assert floor.coverage == pytest.approx(full.scores["coverage"].floor)
    made = quick.measure(album, size)
    assert made.fd_domain == pytest.approx(full.scores["fd_domain"].value, rel=1e-5)
    assert made.coverage == pytest.approx(full.scores["coverage"].value)


def test_the_reference_is_what_was_left_of_the_data(
    quick: QuickMeasure, data: PreparedImages, extractor: Extractor
) -> None:
    left = split(data.manifest)
    loaded = data.load(32).pixels
    reference, ours = extractor.read(loaded[left.reference])[0], extractor.read(loaded[left.control][:50])[0]
    assert quick.floor(50).fd_domain == pytest.approx(frechet_distance(ours, reference), rel=1e-5)
    assert quick.floor(50).coverage == manifold(reference, ours).coverage


def test_equal_input_gives_equal_numbers_and_no_random_state_moves(quick: QuickMeasure, data: PreparedImages) -> None:
    album = album_generator(Album(control(data)))
    before = torch.get_rng_state()
    first, again, other = (quick.measure(album, 100, seed) for seed in (3, 3, 1000))
    assert first == again
    assert first.fd_domain != other.fd_domain
    assert torch.equal(torch.get_rng_state(), before)


def test_a_time_that_is_over_ends_the_making_of_pictures(quick: QuickMeasure, data: PreparedImages) -> None:
    album = album_generator(Album(control(data)))
    assert quick.measure(album, 5000, within_s=0.0).n == 64
    started = time.monotonic()
    found = quick.measure(album, 100, within_s=60.0)
    assert found.n == 100
    assert 0 < found.took_s <= time.monotonic() - started


def test_what_does_not_fit_is_refused(quick: QuickMeasure, data: PreparedImages, extractor: Extractor) -> None:
    album = album_generator(Album(control(data)))
    with pytest.raises(NotComparable, match="64 px"):
        quick.measure(Generator(album.network, album.card.model_copy(update={"resolution": 64})))
    with pytest.raises(ValueError, match="n = 7"):
        quick.measure(album, 7)
    with pytest.raises(Stopped):
        quick.measure(album, 100, should_stop=lambda: True)
    other = PreparedImages(replace(data.manifest, classes=["a", "b", "c"]), data.images, data.labels)
    with pytest.raises(NotComparable, match="another data set"):
        QuickMeasure(extractor, other)
