"""What a training remembers of the model that it began with: all that going on from a checkpoint needs to know of it."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field


class Origin(BaseModel):
    """Another model's weights, as they were taken."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: str
    images_seen: int = Field(ge=0)  # by its weights: averages and ramps go on from there
    discriminator: bool  # whether that was taken too; always False for kinds that have none
    frozen_layers: int = Field(ge=0)  # of each discriminator, from the pictures upwards
    fresh_classes: tuple[str, ...] = ()  # that it knew nothing of

    @property
    def says(self) -> str:
        """This as a sentence."""
        parts = []
        if self.discriminator:
            parts.append("its discriminator too")
        if self.frozen_layers:
            parts.append(f"of which the lowest {self.frozen_layers} layers stay fixed")
        if self.fresh_classes:
            shown = ", ".join(self.fresh_classes[:5]) + (" …" if len(self.fresh_classes) > 5 else "")
            parts.append(f"{len(self.fresh_classes)} classes new to it ({shown})")
        more = f": {', '.join(parts)}" if parts else ""
        return f"It began as a {self.kind} that had seen {self.images_seen:,} images{more}."
