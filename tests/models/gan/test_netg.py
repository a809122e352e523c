"""A generator that the classic PyTorch DCGAN example saved becomes one of ours."""

from __future__ import annotations

import json
from collections import OrderedDict
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from models.errors import ForeignWeights, TargetExists
from models.gan.netg import import_netg
from models.generator import CARD, Generator


class Example(nn.Module):
    """A network shaped as the example's, whose state dict has the example's names."""

    def __init__(self, widths: tuple[int, ...], nz: int, nc: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for position, (wide, narrow) in enumerate(zip((nz, *widths), (*widths, nc), strict=True)):
            stride, padding = (2, 1) if position else (1, 0)
            layers.append(nn.ConvTranspose2d(wide, narrow, 4, stride, padding, bias=False))
            layers += [nn.BatchNorm2d(narrow), nn.ReLU(True)] if position < len(widths) else [nn.Tanh()]
        self.main = nn.Sequential(*layers)

    def forward(self, latents: Tensor) -> Tensor:
        pictures: Tensor = self.main(latents[:, :, None, None])
        return pictures


def example(px: int = 64, *, nz: int = 10, ngf: int = 4, nc: int = 3) -> Example:
    """The example's network after a step of life: its normalisations have statistics of their own."""
    multiples = {32: (4, 2, 1), 64: (8, 4, 2, 1), 128: (8, 8, 4, 2, 1)}[px]
    torch.manual_seed(px)
    network = Example(tuple(ngf * multiple for multiple in multiples), nz, nc)
    with torch.no_grad():
        network(torch.randn(16, nz))
    return network.eval()


def saved(content: object, directory: Path) -> Path:
    torch.save(content, directory / "netG.pth")
    return directory / "netG.pth"


@pytest.mark.parametrize(("px", "nz", "ngf", "nc"), [(64, 10, 4, 3), (32, 12, 5, 1), (128, 7, 4, 3)])
def test_its_pictures_are_those_of_the_original(px: int, nz: int, ngf: int, nc: int, tmp_path: Path) -> None:
    original = example(px, nz=nz, ngf=ngf, nc=nc)
    card = import_netg(saved(original.state_dict(), tmp_path), tmp_path / "model")
    generator = Generator.load(tmp_path / "model")

    assert (card.kind, card.resolution, card.channels, card.classes) == ("gan-dcgan", px, nc, None)
    assert (card.options["latent_dim"], card.options["base_channels"]) == (nz, ngf)
    assert "netG.pth" in json.loads((tmp_path / "model" / CARD).read_text())["notes"][0]
    drawn = torch.randn(5, nz)
    with torch.no_grad():
        wanted = original(drawn)
    assert wanted.std() > 0
    torch.testing.assert_close(generator.synthesize(drawn), wanted, atol=1e-6, rtol=0)


def test_files_of_several_gpus_of_half_precision_and_of_old_versions_are_read(tmp_path: Path) -> None:
    original = example()
    content = OrderedDict(
        (f"module.{name}", tensor.half() if tensor.is_floating_point() else tensor)
        for name, tensor in original.state_dict().items()
        if not name.endswith("num_batches_tracked")
    )
    import_netg(saved(content, tmp_path), tmp_path / "model")
    network = Generator.load(tmp_path / "model").network
    assert {tensor.dtype for tensor in network.parameters()} == {torch.float32}


class Trap:
    """Unpickled, it would leave a file behind."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return Path.touch, (self._path,)


def test_code_in_the_file_is_never_run(tmp_path: Path) -> None:
    trace = tmp_path / "trace"
    for content in (Trap(trace), {**example().state_dict(), "main.99": Trap(trace)}):
        with pytest.raises(ForeignWeights, match="nothing else is loaded"):
            import_netg(saved(content, tmp_path), tmp_path / "model")
    with pytest.raises(ForeignWeights, match="nothing else is loaded"):
        import_netg(saved(example(), tmp_path), tmp_path / "model")
    assert not trace.exists()
    assert not (tmp_path / "model").exists()


def _with(**changes: object) -> dict[str, object]:
    return {**example().state_dict(), **{name.replace("_", "."): value for name, value in changes.items()}}


@pytest.mark.filterwarnings("ignore:Validating sparse tensor invariants")
@pytest.mark.parametrize(
    ("content", "said"),
    [
        ([torch.zeros(1)], "holds no state dict but list"),
        ({}, "holds no state dict"),
        ({"netG": example().state_dict(), "epoch": 3}, "holds OrderedDict under 'netG'"),
        (_with(main_lr=0.1), "holds float under 'main.lr'"),
        ({"layer.weight": torch.zeros(1)}, "begin with main"),
        (_with(main_0_weight=torch.zeros(10, 32, 4, 4, dtype=torch.int64)), "weights are dense floats"),
        (_with(main_0_weight=torch.zeros(10, 32, 4, 4).to_sparse()), "weights are dense floats"),
        (_with(main_0_bias=torch.zeros(32)), "main.0.bias is (32,), should be absent"),
        (_with(main_3_weight=torch.zeros(32, 16, 5, 5)), "main.3.weight is (32, 16, 5, 5), should be (32, 16, 4, 4)"),
        (_with(main_12_weight=torch.zeros(4, 2, 4, 4)), "cannot make pictures of 2"),
        (example(64, ngf=2).state_dict(), "base_channels"),
        ({"main.0.weight": torch.zeros(10, 3, 4, 4)}, "1 transposed convolutions"),
        (_with(main_0_weight=torch.full((10, 32, 4, 4), torch.nan)), "not finite"),
        (_with(main_0_weight=torch.zeros(1).expand(10**6, 10**6, 4, 4)), "latent_dim"),
    ],
)
def test_what_is_no_such_generator_is_refused_in_a_sentence(content: object, said: str, tmp_path: Path) -> None:
    with pytest.raises(ForeignWeights) as refused:
        import_netg(saved(content, tmp_path), tmp_path / "model")
    assert said in str(refused.value)
    assert not (tmp_path / "model").exists()


def test_a_file_that_is_absent_or_torn_is_named(tmp_path: Path) -> None:
    with pytest.raises(ForeignWeights, match=r"nowhere\.pth cannot be read"):
        import_netg(tmp_path / "nowhere.pth", tmp_path / "model")
    path = saved(example().state_dict(), tmp_path)
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(ForeignWeights, match="no file of tensors"):
        import_netg(path, tmp_path / "model")


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    path = saved(example().state_dict(), tmp_path)
    with pytest.raises(TargetExists):
        import_netg(path, tmp_path)
