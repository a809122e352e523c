"""FID and IS from a local file: what torch-fidelity's own network sees, and no trust in the file.

The real weights are 95 MB and not here: the file is of the same layout, with random ones. Pictures are enlarged to 75 pixels,
the least that the network takes, and not to 299, for time.
"""

from __future__ import annotations

import hashlib
import importlib.util
import math
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3
from torch_fidelity.metric_isc import isc_features_to_metric

from models.data import PreparedImages
from models.errors import BadInceptionFile, MissingPackage
from models.evaluation import MEASURES, Inception, evaluate, train_extractor
from models.evaluation.frechet import frechet_distance
from models.evaluation.inception import inception_score
from models.evaluation.split import split
from tests.models.evaluation.shapes import Album, album_generator
from tests.pictures import prepared_shapes

WEIGHTS = "torch_fidelity.feature_extractor_inceptionv3.load_state_dict_from_url"


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of random weights, large enough that signals neither die out nor explode on their way."""
    path = tmp_path_factory.mktemp("inception") / "weights.pth"
    with pytest.MonkeyPatch.context() as patch, torch.random.fork_rng():
        torch.manual_seed(0)
        patch.setattr(FeatureExtractorInceptionV3, "INPUT_IMAGE_SIZE", 75)
        patch.setattr(WEIGHTS, lambda *_, **__: {})
        patch.setattr(FeatureExtractorInceptionV3, "load_state_dict", lambda *_: None)
        state = FeatureExtractorInceptionV3("untaught", ["2048"]).state_dict()
    scaled = {name: value * 6**0.5 if name.endswith("conv.weight") else value for name, value in state.items()}
    torch.save({name: value.half() if value.is_floating_point() else value for name, value in scaled.items()}, path)
    return path


@pytest.fixture(autouse=True)
def small_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(FeatureExtractorInceptionV3, "INPUT_IMAGE_SIZE", 75)


def test_fid_and_is_of_an_evaluation_are_of_what_torch_fidelity_sees(weights: Path, tmp_path: Path) -> None:
    """Given a model of one picture for every seed, I expect bad scores, and floors by what theirs sees in real pictures."""
    data = PreparedImages.open(prepared_shapes(tmp_path, 60, channels=1, classes=3))
    pixels, parts = data.load(32).pixels, split(data.manifest)
    album = album_generator(Album(pixels[parts.control][:1]))
    inception = Inception.load(weights)
    told: list[tuple[int, int]] = []
    found = evaluate(
        album,
        data,
        train_extractor(data, 32, lesson_images=64),
        n=len(parts.control),
        inception=inception,
        on_progress=lambda *now: told.append(now),
    )
    theirs = FeatureExtractorInceptionV3(
        "theirs", ["2048", "logits_unbiased"], feature_extractor_weights_path=str(weights)
    )
    (control, logits), (reference, _) = (
        theirs(pixels[part].expand(-1, 3, -1, -1)) for part in (parts.control, parts.reference)
    )
    assert found.scores["fid"].floor == pytest.approx(frechet_distance(control, reference), rel=1e-3)
    assert found.scores["inception_score"].floor == pytest.approx(
        isc_features_to_metric(logits)["inception_score_mean"], rel=1e-5
    )
    assert found.scores["fid"].value > 2 * found.scores["fid"].floor > 0
    assert found.scores["inception_score"].value == pytest.approx(1, abs=1e-6), "one picture alone"
    assert found.inception_sha256 == hashlib.sha256(weights.read_bytes()).hexdigest()
    assert any("not beside numbers from papers" in note for note in found.notes)
    assert list(found.scores) == [name for name in MEASURES if name in found.scores]
    assert told == sorted(told)
    assert told[-2][0] >= 0.95 * told[-2][1], "the last step is not a jump"


class _Trap:
    """What runs a command when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.path),)  # what a pickle can name


def test_what_a_file_would_run_is_never_run(tmp_path: Path) -> None:
    sprung = tmp_path / "sprung"
    torch.save({"fc.weight": torch.zeros(1), "more": _Trap(sprung)}, tmp_path / "trap.pth")
    with pytest.raises(BadInceptionFile, match=r"trap\.pth is no file of tensors alone"):
        Inception.load(tmp_path / "trap.pth")
    assert not sprung.exists()
    torch.load(tmp_path / "trap.pth", weights_only=False)
    assert sprung.exists(), "it is a trap for those who unpickle"


def test_a_file_of_something_else_is_refused_by_name(tmp_path: Path) -> None:
    torch.save({"fc.weight": torch.zeros(1)}, tmp_path / "other.pth")
    with pytest.raises(BadInceptionFile, match=r"other\.pth does not hold the weights of torch-fidelity's"):
        Inception.load(tmp_path / "other.pth")
    torch.save([1, 2], tmp_path / "list.pth")
    with pytest.raises(BadInceptionFile, match="something else than tensors by name"):
        Inception.load(tmp_path / "list.pth")
    (tmp_path / "text.pth").write_text("no weights")
    with pytest.raises(BadInceptionFile, match=r"text\.pth is no file of tensors alone"):
        Inception.load(tmp_path / "text.pth")
    with pytest.raises(BadInceptionFile, match=r"none\.pth can't be read: No such file"):
        Inception.load(tmp_path / "none.pth")


def test_without_torch_fidelity_the_extra_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _name: None)
    with pytest.raises(MissingPackage, match=r"pip install 'darkroom\[fid\]'"):
        Inception.load(tmp_path / "weights.pth")


def test_too_few_pictures_for_ten_parts_have_no_score() -> None:
    assert math.isnan(inception_score(torch.zeros(5, 1008)))
