"""A native export is taken after it has developed a picture; pickles, lies and what is no generator are refused."""

from __future__ import annotations

import json
import pickle
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from models.errors import BadCheckpoint, CheckpointError, ForeignWeights, TargetExists
from models.generator import CARD, WEIGHTS, Generator
from models.native import import_native
from models.sealed import write_tensors
from tests.models.test_export import saved


def packed(path: Path, contents: Mapping[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in contents.items():
            archive.writestr(name, data)
    return path


def files_of(model: Path) -> dict[str, bytes]:
    return {name: (model / name).read_bytes() for name in (CARD, WEIGHTS)}


def changed(model: Path, tensors: Mapping[str, torch.Tensor] | None = None, **card: Any) -> dict[str, bytes]:
    """The files of a model with another card or other weights, whose seal fits."""
    if tensors is not None:
        card["weights"] = write_tensors(model / WEIGHTS, tensors).model_dump()
    (model / CARD).write_text(json.dumps(json.loads((model / CARD).read_text()) | card))
    return files_of(model)


@pytest.mark.parametrize("kind", ["gan-dcgan", "vae-sigma"])
def test_an_export_comes_back_as_the_same_generator(kind: str, tmp_path: Path) -> None:
    model = saved(tmp_path, kind)
    card = import_native(packed(tmp_path / "a.zip", files_of(model)), tmp_path / "back")
    assert card == Generator.load(model).card
    assert files_of(tmp_path / "back") == files_of(model)


class Harm:
    """What a hostile pickle does."""

    def __reduce__(self) -> tuple[Any, ...]:
        return open, ("harm-was-done", "w")


def test_pickles_are_refused_whatever_they_are_called_and_never_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"a": torch.zeros(1)}, tmp_path / "new.zip")
    torch.save({"a": torch.zeros(1)}, tmp_path / "old.zip", _use_new_zipfile_serialization=False)
    (tmp_path / "plain.zip").write_bytes(pickle.dumps(Harm()))
    packed(tmp_path / "within.zip", {**files_of(saved(tmp_path)), "netG/data.pkl": pickle.dumps(Harm())})
    for name in ("new", "old", "plain", "within"):
        with pytest.raises(ForeignWeights, match="python -m models import-dcgan"):
            import_native(tmp_path / f"{name}.zip", tmp_path / "out")
    assert not (tmp_path / "harm-was-done").exists()
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("left", [(), (CARD,), (WEIGHTS,)])
def test_a_zip_without_both_files_is_no_export(left: tuple[str, ...], tmp_path: Path) -> None:
    files = files_of(saved(tmp_path))
    with pytest.raises(ForeignWeights, match="is no native export"):
        import_native(packed(tmp_path / "a.zip", {name: files[name] for name in left}), tmp_path / "out")


@pytest.mark.parametrize(
    "card",
    [
        {"kind": "os.system"},
        {"resolution": 4096},
        {"options": {"latent_dim": 10**9}},
        {"options": {"base_channels": -1}},
        {"classes": ["a"] * 100_000},
        {"classes": ["", "b", "c"]},
        {"classes": ["a" * 256, "b", "c"]},
        {"classes": ["a\0", "b", "c"]},
        {"weights": {"bytes": 10**12, "sha256": "0" * 64}},
    ],
)
def test_a_card_that_makes_no_sense_is_refused_and_leaves_nothing(card: dict[str, Any], tmp_path: Path) -> None:
    archive = packed(tmp_path / "a.zip", changed(saved(tmp_path), **card))
    with pytest.raises(BadCheckpoint):
        import_native(archive, tmp_path / "out")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.zip", "model"]


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_refused(value: float, tmp_path: Path) -> None:
    model = saved(tmp_path)
    tensors = {
        name: torch.full_like(tensor, value) if tensor.is_floating_point() else tensor
        for name, tensor in Generator.load(model).network.state_dict().items()
    }
    with pytest.raises(CheckpointError, match="not finite"):
        import_native(packed(tmp_path / "a.zip", changed(model, tensors)), tmp_path / "out")


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    with pytest.raises(TargetExists):
        import_native(packed(tmp_path / "a.zip", files_of(saved(tmp_path))), tmp_path / "model")
