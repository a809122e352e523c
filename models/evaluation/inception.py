"""The Inception network of FID and IS, from a local file: nothing is downloaded, and nothing in the file is run.

Only with the weights that everyone else uses does a Fréchet distance deserve the name FID, and only together with the way that
pictures are enlarged for them; both are torch-fidelity's, which reproduces the original numbers.

Shapes: N images, C channels, H W pixels.
"""

from __future__ import annotations

import hashlib
import importlib.util
import io
import pickle
import zipfile
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from models.errors import BadInceptionFile, MissingPackage
from models.evaluation.progress import Progress

EXTRA = "darkroom[fid]"
FEATURES, CLASSES = 2048, 1008
WORK = 50  # pictures of other work that one picture's passage through this network costs, about
_AT_ONCE = 16


@dataclass(frozen=True)
class Seen:
    """What the network sees in a set of pictures."""

    features: Tensor  # float64 [N, 2048]
    logits: Tensor  # float32 [N, 1008]

    def part(self, start: int, size: int) -> Seen:
        """`size` pictures from `start` on."""
        return Seen(self.features[start : start + size], self.logits[start : start + size])


class Inception:
    """torch-fidelity's Inception network with the weights of a local file.

    Args:
        network: uint8 [N, 3, H, W] to features [N, 2048] and logits without bias [N, 1008].
        sha256: of the file.
        device: that it is on.
    """

    def __init__(self, network: nn.Module, sha256: str, device: torch.device) -> None:
        self.network, self.sha256, self.device = network, sha256, device

    @classmethod
    def load(cls, path: Path, device: str | torch.device = "cpu") -> Inception:
        """Read the weights that torch-fidelity publishes as `weights-inception-2015-12-05-6726825d.pth`.

        The file is read once and as tensors alone. torch-fidelity itself unpickles whatever it is given, so it is given
        what we write anew of those tensors, and never the file.

        Args:
            path: of the file.
            device: to compute on.

        Raises:
            MissingPackage: the extra `fid` is not installed.
            BadInceptionFile: there is no such file, or it holds something else than this network's weights.
        """
        if importlib.util.find_spec("torch_fidelity") is None:
            raise MissingPackage(
                f"FID and IS need torch-fidelity, not installed here; install the extra: pip install '{EXTRA}'"
            )
        from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

        try:
            content = path.read_bytes()
        except OSError as error:
            raise BadInceptionFile(f"{path} can't be read: {error.strerror}; name a local Inception file") from error
        anew = io.BytesIO()
        torch.save(_tensors(content, path), anew)
        anew.seek(0)
        try:
            network = FeatureExtractorInceptionV3(
                "inception-v3-compat", ["2048", "logits_unbiased"], feature_extractor_weights_path=anew
            )
        except RuntimeError as error:
            raise BadInceptionFile(
                f"{path} does not hold the weights of torch-fidelity's Inception network: {str(error)[:200]}"
            ) from error
        place = torch.device(device)
        return cls(network.to(place), hashlib.sha256(content).hexdigest(), place)

    @torch.no_grad()
    def read(self, images: Tensor, progress: Progress | None = None) -> Seen:
        """What the network sees; grey pictures as colour ones whose three channels are equal.

        Args:
            images: uint8 [N, C, H, W], C 1 or 3.
            progress: told of each batch, as WORK times its pictures.

        Raises:
            Stopped: progress says so.
        """
        features, logits = [torch.empty(0, FEATURES)], [torch.empty(0, CLASSES)]
        for batch in torch.split(images, _AT_ONCE):
            seen, read = self.network(batch.expand(-1, 3, -1, -1).to(self.device))
            features.append(seen.cpu())
            logits.append(read.cpu())
            if progress is not None:
                progress.advance(WORK * len(batch))
        return Seen(torch.cat(features).double(), torch.cat(logits))


def inception_score(logits: Tensor) -> float:
    """IS as papers report it: the mean over ten parts of exp E_x KL(p(y|x) || p(y)), by torch-fidelity.

    Args:
        logits: [N, 1008] without bias; NaN below ten.

    Source: Salimans et al. 2016, arXiv:1606.03498, section 4.
    """
    from torch_fidelity.metric_isc import KEY_METRIC_ISC_MEAN, isc_features_to_metric

    return float(isc_features_to_metric(logits)[KEY_METRIC_ISC_MEAN])


def _tensors(content: bytes, path: Path) -> dict[str, Tensor]:
    try:
        state = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, zipfile.BadZipFile, RuntimeError, EOFError, ValueError, KeyError) as error:
        raise BadInceptionFile(f"{path} is no file of tensors alone, and nothing else is read: {error}") from error
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise BadInceptionFile(f"{path} holds something else than tensors by name; name a local Inception file")
    return state
