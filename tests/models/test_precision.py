"""What is lowered, and when it is worth it."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from models.gan.penalties import squared_slope, squared_slope_along
from models.precision import candidates, computing, fastest, is_lowered

CPU = torch.device("cpu")


def test_another_precision_has_to_be_clearly_faster() -> None:
    assert fastest({"fp32": 100.0, "bf16": 105.0}) == "fp32"
    assert fastest({"fp32": 100.0, "bf16": 130.0}) == "bf16"
    assert fastest({"fp32": 100.0}) == "fp32"


@pytest.mark.parametrize(
    ("able", "expected"), [({"avx2": True}, ("fp32",)), ({"amx_bf16": True}, ("fp32", "bf16")), ({}, ("fp32",))]
)
def test_a_cpu_is_tried_where_it_multiplies_bfloat16(
    able: dict[str, bool], expected: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: able, raising=False)
    assert candidates(CPU) == expected


def test_an_older_release_of_pytorch_does_not_say(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(torch.cpu, "get_capabilities", raising=False)
    assert candidates(CPU) == ("fp32",)


def test_what_was_cast_without_gradients_is_not_found_again_where_they_are_wanted() -> None:
    layer, images = nn.Conv2d(1, 1, 3), torch.ones(1, 1, 3, 3)
    with computing("bf16", CPU):
        assert is_lowered(CPU)
        with torch.no_grad():
            layer(images)
        layer(images).float().sum().backward()
    assert layer.weight.grad is not None
    assert not is_lowered(CPU)


def test_penalties_are_computed_with_all_digits() -> None:
    torch.manual_seed(0)
    layer, images = nn.Linear(4, 1), torch.rand(8, 1, 2, 2)

    def judge(pictures: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = layer(pictures.flatten(1))[:, 0]
        return logits

    def both() -> list[torch.Tensor]:
        random = torch.Generator().manual_seed(1)
        return [squared_slope(judge, images), squared_slope_along(judge, None, images, random)]

    precise = both()
    with computing("bf16", CPU):
        lowered = both()
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(lowered, precise, strict=True))
