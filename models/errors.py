"""Every error that models/ raises on purpose.

    ModelsError
    ├── Stopped                     should_stop() said so; whatever was whole before still is
    ├── PrepareError                an import as a whole cannot go on (a single bad file never causes one)
    │   ├── SourceMissing           nothing is at that path, or it cannot be read
    │   ├── NotAnArchive            the source is a file, but not a zip or tar that can be read
    │   ├── LimitExceeded           the source is larger than the limits allow
    │   ├── NoUsableImages          not one image was left after the refusals
    │   ├── OutOfSpace              the disk was full before the prepared data was whole
    │   └── Refused                 one file cannot be used; becomes a line of the manifest, never leaves prepare()
    ├── DataError                   prepared data cannot be used as asked
    │   ├── NotPrepared             no prepared data is here, or it is damaged
    │   └── ResolutionTooHigh       training asked for more pixels than were prepared
    ├── OptionError                 a request that no training could start from
    │   ├── UnknownKind             no kind is called that
    │   └── InvalidOption           an option is unknown, of the wrong type or out of bounds
    ├── TrainingError               training cannot start, or cannot go on
    │   ├── DoesNotFit              it would take more memory than there is
    │   ├── TrainingDiverged        a loss is no longer a finite number
    │   └── RankLost                one of the processes of a training on several devices died or failed
    ├── CheckpointError             a checkpoint or a model cannot be loaded
    │   ├── NoCheckpoint            there is none
    │   ├── NewerFormat             a later release wrote it
    │   ├── DiskFull                there is no room to write it
    │   ├── BadCheckpoint           it is torn, damaged or of another training
    │   └── ForeignWeights          a file of another program that no generator of ours can be made from
    ├── SamplingError               pictures that this generator cannot develop
    │   ├── UnknownLabel            the generator has no class of that number or name
    │   └── OutOfMemory             the device has not even room for one picture at a time
    ├── EvaluationError             a model that cannot be measured by this data
    │   ├── TooFewImages            fewer than any measure can be taken from
    │   ├── NotComparable           model and data are of different sizes or colours
    │   └── BadInceptionFile        what FID and IS should be taken with holds no such weights
    ├── MissingPackage              an extra of this package is needed and not installed
    └── ExportError                 a model that cannot be handed on
        ├── TargetExists            something is where the export should be written
        └── ExportDiffers           what was written does not develop the same pictures

Each message names the offending value and what to do about it. This module imports nothing.
"""

from __future__ import annotations

from collections.abc import Sequence


class ModelsError(Exception):
    """Base of every error raised by models/."""


class Stopped(ModelsError):
    """The caller's should_stop() returned True before the work was done."""


class PrepareError(ModelsError):
    """An import as a whole cannot go on."""


class SourceMissing(PrepareError):
    """The source is absent, or this process may not read it."""


class NotAnArchive(PrepareError):
    """The source is a file, but not a zip or tar archive that can be read."""


class LimitExceeded(PrepareError):
    """The source is larger than the limits allow.

    Args:
        limit: the field of Limits that was exceeded.
        message: what was found, what is allowed, and the remedy.
    """

    def __init__(self, limit: str, message: str) -> None:
        super().__init__(message)
        self.limit = limit


class NoUsableImages(PrepareError):
    """Not one image was left after the refusals; `refused` counts them."""

    def __init__(self, message: str, refused: int = 0) -> None:
        super().__init__(message)
        self.refused = refused


class OutOfSpace(PrepareError):
    """The disk was full before the prepared data was whole."""


class Refused(PrepareError):
    """One file cannot be used; the message is the reason, in words that its owner can act on."""


class DataError(ModelsError):
    """Prepared data cannot be used as asked."""


class NotPrepared(DataError):
    """There is no prepared data in this directory, or it is damaged."""


class ResolutionTooHigh(DataError):
    """Training asked for more pixels than were prepared.

    Args:
        wanted: pixels on a side asked for.
        prepared: pixels on a side that the prepared data has.
    """

    def __init__(self, wanted: int, prepared: int) -> None:
        super().__init__(
            f"resolution {wanted} is more than the {prepared} pixels these images were prepared at; "
            f"use {prepared} or less, or import the originals again at {wanted}"
        )
        self.wanted = wanted
        self.prepared = prepared


class OptionError(ModelsError):
    """A request that no training could start from."""


class UnknownKind(OptionError):
    """No kind is called that."""

    def __init__(self, name: str, known: Sequence[str] = ()) -> None:
        super().__init__(f"no kind is called {name!r}; " + (f"known: {', '.join(known)}" if known else "none is known"))
        self.name = name
        self.known = tuple(known)


class InvalidOption(OptionError):
    """An option is unknown, of the wrong type or out of bounds.

    Args:
        parameter: the option's name.
        message: what is wrong with the value that was given.
        bounds: what is accepted, in words ("integer from 2 to 1024"); None when there is no more to say.
    """

    def __init__(self, parameter: str, message: str, bounds: str | None = None) -> None:
        super().__init__(f"{parameter}: {message}" + (f" (accepted: {bounds})" if bounds else ""))
        self.parameter = parameter
        self.message = message
        self.bounds = bounds


class TrainingError(ModelsError):
    """Training cannot start, or cannot go on."""


class DoesNotFit(TrainingError):
    """A training would take more memory than its device has left."""


class TrainingDiverged(TrainingError):
    """A loss is no longer a finite number.

    Args:
        losses: the losses as last read, by name.
        images_seen: how far the training had come.
    """

    def __init__(self, losses: dict[str, float], images_seen: int) -> None:
        words = ", ".join(f"{name} = {value:g}" for name, value in sorted(losses.items()))
        super().__init__(
            f"the losses are no longer finite after {images_seen:,} images ({words}); "
            "train with a smaller learning_rate, the last good checkpoint is kept"
        )
        self.losses = losses
        self.images_seen = images_seen


class RankLost(TrainingError):
    """One of the processes of a training on several devices died or failed, and the others were ended.

    Args:
        rank: its number.
        device: where it computed.
        what: what became of it, in words.
    """

    def __init__(self, rank: int, device: str, what: str) -> None:
        super().__init__(
            f"process {rank} of the training, on {device}, {what}; the last checkpoint is kept, so go on by the same "
            "command, with a smaller batch_size if memory ran out, or on fewer devices"
        )
        self.rank = rank
        self.device = device


class CheckpointError(ModelsError):
    """A checkpoint or a model cannot be loaded."""


class NoCheckpoint(CheckpointError):
    """There is no checkpoint in this directory."""


class NewerFormat(CheckpointError):
    """A later release wrote this, in a format that this one does not know."""


class DiskFull(CheckpointError):
    """There is no room to write a checkpoint; the ones before are whole."""


class BadCheckpoint(CheckpointError):
    """A checkpoint is torn, damaged, or of another training."""


class ForeignWeights(CheckpointError):
    """A file of another program that no generator of ours can be made from."""


class SamplingError(ModelsError):
    """Pictures that this generator cannot develop."""


class UnknownLabel(SamplingError):
    """The generator has no class of that number or name."""


class OutOfMemory(SamplingError):
    """The device has not even room for one picture at a time."""


class EvaluationError(ModelsError):
    """A model cannot be measured by this data."""


class TooFewImages(EvaluationError):
    """There are fewer images than any measure can be taken from."""


class NotComparable(EvaluationError):
    """Model and data, or two data sets, are of different sizes or colours."""


class BadInceptionFile(EvaluationError):
    """A file that FID and IS should be taken with is absent or holds something else."""


class MissingPackage(ModelsError):
    """An extra of this package is needed and not installed."""


class ExportError(ModelsError):
    """A model cannot be handed on."""


class TargetExists(ExportError):
    """Something is where the export should be written; nothing is ever overwritten."""


class ExportDiffers(ExportError):
    """What was written does not develop the same pictures as the model, so it was thrown away."""
