"""What DCGAN's game lets people watch; what every kind must do is in test_kinds.py."""

from __future__ import annotations

import pytest
import torch

from models.gan.dcgan import DcganObjective
from models.objective import Batch, Shape
from models.options import DcganOptions

SMALL = DcganOptions(base_channels=4, latent_dim=8, batch_size=8)


def test_gauges_are_of_the_logits_that_the_losses_are_made_from() -> None:
    torch.manual_seed(0)
    objective = DcganObjective(SMALL, Shape(32, 1, 0), torch.device("cpu"))
    batch = Batch(torch.rand(8, 1, 32, 32), None, torch.randn(8, 8), torch.Generator())
    objective.discriminator_losses(batch)
    with torch.no_grad():
        logits = objective.discriminators[0](batch.images)  # batch statistics again, so the same logits again
    assert not any(value.requires_grad for value in objective.gauges.values() if isinstance(value, torch.Tensor))
    assert float(objective.gauges["D_real_logit"]) == pytest.approx(logits.mean().item(), rel=1e-4)
    assert float(objective.gauges["R_t"]) == pytest.approx(logits.sign().mean().item())
    assert objective.gauges.keys() == {"D_real_logit", "D_fake_logit", "R_t"}
