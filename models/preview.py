"""Preview grids: the same latents at every stage of a training, so that one sees it learn."""

from __future__ import annotations

from pathlib import Path

from models.generator import Generator
from models.png import encode, grid
from models.sampling import latents

ROWS = 6
COLUMNS = 8
KEPT = 2  # previews in a run's directory


def write_preview(generator: Generator, run_dir: Path) -> Path:
    """Write a grid of fixed seeds as `preview-{images_seen}.png`, one class a column where there are classes.

    Args:
        generator: the model as it is now.
        run_dir: the run's directory; made when absent.

    Returns:
        the PNG's path; the previews before the last two are removed.
    """
    classes = len(generator.classes or ())
    columns = classes if COLUMNS // 2 <= classes <= COLUMNS * 2 else COLUMNS
    seeds = range(ROWS * columns)
    drawn, labels = latents(generator, seeds, [seed % columns % classes if classes else None for seed in seeds])
    pixels = grid(list(generator.render(drawn, labels).numpy()), columns)
    run_dir.mkdir(parents=True, exist_ok=True)
    path = run_dir / f"preview-{generator.images_seen:012d}.png"
    unfinished = path.with_suffix(".unfinished")
    unfinished.write_bytes(encode(pixels))
    unfinished.rename(path)
    for old in sorted(run_dir.glob("preview-????????????.png"), reverse=True)[KEPT:]:
        old.unlink(missing_ok=True)
    return path
