"""A generator is loaded quickly, whatever its kind."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from models.catalog import KINDS, parse_options
from models.generator import GeneratorCard, save_generator
from models.registry import build_generator
from tests.models.conftest import SMALL


def test_loading_draws_no_weights_and_so_leaves_the_compiler_out(tmp_path: Path) -> None:
    for kind in KINDS:
        options = parse_options(kind, SMALL[kind])
        card = GeneratorCard(
            kind=kind, options=options.model_dump(), resolution=32, channels=3, classes=["a", "b"], images_seen=0
        )
        (tmp_path / kind).mkdir()
        save_generator(tmp_path / kind, build_generator(kind, options, card.shape), card)
    program = (
        "import sys; from pathlib import Path; from models.generator import Generator\n"
        f"for kind in Path({str(tmp_path)!r}).iterdir(): Generator.load(kind)\n"
        "sys.exit('torch._dynamo' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
