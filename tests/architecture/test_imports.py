"""What the HTTP face must not bring along."""

from __future__ import annotations

import subprocess
import sys

import pytest


@pytest.mark.parametrize("module", ["app.main", "app.serve", "app.cli"])
def test_the_face_leaves_torch_alone(module: str) -> None:
    code = f"import sys, {module}; print(*sorted({{name.partition('.')[0] for name in sys.modules}}))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    loaded = set(done.stdout.split())
    assert "app" in loaded
    assert not loaded & {"torch", "torchvision", "safetensors", "worker"}
