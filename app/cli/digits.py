"""Real pictures for the demo: scikit-learn's 1,797 handwritten digits, as a zip of labelled PNG files."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

from PIL import Image

from app.client import ClientError

NAME = "digits"
COUNT = 1797
GREATEST = 16  # the pictures are 8x8 px with values from 0 to 16


def write_digits(path: Path) -> Path:
    """Write `0/0000.png` … into a zip, unless it is there already, and return its path.

    Source: E. Alpaydin and C. Kaynak, Optical Recognition of Handwritten Digits, UCI 1998 (CC BY 4.0), test part, as
    scikit-learn carries it.

    Raises:
        ClientError: scikit-learn is not installed.
    """
    if path.exists():
        return path
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise ClientError(
            "no_digits",
            "the demo's digits come with scikit-learn, which is not installed",
            remedy="install it with `pip install 'darkroom[worker]'`, or give pictures of your own with --data",
        ) from error
    digits = load_digits()
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_suffix(".part")
    with zipfile.ZipFile(unfinished, "w", zipfile.ZIP_STORED) as archive:
        for number, (values, label) in enumerate(zip(digits.images, digits.target, strict=True)):
            pixels = (values * (255 / GREATEST)).round().astype("uint8")
            file = io.BytesIO()
            Image.fromarray(pixels).save(file, "PNG")
            archive.writestr(zipfile.ZipInfo(f"{label}/{number:04d}.png"), file.getvalue())
    unfinished.replace(path)
    return path
