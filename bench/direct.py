"""`python -m bench.direct DIRECTORY`: what the generator costs without any service, in a process of its own; JSON on stdout.

The same calls as the sampler's, one after the other on one thread of Python: prepared and plain, with and without PNGs.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch

from models.generator import Generator
from models.lanes import Lanes
from models.png import encode
from models.prepared import prepared
from models.sampling import SampleItem, Sampler
from worker.provenance import text_chunks, xmp_packet

BUCKETS, BULK = (1, 8, 32), 256


def main() -> None:
    """Measures, and prints one JSON object."""
    parser = argparse.ArgumentParser()
    parser.add_argument("directory", type=Path)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--turns", type=int, default=9)
    said = parser.parse_args()
    plain = Generator.load(said.directory)
    samplers = {
        "prepared": Sampler(prepared(plain), BUCKETS, Lanes(said.threads)),
        "plain": Sampler(plain, BUCKETS),
    }
    xmp = xmp_packet()

    def files(sampler: Sampler, count: int) -> None:
        for picture in sampler.sample([SampleItem(seed) for seed in range(count)]):
            text = text_chunks(model_id="mdl_bench", images_seen=0, seed=picture.seed, label=None)
            encode(picture.pixels, text=text, xmp=xmp)

    def bulk(sampler: Sampler) -> None:
        for _ in range(BULK // BUCKETS[-1]):
            files(sampler, BUCKETS[-1])

    items = [SampleItem(seed) for seed in range(BUCKETS[-1])]
    calls: dict[str, Callable[[], object]] = {}
    for name, sampler in samplers.items():
        calls[f"{name}_batch_s"] = partial(sampler.sample, items)
        calls[f"{name}_one_png_s"] = partial(files, sampler, 1)
        calls[f"{name}_bulk_s"] = partial(bulk, sampler)
    spent: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(said.turns):
        for name, call in calls.items():  # in turn, so that a slow minute is everybody's
            # The prepared one has its own threads, each of which computes alone, as in a sampler.
            torch.set_num_threads(1 if name.startswith("prepared") else said.threads)
            call()  # whoever came before has left caches, and threads that spin for a while
            began = time.perf_counter()
            call()
            spent[name].append(time.perf_counter() - began)
    print(json.dumps({name: statistics.median(times) for name, times in spent.items()}))


if __name__ == "__main__":
    main()
