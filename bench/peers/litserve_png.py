"""The peer: LitServe over the plain generator, as its user would write it. `python -m bench.peers.litserve_png --help`."""

from __future__ import annotations

import argparse
import io
from pathlib import Path
from typing import Any

import litserve
import torch
from PIL import Image
from starlette.responses import Response
from torch import Tensor

from models.generator import Generator, to_pixels


class PictureApi(litserve.LitAPI):  # type: ignore[misc]  # it is not typed
    """A seed in, a PNG out, in batches that LitServe forms."""

    def __init__(self, directory: Path, threads: int, **options: Any) -> None:
        super().__init__(**options)
        self.directory, self.threads = directory, threads

    def setup(self, device: str) -> None:
        torch.set_num_threads(self.threads)
        self.generator = Generator.load(self.directory, device)
        self.network = self.generator.network

    def decode_request(self, request: dict[str, int]) -> Tensor:
        source = torch.Generator().manual_seed(request["seed"])
        return torch.randn(self.generator.latent_dim, generator=source)

    def batch(self, inputs: list[Tensor]) -> Tensor:
        return torch.stack(inputs)

    def predict(self, latents: Tensor) -> Tensor:
        with torch.inference_mode():
            single = latents.ndim == 1  # LitServe stacks nothing when batches are of one
            pixels = to_pixels(self.network(latents[None] if single else latents, None)).cpu()
            return pixels[0] if single else pixels

    def unbatch(self, output: Tensor) -> list[Tensor]:
        return list(output)

    def encode_response(self, output: Tensor) -> Response:
        file = io.BytesIO()
        Image.fromarray(output.permute(1, 2, 0).contiguous().numpy()).save(file, "PNG")
        return Response(file.getvalue(), media_type="image/png")


def main() -> None:
    """Serves until it is killed."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--directory", type=Path, required=True)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--max-batch", type=int, default=32)
    parser.add_argument("--timeout", type=float, default=0.0, help="seconds that a batch waits to fill")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--threads", type=int, default=2)
    said = parser.parse_args()
    api = PictureApi(said.directory, said.threads, max_batch_size=said.max_batch, batch_timeout=said.timeout)
    server = litserve.LitServer(api, accelerator="cpu", workers_per_device=said.workers, timeout=60)
    server.run(host="127.0.0.1", port=said.port, generate_client_file=False, log_level="warning")


if __name__ == "__main__":
    main()
