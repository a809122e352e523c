"""A trained generator in a form that can be handed on: native, a `torch.export` program, or ONNX.

Each export is a directory. The native one holds the generator's own two files, copied. The others hold

    generator.pt2 or generator.onnx    the network, its weights and, as metadata, its card
    export.json                        the card, the file's seal, and how far its pictures are from ours (ExportCard)
    prior.safetensors                  the tensors of its prior, only where latents are not standard normal

The file reads `latents`, float [N, D], and `labels`, int64 [N], if it is conditional; N is free. It gives `pictures`, float
[-1, 1], [N, C, H, W], and `pixels`, the same as uint8. Latents are what the network itself reads: the prior stays outside, as
in `Generator.render`, so that they can be blended or searched for. docs/exports.md draws them with NumPy alone.

Nothing is left behind unless it has developed the same pictures as the model, on the spot, within TOLERANCES.

Shapes: N batch, C channels, H W pixels, D latent.
"""

from __future__ import annotations

import copy
import importlib.util
import io
import shutil
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Literal

import torch
from pydantic import BaseModel, ConfigDict
from torch import Tensor, nn

from models.catalog import ExportFormat
from models.errors import ExportDiffers, MissingPackage, TargetExists
from models.generator import CARD, WEIGHTS, Generator, GeneratorCard, to_pixels
from models.sampling import latents
from models.sealed import Seal, whole_directory, write, write_json, write_tensors

EXPORT_CARD = "export.json"
PRIOR = "prior.safetensors"
INPUTS = ("latents", "labels")
OUTPUTS = ("pictures", "pixels")

#: By how much a number of a picture in [-1, 1] may differ: other kernels add in another order. A pixel level is 8e-3.
TOLERANCES = {ExportFormat.NATIVE: 0.0, ExportFormat.TORCH_EXPORT: 1e-5, ExportFormat.ONNX: 1e-4}
BATCHES = (1, 2, 5)  # pictures that are compared: alone, as many as were traced, and more

#: What was written, as something to run: latents and labels in, pictures and pixels out.
Run = Callable[[Tensor, Tensor | None], tuple[Tensor, Tensor]]


class ExportCard(BaseModel):
    """What lies beside an exported network."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    version: Literal[1] = 1
    format: ExportFormat
    file: str  # the network's name in this directory
    seal: Seal  # of that file
    inputs: tuple[str, ...]
    outputs: tuple[str, ...] = OUTPUTS
    prior: str | None  # name of the prior's file; None: latents are standard normal
    tolerance: float  # of TOLERANCES
    largest_difference: float  # that was found, of a number in [-1, 1]
    generator: GeneratorCard


class Developing(nn.Module):
    """A generator's network as others see it: pictures out, and the same as pixels."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, latents: Tensor, labels: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Pictures, float [-1, 1], and pixels, uint8, both [N, C, H, W], from latents [N, D] and labels [N]."""
        pictures: Tensor = self.network(latents, labels)
        return pictures, to_pixels(pictures)


def export(source: Path, target: Path, form: ExportFormat) -> tuple[GeneratorCard, float]:
    """Write a generator in another form into a new directory, whole or not at all.

    It is traced and checked on the CPU; what is written runs on any device.

    Args:
        source: directory that holds the generator: a checkpoint or a native export.
        target: the directory to make; must not exist.
        form: what to write.

    Returns:
        the generator's card, and by how much a number of its pictures in [-1, 1] differed at most.

    Raises:
        TargetExists: something is there already.
        MissingPackage: this format needs the extra `export`.
        ExportDiffers: what was written does not develop the same pictures.
        CheckpointError: there is no generator, it is damaged, or the target cannot be written.
    """
    if target.exists():
        raise TargetExists(f"{target} is there already; name a directory that is not, nothing is overwritten")
    generator = Generator.load(source)
    with whole_directory(target) as directory:
        if form is ExportFormat.NATIVE:
            difference = _checked(_copy(source, directory), generator, form)
        else:
            file, write_program = _PROGRAMS[form]
            program, run = write_program(generator)
            difference = _checked(run, generator, form)
            _describe(directory, file, program, generator, form, difference)
    return generator.card, difference


def _copy(source: Path, directory: Path) -> Run:
    for name in (WEIGHTS, CARD):
        shutil.copyfile(source / name, directory / name)
    copied = Generator.load(directory)
    return lambda latents, labels: (copied.synthesize(latents, labels), copied.render(latents, labels))


def _torch_program(generator: Generator) -> tuple[bytes, Run]:
    buffer = io.BytesIO()
    torch.export.save(_traced(generator), buffer, extra_files={"generator.json": generator.card.model_dump_json()})
    program = buffer.getvalue()
    module = torch.export.load(io.BytesIO(program)).module()

    def run(latents: Tensor, labels: Tensor | None) -> tuple[Tensor, Tensor]:
        pictures, pixels = module(*_inputs(latents, labels).values())
        return pictures, pixels

    return program, run


def _onnx_program(generator: Generator) -> tuple[bytes, Run]:
    needed = ("onnx", "onnxscript", "onnxruntime")
    if missing := [name for name in needed if importlib.util.find_spec(name) is None]:
        raise MissingPackage(
            f"ONNX needs {' and '.join(missing)}, not installed here; install the extra: pip install 'darkroom[export]'"
        )
    import onnxruntime

    traced = _traced(generator)
    names = INPUTS[: 1 if generator.classes is None else 2]
    with warnings.catch_warnings():
        # Latents and labels share the axis N on purpose.
        warnings.filterwarnings("ignore", message="# The axis name: N will not be used")
        converted = torch.onnx.export(
            traced,
            dynamo=True,
            input_names=names,
            output_names=OUTPUTS,
            dynamic_shapes=tuple({0: "N"} for _ in names),
            verbose=False,
        )
    assert converted is not None
    converted.model.metadata_props["darkroom.generator"] = generator.card.model_dump_json()
    program = converted.model_proto.SerializeToString()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1  # a handful of pictures
    session = onnxruntime.InferenceSession(program, options, providers=["CPUExecutionProvider"])

    def run(latents: Tensor, labels: Tensor | None) -> tuple[Tensor, Tensor]:
        feed = {name: tensor.numpy() for name, tensor in _inputs(latents, labels).items()}
        pictures, pixels = session.run(list(OUTPUTS), feed)
        return torch.from_numpy(pictures), torch.from_numpy(pixels)

    return program, run


#: The name of the file, and what makes its bytes and reads them again.
_PROGRAMS: Mapping[ExportFormat, tuple[str, Callable[[Generator], tuple[bytes, Run]]]] = {
    ExportFormat.TORCH_EXPORT: ("generator.pt2", _torch_program),
    ExportFormat.ONNX: ("generator.onnx", _onnx_program),
}


def _traced(generator: Generator) -> torch.export.ExportedProgram:
    # A copy: whoever reads the program need not lay weights out as our convolutions like them.
    network = copy.deepcopy(generator.network).to(memory_format=torch.contiguous_format)
    example = tuple(_inputs(*latents(generator, range(2), [None, None])).values())  # 1 would be taken for a constant
    size = torch.export.Dim("N")
    return torch.export.export(Developing(network).eval(), example, dynamic_shapes=tuple({0: size} for _ in example))


def _inputs(latents: Tensor, labels: Tensor | None) -> dict[str, Tensor]:
    return {name: tensor for name, tensor in zip(INPUTS, (latents, labels), strict=True) if tensor is not None}


@torch.no_grad()
def _checked(run: Run, generator: Generator, form: ExportFormat) -> float:
    """The largest difference found between what was written and the model, which is within the tolerance."""
    tolerance, largest = TOLERANCES[form], torch.zeros(())
    for size in BATCHES:
        drawn, labels = latents(generator, range(size), [None] * size)
        pictures, pixels = run(drawn, labels)
        wanted = generator.synthesize(drawn, labels)
        if pictures.shape != wanted.shape or pixels.shape != wanted.shape or pixels.dtype != torch.uint8:
            raise ExportDiffers(
                f"{size} pictures of the {form} export are of shape {tuple(pictures.shape)}, "
                f"should be {tuple(wanted.shape)}; please report it with the kind and its options"
            )
        largest = torch.maximum(largest, (pictures - wanted).abs().max())  # which keeps a NaN
        levels = int((pixels.int() - generator.render(drawn, labels).int()).abs().max())
        if not largest <= tolerance or levels > (1 if tolerance else 0):  # a NaN is never within
            raise ExportDiffers(
                f"the {form} export's pictures differ from the model's by {largest:.2g} (at most {tolerance:g} is fine) "
                f"and {levels} pixel levels; nothing was written, please report it with the kind and its options"
            )
    return float(largest)


def _describe(
    directory: Path,
    file: str,
    program: bytes,
    generator: Generator,
    form: ExportFormat,
    difference: float,
) -> None:
    if generator.prior is not None:
        write_tensors(directory / PRIOR, generator.prior.tensors())
    described = ExportCard(
        format=form,
        file=file,
        seal=write(directory / file, program),
        inputs=INPUTS[: 1 if generator.classes is None else 2],
        prior=PRIOR if generator.prior is not None else None,
        tolerance=TOLERANCES[form],
        largest_difference=difference,
        generator=generator.card,
    )
    write_json(directory / EXPORT_CARD, described)
