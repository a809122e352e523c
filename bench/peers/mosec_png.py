"""The peer: mosec over the plain generator, as its user would write it; its settings are mosec's own command line.

`PICTURE_DIRECTORY=… PICTURE_BATCH=32 python -m bench.peers.mosec_png --port 8000`
"""

from __future__ import annotations

import io
import os
from pathlib import Path

import torch
from mosec import Server, Worker
from PIL import Image
from torch import Tensor

from models.generator import Generator, to_pixels


class Pictures(Worker):  # type: ignore[misc]  # it is typed by halves
    """A seed in, a PNG out, in batches that mosec forms."""

    resp_mime_type = "image/png"

    def __init__(self) -> None:
        super().__init__()
        torch.set_num_threads(int(os.environ.get("PICTURE_THREADS", "2")))
        self.generator = Generator.load(Path(os.environ["PICTURE_DIRECTORY"]))

    def forward(self, data: list[dict[str, int]]) -> list[Tensor]:
        """PNG files of seeds."""
        sources = [torch.Generator().manual_seed(request["seed"]) for request in data]
        latents = torch.stack([torch.randn(self.generator.latent_dim, generator=source) for source in sources])
        with torch.inference_mode():
            return list(to_pixels(self.generator.network(latents, None)).cpu())

    def serialize(self, data: Tensor) -> bytes:
        """A PNG file."""
        file = io.BytesIO()
        Image.fromarray(data.permute(1, 2, 0).contiguous().numpy()).save(file, "PNG")
        return file.getvalue()


def main() -> None:
    """Serves until it is killed."""
    batch, wait_ms = int(os.environ.get("PICTURE_BATCH", "32")), int(os.environ.get("PICTURE_WAIT_MS", "1"))
    server = Server()
    server.append_worker(
        Pictures, num=int(os.environ.get("PICTURE_WORKERS", "1")), max_batch_size=batch, max_wait_time=wait_ms
    )
    server.run()


if __name__ == "__main__":
    main()
