"""What is handed on develops the same pictures, also where Darkroom and PyTorch are not installed."""

from __future__ import annotations

import importlib.util
import re
import sys
import warnings
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from torch import Tensor, nn

from models.catalog import KINDS, ExportFormat, parse_options
from models.errors import ExportDiffers, MissingPackage, NoCheckpoint, TargetExists
from models.export import EXPORT_CARD, PRIOR, TOLERANCES, Developing, ExportCard, export
from models.generator import CARD, WEIGHTS, Generator, GeneratorCard, save_generator
from models.objective import Shape
from models.prior import MixturePrior
from models.registry import build_generator
from models.sampling import latents
from models.sealed import Seal, read, read_json
from tests.models.conftest import SMALL

DOCS = Path(__file__).parents[2] / "docs" / "exports.md"

# The first of them every day, the others where there is time.
ONE_AND_OTHERS = [pytest.param(kind, marks=[pytest.mark.slow] if number else []) for number, kind in enumerate(KINDS)]


def saved(directory: Path, kind: str = "gan-dcgan", *, classes: int = 3, prior: MixturePrior | None = None) -> Path:
    """A generator of fresh weights at 32 px, in the directory `model`."""
    options = parse_options(kind, {**SMALL[kind], "conditional": bool(classes)})
    torch.manual_seed(1)
    network = build_generator(kind, options, Shape(32, 1, classes))
    card = GeneratorCard(
        kind=kind,
        options=options.model_dump(mode="json"),
        resolution=32,
        channels=1,
        classes=[f"class {index}" for index in range(classes)] or None,
        images_seen=64,
    )
    (directory / "model").mkdir()
    save_generator(directory / "model", network, card, prior)
    return directory / "model"


def prior_of(classes: int) -> MixturePrior:
    """Two components a class, no two alike."""
    count = 2 * max(1, classes)
    source = torch.Generator().manual_seed(5)
    return MixturePrior(
        weights=torch.tensor([0.3, 0.7]).repeat(count // 2),
        owners=torch.arange(count) // 2,
        means=torch.randn(count, 8, generator=source),
        scales=torch.eye(8).repeat(count, 1, 1) * torch.linspace(0.5, 1, count)[:, None, None],
    )


def developed(model: Path, count: int) -> tuple[Tensor, Tensor | None, Tensor, Tensor]:
    """Latents, labels, and the pictures and pixels that Darkroom makes of them."""
    generator = Generator.load(model)
    drawn, labels = latents(generator, range(100, 100 + count), [None] * count)
    return drawn, labels, generator.synthesize(drawn, labels), generator.render(drawn, labels)


@pytest.mark.parametrize("kind", ONE_AND_OTHERS)
def test_every_kind_runs_in_onnxruntime(kind: str, tmp_path: Path) -> None:
    model = saved(tmp_path, kind)
    card, difference = export(model, tmp_path / "out", ExportFormat.ONNX)

    session = onnxruntime.InferenceSession(tmp_path / "out" / "generator.onnx", providers=["CPUExecutionProvider"])
    drawn, labels, wanted, pixels = developed(model, 7)
    assert labels is not None
    feed = {"latents": drawn.numpy(), "labels": labels.numpy()}
    assert {node.name: node.shape for node in session.get_inputs()} == {
        name: ["N", *array.shape[1:]] for name, array in feed.items()
    }
    got = dict(zip(("pictures", "pixels"), session.run(["pictures", "pixels"], feed), strict=True))
    assert difference <= TOLERANCES[ExportFormat.ONNX]
    np.testing.assert_allclose(got["pictures"], wanted.numpy(), atol=TOLERANCES[ExportFormat.ONNX], rtol=0)
    assert np.abs(got["pixels"].astype(int) - pixels.numpy()).max() <= 1
    assert got["pixels"].std() > 0
    kept = session.get_modelmeta().custom_metadata_map["darkroom.generator"]
    assert GeneratorCard.model_validate_json(kept) == card


@pytest.mark.parametrize("kind", ONE_AND_OTHERS)
def test_every_kind_runs_as_a_program_of_pytorch(kind: str, tmp_path: Path) -> None:
    model = saved(tmp_path, kind)
    _, difference = export(model, tmp_path / "out", ExportFormat.TORCH_EXPORT)

    program = torch.export.load(tmp_path / "out" / "generator.pt2").module()
    drawn, labels, wanted, pixels = developed(model, 7)
    got_pictures, got_pixels = program(drawn, labels)
    assert difference <= TOLERANCES[ExportFormat.TORCH_EXPORT]
    torch.testing.assert_close(got_pictures, wanted, atol=TOLERANCES[ExportFormat.TORCH_EXPORT], rtol=0)
    assert (got_pixels.int() - pixels.int()).abs().max() <= 1


def test_the_native_form_is_the_model_s_own_files(tmp_path: Path) -> None:
    model = saved(tmp_path, prior=prior_of(3))
    (model / "training.safetensors").write_bytes(b"what only a training needs")
    card, difference = export(model, tmp_path / "out", ExportFormat.NATIVE)
    assert difference == 0
    assert {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()} == {
        name: (model / name).read_bytes() for name in (WEIGHTS, CARD)
    }
    assert Generator.load(tmp_path / "out").card == card


def test_what_lies_beside_the_network_says_what_it_is(tmp_path: Path) -> None:
    model = saved(tmp_path, classes=0)
    card, difference = export(model, tmp_path / "out", ExportFormat.TORCH_EXPORT)
    described = read_json(tmp_path / "out" / EXPORT_CARD, ExportCard)
    assert (described.generator, described.largest_difference) == (card, difference)
    assert (described.inputs, described.outputs, described.prior) == (("latents",), ("pictures", "pixels"), None)
    assert read(tmp_path / "out" / described.file, described.seal)
    assert isinstance(described.seal, Seal)
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [EXPORT_CARD, "generator.pt2"]


@pytest.mark.parametrize("classes", [0, 3])
def test_the_documented_way_draws_latents_of_the_prior_without_pytorch(
    classes: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Given an ONNX export with a prior, when docs/exports.md is run as it stands, I expect latents spread as the prior's."""
    prior = prior_of(classes)
    export(saved(tmp_path, classes=classes, prior=prior), tmp_path / "out", ExportFormat.ONNX)
    assert (tmp_path / "out" / PRIOR).exists()
    (code,) = re.findall(r"```python\n(.*?)```", DOCS.read_text(), re.DOTALL)
    assert "torch" not in code
    monkeypatch.chdir(tmp_path / "out")
    names: dict[str, object] = {}
    exec(code, names)  # noqa: S102  # our own docs

    pixels, draw = names["pixels"], names["draw"]
    assert isinstance(pixels, np.ndarray)
    assert (pixels.shape, pixels.dtype) == ((16, 1, 32, 32), np.uint8)
    label = 1 if classes else 0
    drawn = draw(np.random.default_rng(0), np.full(4000, label))  # type: ignore[operator] # of the docs
    mean = 0.3 * prior.means[2 * label] + 0.7 * prior.means[2 * label + 1]
    np.testing.assert_allclose(drawn.mean(axis=0), mean.numpy(), atol=0.1)


class Other(nn.Module):
    """As the real thing, but a little brighter."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.real = Developing(network)

    def forward(self, latents: Tensor, labels: Tensor | None = None) -> tuple[Tensor, Tensor]:
        pictures, pixels = self.real(latents, labels)
        return pictures + 1e-3, pixels


def test_an_export_with_other_pictures_is_thrown_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("models.export.Developing", Other)
    with pytest.raises(ExportDiffers, match=r"differ from the model's by 0\.001"):
        export(saved(tmp_path), tmp_path / "out", ExportFormat.TORCH_EXPORT)
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_pictures_that_are_no_numbers_are_not_exported(tmp_path: Path) -> None:
    model = saved(tmp_path)
    generator = Generator.load(model)
    with torch.no_grad():
        next(generator.network.parameters()).fill_(torch.nan)
    save_generator(model, generator.network, generator.card)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "invalid value encountered in cast", RuntimeWarning)
        with pytest.raises(ExportDiffers, match="nan"):
            export(model, tmp_path / "out", ExportFormat.TORCH_EXPORT)


def test_without_the_extra_onnx_is_refused_with_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    assert importlib.util.find_spec("onnxruntime") is None
    with pytest.raises(MissingPackage, match=r"needs onnxruntime, .*darkroom\[export\]"):
        export(saved(tmp_path), tmp_path / "out", ExportFormat.ONNX)
    assert not (tmp_path / "out").exists()


def test_nothing_is_overwritten_and_nothing_is_made_of_nothing(tmp_path: Path) -> None:
    with pytest.raises(TargetExists):
        export(saved(tmp_path), tmp_path, ExportFormat.NATIVE)
    with pytest.raises(NoCheckpoint):
        export(tmp_path, tmp_path / "out", ExportFormat.NATIVE)
