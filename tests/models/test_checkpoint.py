"""A checkpoint is whole or passed over, and says what is wrong with it."""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from models import checkpoint
from models.checkpoint import RECORD, STATE, TrainingRecord, latest, load, save, sweep
from models.errors import BadCheckpoint, CheckpointError, NoCheckpoint
from models.generator import CARD, WEIGHTS, Generator, GeneratorCard
from models.objective import Shape
from models.registry import build_generator
from models.sealed import MOST_JSON_BYTES, read_tensors, write, write_tensors

FILES = (CARD, RECORD, STATE, WEIGHTS)
Damage = Callable[[Path], object]


def _card(**changes: object) -> GeneratorCard:
    options = {"base_channels": 4, "latent_dim": 8}
    fields = {"kind": "gan-dcgan", "options": options, "resolution": 32, "channels": 1, "images_seen": 0}
    return GeneratorCard.model_validate(fields | changes)


def _network(card: GeneratorCard) -> nn.Module:
    return build_generator(card.kind, card.parse_options(), Shape(32, 1, 0))


def _save(run_dir: Path, images_seen: int) -> Path:
    record = TrainingRecord(config={"kind": "gan-dcgan"}, data="d", images_seen=images_seen, elapsed_s=1.5)
    # A transposed tensor: safetensors takes only contiguous ones, so this must be taken care of.
    state = {"weights": torch.arange(6.0).reshape(2, 3).T, "random": torch.arange(4, dtype=torch.uint8)}
    return save(run_dir, record, state, _network(_card()), _card(images_seen=images_seen))


def _cut(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def _flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def test_what_is_saved_is_loaded(tmp_path: Path) -> None:
    found = load(_save(tmp_path, 128))
    assert (found.record.images_seen, found.record.elapsed_s, found.record.data) == (128, 1.5, "d")
    assert torch.equal(found.state["weights"], torch.arange(6.0).reshape(2, 3).T)
    assert found.state["random"].dtype == torch.uint8
    assert sorted(path.name for path in found.path.iterdir()) == sorted(FILES)


def test_no_file_of_a_checkpoint_is_a_pickle(tmp_path: Path) -> None:
    for path in _save(tmp_path, 128).iterdir():
        assert path.suffix in {".json", ".safetensors"}
        if path.suffix == ".json":
            json.loads(path.read_text())


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("damage", [_cut, _flip, os.unlink, lambda path: path.write_bytes(b"")])
def test_a_damaged_checkpoint_is_passed_over_for_the_one_before(
    name: str, damage: Damage, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    before, newest = _save(tmp_path, 64), _save(tmp_path, 128)
    damage(newest / name)
    found = latest(tmp_path)
    assert found is not None
    assert found.path == before
    assert str(newest / name) in caplog.text


def test_a_directory_that_was_never_finished_is_no_checkpoint(tmp_path: Path) -> None:
    whole = _save(tmp_path, 64)
    (tmp_path / ".unfinished-ckpt-000000000128").mkdir()
    found = latest(tmp_path)
    assert found is not None
    assert found.path == whole
    sweep(tmp_path, beyond=64)
    assert list(tmp_path.iterdir()) == [whole]


def test_a_write_that_fails_leaves_what_was_there_and_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = _save(tmp_path, 64)

    def full(*arguments: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoint, "write_json", full)
    with pytest.raises(CheckpointError, match="No space left on device"):
        _save(tmp_path, 128)
    assert list(tmp_path.iterdir()) == [whole]


def test_no_checkpoint_is_none_and_not_an_error(tmp_path: Path) -> None:
    assert latest(tmp_path) is None
    assert latest(tmp_path / "nowhere") is None


def test_only_the_last_two_are_kept(tmp_path: Path) -> None:
    written = [_save(tmp_path, images_seen) for images_seen in (64, 128, 192)]
    assert sorted(tmp_path.iterdir()) == written[1:]


def test_checkpoints_beyond_the_one_that_is_gone_on_from_are_swept_away(tmp_path: Path) -> None:
    """Given a newer one that is torn, I expect it not to stand among the two that are kept."""
    before, torn = _save(tmp_path, 64), _save(tmp_path, 192)
    _cut(torn / STATE)
    sweep(tmp_path, beyond=64)
    again = _save(tmp_path, 128)
    assert sorted(tmp_path.iterdir()) == [before, again]


def test_a_generator_loads_from_its_two_files_alone(tmp_path: Path) -> None:
    saved = _save(tmp_path, 64)
    for name in (RECORD, STATE):
        (saved / name).unlink()
    assert Generator.load(saved).images_seen == 64


def test_loading_a_generator_from_nowhere_says_so(tmp_path: Path) -> None:
    with pytest.raises(NoCheckpoint, match=r"generator\.json is missing"):
        Generator.load(tmp_path)


@pytest.mark.parametrize("damage", [_cut, _flip, os.unlink])
def test_a_generator_with_damaged_weights_is_refused_by_name(damage: Damage, tmp_path: Path) -> None:
    saved = _save(tmp_path, 64)
    damage(saved / WEIGHTS)
    with pytest.raises(BadCheckpoint, match=r"generator\.safetensors"):
        Generator.load(saved)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"kind": "gan-nope"}, "gan-nope"),
        ({"options": {"base_channels": 10**9}}, "base_channels"),
        ({"options": {"base_channels": 8, "latent_dim": 8}}, "does not fit"),
        ({"options": {"wings": 2}}, "wings"),
        ({"resolution": 48}, "resolution"),
        ({"resolution": "large"}, "resolution"),
        ({"channels": 2}, "channels"),
        ({"format": 0}, "format"),
        ({"surprise": 1}, "surprise"),
        ({"weights": {"bytes": 1, "sha256": "../../etc/passwd"}}, "sha256"),
    ],
)
def test_a_card_that_makes_no_sense_is_refused_by_name(change: dict[str, object], said: str, tmp_path: Path) -> None:
    path = _save(tmp_path, 64) / CARD
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(BadCheckpoint, match=said) as caught:
        Generator.load(path.parent)
    assert str(path.parent) in str(caught.value)


HOSTILE_HEADERS: dict[str, tuple[bytes | dict[str, tuple[str, list[int], list[int]]], str]] = {
    "a header of exabytes": (struct.pack("<Q", 2**63) + b"{}", "not a safetensors file"),
    "a header longer than the file": (struct.pack("<Q", 4096) + b"{}", "not a safetensors file"),
    "JSON nested without end": (struct.pack("<Q", 200_000) + b"[" * 200_000, "not a safetensors file"),
    "tensors that overlap": (
        {"a": ("F32", [2], [0, 8]), "b": ("F32", [2], [0, 8])},
        "not a safetensors file",
    ),
    "a tensor beyond the file": ({"a": ("F32", [2**40], [0, 2**42])}, "not a safetensors file"),
    "a shape whose product overflows": ({"a": ("F32", [2**32, 2**32], [0, 0])}, "not a safetensors file"),
    "an unknown type": ({"a": ("X9", [2], [0, 8])}, "not a safetensors file"),
}


@pytest.mark.parametrize("name", HOSTILE_HEADERS)
def test_tensors_of_a_hostile_file_are_refused_though_its_seal_fits(name: str, tmp_path: Path) -> None:
    made, said = HOSTILE_HEADERS[name]
    if not isinstance(made, bytes):
        header = {key: dict(zip(("dtype", "shape", "data_offsets"), entry, strict=True)) for key, entry in made.items()}
        text = json.dumps(header).encode()
        made = struct.pack("<Q", len(text)) + text + bytes(8)
    seal = write(tmp_path / "a.safetensors", made)
    with pytest.raises(BadCheckpoint, match=said):
        read_tensors(tmp_path / "a.safetensors", seal)


@pytest.mark.parametrize("dtype", [torch.int64, torch.float64, torch.bfloat16, torch.bool])
def test_weights_of_another_type_are_refused_by_name(dtype: torch.dtype, tmp_path: Path) -> None:
    """Given weights of the right names and shapes and of another type, whose seal fits, I expect them not to be loaded."""
    directory = _save(tmp_path, 64)
    tensors = {name: tensor.to(dtype) for name, tensor in _network(_card()).state_dict().items()}
    seal = write_tensors(directory / WEIGHTS, tensors)
    card = json.loads((directory / CARD).read_text())
    (directory / CARD).write_text(json.dumps(card | {"weights": seal.model_dump()}))
    with pytest.raises(BadCheckpoint, match=f"is of {dtype}, should be torch.float32"):
        Generator.load(directory)


def test_a_card_of_many_bytes_is_not_even_read(tmp_path: Path) -> None:
    directory = _save(tmp_path, 64)
    os.truncate(directory / CARD, MOST_JSON_BYTES + 1)
    with pytest.raises(BadCheckpoint, match="no record has more than"):
        Generator.load(directory)
