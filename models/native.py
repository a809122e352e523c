"""A native export that somebody brings: believed in nothing until it has developed a picture here.

The zip is read in memory under limits, its card and weights are checked as any checkpoint's are, and what other programs save
their models as is refused by its content: a pickle can run code when it is read, so none is.
"""

from __future__ import annotations

import zipfile
from pathlib import Path

import torch

from models.archive import Archive
from models.entries import MIB, Limits
from models.errors import BadCheckpoint, ForeignWeights, PrepareError, SamplingError, TargetExists
from models.generator import CARD, WEIGHTS, Generator, GeneratorCard
from models.sampling import latents
from models.sealed import whole_directory, write

LIMITS = Limits(max_file_bytes=4096 * MIB, max_total_bytes=4200 * MIB, max_entries=64)
LONGEST_CLASS = 255  # characters of a class's name
REMEDY = (
    "bring the zip that `darkroom export --format native` writes; weights of the PyTorch DCGAN example become a model "
    "offline by `python -m models import-dcgan netG.pth DIR`"
)


def import_native(path: Path, target: Path) -> GeneratorCard:
    """Make a model's directory out of the zip of a native export.

    Args:
        path: the zip.
        target: the directory to make; must not exist.

    Returns:
        the card of the generator.

    Raises:
        TargetExists: something is there already.
        ForeignWeights: the file is no native export.
        BadCheckpoint: it is one, but damaged, or its generator develops no pictures.
        CheckpointError: the target cannot be written.
    """
    if target.exists():
        raise TargetExists(f"{target} is there already; name a directory that is not, nothing is overwritten")
    contents = _contents(path)
    with whole_directory(target) as directory:
        for name, content in contents.items():
            write(directory / name, content)
        generator = Generator.load(directory)
        _try_out(generator, path)
    return generator.card


def _contents(path: Path) -> dict[str, bytes]:
    """The two files of the export."""
    try:
        with Archive(path, LIMITS) as archive:
            found = {entry.path: entry for entry in archive.entries}
            pickles = [name for name in found if name.endswith((".pkl", ".pt", ".pth", ".ckpt"))]
            if pickles:
                raise ForeignWeights(
                    f"{path.name} holds {pickles[0]!r}, a pickle, and none is ever read here; {REMEDY}"
                )
            missing = [name for name in (CARD, WEIGHTS) if name not in found]
            if missing:
                raise ForeignWeights(f"{path.name} holds no {missing[0]}, so it is no native export; {REMEDY}")
            refused = next((found[name].refusal for name in (CARD, WEIGHTS) if found[name].refusal), None)
            if refused is not None:
                raise ForeignWeights(f"{path.name}: {refused}; {REMEDY}")
            meter = archive.meter()
            return {name: archive.read(found[name], meter) for name in (CARD, WEIGHTS)}
    except PrepareError as error:
        raise ForeignWeights(f"{path.name} is no native export: {error}; {REMEDY}") from error
    except (zipfile.BadZipFile, OSError) as error:
        raise ForeignWeights(f"{path.name} cannot be read: {error}; {REMEDY}") from error


def _try_out(generator: Generator, path: Path) -> None:
    """Develop one picture of the first and the last class."""
    names = generator.classes
    if names is not None and not all(0 < len(name) <= LONGEST_CLASS and name.isprintable() for name in names):
        raise BadCheckpoint(
            f"{path.name} has a class whose name is empty, unprintable or over {LONGEST_CLASS} characters"
        )
    labels = [None, None] if names is None else [0, len(names) - 1]
    try:
        pictures = generator.synthesize(*latents(generator, range(2), labels))
    except (RuntimeError, ValueError, IndexError, SamplingError) as error:
        raise BadCheckpoint(f"{path.name} holds a generator that develops no pictures: {error}") from error
    wanted = (2, generator.channels, generator.resolution, generator.resolution)
    if tuple(pictures.shape) != wanted or not bool(torch.isfinite(pictures).all()):
        raise BadCheckpoint(f"{path.name} holds a generator whose pictures are not finite numbers; export a better one")
