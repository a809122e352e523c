"""The demo's pictures."""

from __future__ import annotations

import io
import zipfile
from collections import Counter
from pathlib import Path

import pytest
from PIL import Image

from app.cli.digits import COUNT, write_digits

pytest.importorskip("sklearn", reason="scikit-learn brings the digits")


def test_the_digits_are_real_pictures_in_ten_folders_written_once(tmp_path: Path) -> None:
    path = write_digits(tmp_path / "demo" / "digits.zip")

    with zipfile.ZipFile(path) as archive:
        names = archive.namelist()
        classes = Counter(name.partition("/")[0] for name in names)
        first = Image.open(io.BytesIO(archive.read(names[0])))
    assert len(names) == COUNT
    assert sorted(classes) == [str(digit) for digit in range(10)]
    assert min(classes.values()) > 170
    assert (first.mode, first.size, first.getextrema()) == ("L", (8, 8), (0, 239))

    written_at = path.stat().st_mtime_ns
    assert write_digits(path).stat().st_mtime_ns == written_at
