"""Pictures in other forms than the stored one."""

from __future__ import annotations

import io
import json
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import ExifTags, Image
from PIL.PngImagePlugin import PngImageFile

from app.errors import InvalidParameter, PictureDamaged
from app.renditions import PictureFormat, Rendition
from models.png import encode
from tests.pictures import shapes
from worker.provenance import SOURCE_TYPE, text_chunks, xmp_packet

MADE = text_chunks(model_id="mdl_1", images_seen=1000, seed=7, label="Käse & <Brot>", recipe={"truncation": 0.5})
LOSSY = [PictureFormat.WEBP, PictureFormat.JPEG]


def stored(*, channels: int = 3, says: bool = True) -> bytes:
    """A PNG as the sampler stores it."""
    pixels = shapes(1, 64, channels)[0][0]
    return encode(pixels, text=MADE, xmp=xmp_packet()) if says else encode(pixels)


def opened(content: bytes) -> Image.Image:
    picture = Image.open(io.BytesIO(content))
    picture.load()
    return picture


def test_without_wishes_it_is_the_stored_file() -> None:
    png = stored()
    assert Rendition().of(png) == png
    assert Rendition().etag("c0ffee") == '"c0ffee"'
    assert Rendition().query == ""


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("form", PictureFormat)
@pytest.mark.parametrize("side_px", [None, 16, 100])
def test_every_form_has_its_format_and_size_and_looks_the_same(
    form: PictureFormat, side_px: int | None, channels: int
) -> None:
    png = stored(channels=channels)

    picture = opened(Rendition(form, side_px).of(png))

    assert picture.format == form.upper()
    assert picture.size == (side_px or 64, side_px or 64)
    assert (picture.mode == "L") == (channels == 1 and form is not PictureFormat.WEBP)  # WebP knows colours only
    expected = opened(png).resize(picture.size, Image.Resampling.LANCZOS).convert("RGB")
    difference = np.abs(np.asarray(picture.convert("RGB"), float) - np.asarray(expected, float)).mean()
    assert difference < (8 if form in LOSSY else 0.001)  # of 255


def test_the_longer_side_is_what_was_asked_for() -> None:
    wide = encode(np.zeros((3, 20, 40), np.uint8))
    assert opened(Rendition(side_px=80).of(wide)).size == (80, 40)


@pytest.mark.parametrize("form", LOSSY)
def test_less_quality_makes_a_smaller_file(form: PictureFormat) -> None:
    png = stored()
    low, usual, high = (len(Rendition(form, 256, quality).of(png)) for quality in (10, None, 100))
    assert low < usual < high


def test_a_resized_png_says_what_the_stored_one_says() -> None:
    picture = opened(Rendition(side_px=32).of(stored()))
    assert isinstance(picture, PngImageFile)
    assert {name: picture.text[name] for name in MADE} == MADE
    assert picture.info["xmp"].decode() == xmp_packet()


@pytest.mark.parametrize("form", LOSSY)
def test_lossy_forms_say_in_xmp_and_exif_what_the_png_says_in_text(form: PictureFormat) -> None:
    picture = opened(Rendition(form, 32).of(stored()))

    packet = ElementTree.fromstring(picture.info["xmp"].decode().removeprefix("\ufeff"))  # noqa: S314
    source = "{http://iptc.org/std/Iptc4xmpExt/2008-02-29/}DigitalSourceType"
    assert [node.get(source) for node in packet.iter() if node.get(source)] == [SOURCE_TYPE]
    [label] = packet.iter("{http://www.tc260.org.cn/ns/AIGC/1.0/}AIGC")
    assert json.loads(label.text or "") == json.loads(MADE["AIGC"])
    exif = picture.getexif()
    assert exif[ExifTags.Base.Software] == "Darkroom"
    described = exif[ExifTags.Base.ImageDescription].encode("latin-1").decode()  # Pillow reads Latin-1
    assert json.loads(described) == json.loads(MADE["Darkroom"])


@pytest.mark.parametrize("form", PictureFormat)
def test_what_said_nothing_says_nothing(form: PictureFormat) -> None:
    picture = opened(Rendition(form, 32).of(stored(says=False)))
    assert not picture.info.get("xmp")
    assert not picture.getexif()
    assert not getattr(picture, "text", {})


def test_etags_differ_wherever_the_pictures_do() -> None:
    forms = [Rendition(form, side_px) for form in PictureFormat for side_px in (None, 32, 64)]
    forms += [Rendition(form, 32, quality) for form in LOSSY for quality in (1, 50)]
    tags = [form.etag("c0ffee") for form in forms]
    assert len(set(tags)) == len(tags)
    assert Rendition(PictureFormat.WEBP, 32, 90).etag("c0ffee") == Rendition(PictureFormat.WEBP, 32).etag("c0ffee")


def test_png_takes_no_quality() -> None:
    with pytest.raises(InvalidParameter, match="quality: 50") as refused:
        Rendition(PictureFormat.PNG, 32, 50)
    assert refused.value.parameter == "quality"


@pytest.mark.parametrize("content", [b"", b"no picture", stored()[:200], stored().replace(b"IDAT", b"IDAX")])
def test_a_damaged_file_is_told_from_a_defect(content: bytes) -> None:
    with pytest.raises(PictureDamaged, match="can't be read"):
        Rendition(PictureFormat.JPEG).of(content)
