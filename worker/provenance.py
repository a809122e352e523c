"""Provenance: what a generated PNG says of itself."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any
from xml.sax.saxutils import quoteattr

# https://cv.iptc.org/newscodes/digitalsourcetype/
SOURCE_TYPE = "http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia"


def text_chunks(
    *, model_id: str, images_seen: int, seed: int, label: str | None, recipe: Mapping[str, Any] | None = None
) -> dict[str, str]:
    """Return the PNG text chunks: what made the picture, and the implicit label of China's 2025 AIGC labelling rules.

    The job is left out on purpose: the same model and seed must give the same bytes, whoever asks
    (docs/decisions/0004-same-seed-same-bytes.md).

    Source: Measures for Labelling of AI-Generated Synthetic Content (2025), GB 45438-2025: metadata field `AIGC`,
    where `Label` 1 means that the content is generated.
    """
    made: dict[str, Any] = {"model": model_id, "images_seen": images_seen, "seed": seed, "label": label}
    produced = f"{model_id}/{images_seen}/{seed}"
    if recipe is not None:  # what is made of its seed alone keeps the bytes that it always had
        made["recipe"] = dict(recipe)
        produced += f"/{hashlib.sha256(json.dumps(recipe, sort_keys=True).encode()).hexdigest()[:12]}"
    aigc = {
        "Label": "1",
        "ContentProducer": "Darkroom",
        "ProduceID": produced,
        "ReservedCode1": "",
        "ContentPropagator": "",
        "PropagateID": "",
        "ReservedCode2": "",
    }
    return {
        "Software": "Darkroom",
        "Darkroom": json.dumps(made, ensure_ascii=False, separators=(",", ":")),
        "AIGC": json.dumps(aigc, separators=(",", ":")),
    }


def xmp_packet() -> str:
    """Return the XMP packet that names the IPTC digital source type of generated media."""
    source = quoteattr(SOURCE_TYPE)
    return (
        '<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>'
        '<x:xmpmeta xmlns:x="adobe:ns:meta/">'
        '<rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
        '<rdf:Description rdf:about="" xmlns:Iptc4xmpExt="http://iptc.org/std/Iptc4xmpExt/2008-02-29/" '
        f"Iptc4xmpExt:DigitalSourceType={source}/>"
        "</rdf:RDF></x:xmpmeta>"
        '<?xpacket end="r"?>'
    )
