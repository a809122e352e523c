"""Evaluating a generator: good ones score near the floor, bad ones are found out, equal input gives equal numbers."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from models.catalog import MAX_SEED
from models.data import PreparedImages
from models.errors import InvalidOption, NotComparable, Stopped, TooFewImages
from models.evaluation import MEASURES, Evaluation, Extractor, evaluate
from models.evaluation.split import split
from models.generator import Generator
from tests.models.evaluation.shapes import CLASSES, Album, album_generator, control, labels_of
from tests.pictures import prepared_shapes


@pytest.fixture(scope="module")
def pixels(data: PreparedImages) -> Tensor:
    return data.load(32).pixels


@pytest.fixture(autouse=True)
def short_lessons(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("models.evaluation.accuracy.LESSON_IMAGES", 64)


def _values(evaluation: Evaluation) -> dict[str, float]:
    return {name: score.value for name, score in evaluation.scores.items()}


def _floors(evaluation: Evaluation) -> dict[str, float]:
    return {name: score.floor for name, score in evaluation.scores.items()}


def test_a_perfect_generator_scores_about_the_floor(
    data: PreparedImages, extractor: Extractor, monkeypatch: pytest.MonkeyPatch
) -> None:
    labels = labels_of(data)[split(data.manifest).control]
    monkeypatch.setattr("models.evaluation.accuracy.LESSON_IMAGES", 2000)
    found = evaluate(album_generator(Album(control(data), labels), CLASSES), data, extractor, n=200)
    values, floors = _values(found), _floors(found)
    assert set(values) == set(MEASURES) - {"fid", "inception_score"}
    assert values["fd_domain"] < 3 * floors["fd_domain"]
    assert abs(values["kid"]) < 0.2
    assert values["swd"] < 2 * floors["swd"]
    assert values["coverage"] > 0.7 * floors["coverage"]
    assert values["control_accuracy"] == pytest.approx(floors["control_accuracy"], abs=0.1)
    assert values["classifier_accuracy_score"] == pytest.approx(floors["classifier_accuracy_score"], abs=0.25)
    assert values["ms_ssim"] == pytest.approx(floors["ms_ssim"], abs=0.05)
    assert found.memorisation.copies < 0.1


def test_one_that_drops_classes_is_found_out_by_variety_and_by_labels(
    data: PreparedImages, extractor: Extractor
) -> None:
    """Given a model that answers every label with discs, I expect it to lose recall, coverage, and its readings."""
    labels = labels_of(data)
    held = split(data.manifest).control
    discs = data.load(32).pixels[held[labels[held] == 0]]
    found = evaluate(album_generator(Album(discs), CLASSES), data, extractor, n=100)
    values, floors = _values(found), _floors(found)
    assert values["fd_domain"] > 10 * floors["fd_domain"]
    assert values["coverage"] < 0.6 * floors["coverage"]
    assert values["control_accuracy"] == pytest.approx(1 / 3, abs=0.05)
    assert values["is_domain"] < 1.3 < 2 < floors["is_domain"]


def test_noise_is_found_out_by_fidelity(data: PreparedImages, extractor: Extractor) -> None:
    noise = torch.randint(256, (100, 1, 32, 32), generator=torch.Generator().manual_seed(0))
    found = evaluate(album_generator(Album(noise)), data, extractor, n=100)
    values, floors = _values(found), _floors(found)
    assert values["precision"] < 0.1 < 0.8 < floors["precision"]
    assert values["density"] < 0.1
    assert values["swd"] > 3 * floors["swd"]
    assert values["kid"] > 1 > abs(floors["kid"])
    assert "control_accuracy" not in values


def test_one_that_repeats_its_training_pictures_is_found_out(
    data: PreparedImages, extractor: Extractor, pixels: Tensor
) -> None:
    found = evaluate(album_generator(Album(pixels[split(data.manifest).study[:100]])), data, extractor, n=100)
    assert found.memorisation.copies > 0.9
    assert found.memorisation.closer_to_training > 0.9
    assert not found.memorisation.held_out_unseen
    assert found.suspects[0].neighbours[0].distance < 1e-4 < found.memorisation.copy_distance
    assert _values(found)["fd_domain"] < 5 * _floors(found)["fd_domain"], "which no distance between distributions sees"


def test_equal_input_gives_equal_numbers_and_another_seed_others(data: PreparedImages, extractor: Extractor) -> None:
    generator = album_generator(Album(control(data)))
    torch.manual_seed(1)
    first = evaluate(generator, data, extractor, n=60)
    torch.manual_seed(2)
    again, other = (evaluate(generator, data, extractor, n=60, seed=seed) for seed in (0, 60))
    assert first == again
    assert _values(first) != _values(other)
    assert json.loads(json.dumps(first.to_json()))["scores"]["kid"]["value"] == first.scores["kid"].value


def test_more_pictures_than_real_ones_are_measured_in_rounds_of_as_many(
    data: PreparedImages, extractor: Extractor
) -> None:
    """Given some 120 pictures for the floor, when 300 are asked for, I expect two rounds and the spread between them."""
    labels = labels_of(data)[split(data.manifest).control]
    found = evaluate(album_generator(Album(control(data), labels), CLASSES), data, extractor, n=300)
    available = len(split(data.manifest).control)
    assert (found.n, found.rounds) == (available, 300 // available)
    assert found.scores["fd_domain"].spread is not None
    assert found.scores["classifier_accuracy_score"].spread is None, "one lesson is enough"
    once = evaluate(album_generator(Album(control(data))), data, extractor, n=50)
    assert (once.n, once.rounds, once.scores["fd_domain"].spread) == (50, 1, None)


def test_too_few_pictures_teach_nothing(data: PreparedImages, extractor: Extractor) -> None:
    labels = labels_of(data)[split(data.manifest).control]
    found = evaluate(album_generator(Album(control(data), labels), CLASSES), data, extractor, n=50)
    assert "control_accuracy" in found.scores
    assert "classifier_accuracy_score" not in found.scores


def test_another_data_set_takes_the_references_place(
    data: PreparedImages, extractor: Extractor, tmp_path: Path
) -> None:
    """Given other pictures, some of which the data has too, I expect only the new ones to be compared with."""
    others = _renamed(PreparedImages.open(prepared_shapes(tmp_path, 40, channels=1, classes=3)), data, shared=10)
    found = evaluate(album_generator(Album(control(data))), data, extractor, against=others, n=50)
    assert (found.n_reference, found.reference) == (30, others.manifest.source_name)
    assert found.memorisation.held_out_unseen
    assert any("Only 30 reference images" in note for note in found.notes)


def _renamed(others: PreparedImages, data: PreparedImages, shared: int) -> PreparedImages:
    """`others` under hashes of its own, but for the first few, which are those of `data`."""
    images = [
        replace(image, sha256=data.manifest.images[index].sha256 if index < shared else f"{index:064x}")
        for index, image in enumerate(others.manifest.images)
    ]
    return PreparedImages(replace(others.manifest, images=images), others.images, others.labels)


def test_progress_grows_to_all_of_it(data: PreparedImages, extractor: Extractor) -> None:
    told: list[tuple[int, int]] = []
    evaluate(
        album_generator(Album(control(data))),
        data,
        extractor,
        n=20,
        on_progress=lambda *told_now: told.append(told_now),
    )
    assert told == sorted(told)
    assert len({total for _, total in told}) == 1
    assert told[-1][0] == told[-1][1]
    assert told[-2][0] >= 0.95 * told[-2][1], "the last step is not a jump"


def test_it_can_be_stopped_at_any_moment(data: PreparedImages, extractor: Extractor) -> None:
    album = album_generator(Album(control(data)))
    for patience in (0, 3, 8, 12):
        asked = iter([False] * patience)
        with pytest.raises(Stopped):
            evaluate(album, data, extractor, n=20, should_stop=lambda: next(asked, True))  # noqa: B023 # used at once


def test_classes_that_the_data_does_not_have_are_said_and_not_scored(
    data: PreparedImages, extractor: Extractor
) -> None:
    found = evaluate(album_generator(Album(control(data)), ["cats", "dogs"]), data, extractor, n=20)
    assert "control_accuracy" not in found.scores
    assert any("classes are not the data's" in note for note in found.notes)


def test_labels_are_asked_for_by_name_as_often_as_the_data_has_them(data: PreparedImages, extractor: Extractor) -> None:
    """Given a model whose classes stand in another order, I expect each name to mean what it says."""
    shuffled = Album(
        data.load(32).pixels, (labels_of(data) + 1) % 3
    )  # the model's class 0 is the data's class-2, and so on
    generator = album_generator(shuffled, ["class-2", "class-0", "class-1"])
    found = evaluate(generator, data, extractor, n=60)
    assert found.scores["control_accuracy"].value > 0.9


def test_what_does_not_fit_is_refused(data: PreparedImages, extractor: Extractor, tmp_path: Path) -> None:
    generator = album_generator(Album(control(data)))
    large = Generator(generator.network, generator.card.model_copy(update={"resolution": 64}))
    with pytest.raises(NotComparable, match="64 px and 1 channels"):
        evaluate(large, data, extractor)
    other = replace(data.manifest, classes=["a", "b", "c"])
    with pytest.raises(NotComparable, match="extractor"):
        evaluate(generator, PreparedImages(other, data.images, data.labels), extractor)
    with pytest.raises(InvalidOption, match="n: got 7"):
        evaluate(generator, data, extractor, n=7)
    with pytest.raises(InvalidOption, match="seed"):
        evaluate(generator, data, extractor, n=50, seed=MAX_SEED)
    with pytest.raises(TooFewImages, match="only 0 real images"):
        evaluate(generator, data, extractor, against=data, n=50)


def test_every_measure_is_explained() -> None:
    assert all(measure.question and measure.title and name == measure.name for name, measure in MEASURES.items())
