"""Discriminators whose lowest layers stay as they are, since what they see in pictures serves other pictures too.

Source: Mo, Cho and Shin 2020, Freeze the Discriminator: a Simple Baseline for Fine-Tuning GANs, arXiv:2002.10964, §3: the
lower layers are fixed, the upper ones learn. What differs: a layer here is an entry of `layers` with a convolution in it,
together with the normalisation that follows it; maps of classes always learn, since classes may be new.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from torch import nn

from models.errors import InvalidOption


def count_layers(discriminators: Sequence[nn.Module]) -> int:
    """Layers of each discriminator that can be told apart, the last one included; 0 where there is no discriminator."""
    return min((sum(_convolves(part) for part in _parts(one)) for one in discriminators), default=0)


def layers_to_freeze(wish: int | None, discriminators: Sequence[nn.Module]) -> int:
    """How many layers to fix.

    Args:
        wish: the option; None: half of them, rounded down.
        discriminators: whose weights were taken from another model.

    Raises:
        InvalidOption: nothing would be left to learn.
    """
    count = count_layers(discriminators)
    if wish is None:
        return count // 2
    if wish >= max(1, count):
        raise InvalidOption("freeze_layers", f"{wish} of the discriminator's {count} layers", f"0 to {count - 1}")
    return wish


def freeze(discriminators: Iterable[nn.Module], count: int) -> None:
    """Fix the weights of the lowest `count` layers of each discriminator."""
    for one in discriminators:
        number = 0
        for part in _parts(one):
            number += _convolves(part)
            if number > count:
                break
            part.requires_grad_(False)


def _parts(discriminator: nn.Module) -> list[nn.Module]:
    return list(discriminator.get_submodule("layers").children())


def _convolves(part: nn.Module) -> bool:
    return any(isinstance(layer, nn.Conv2d) for layer in part.modules())
