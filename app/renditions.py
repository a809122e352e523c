"""Pictures in another form than the stored one: WebP or JPEG, smaller or larger. What a PNG says of itself stays with it."""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from urllib.parse import urlencode
from xml.sax.saxutils import escape

from PIL import ExifTags, Image
from PIL.PngImagePlugin import PngImageFile, PngInfo

from app.errors import InvalidParameter, PictureDamaged

LEAST_SIDE_PX, MOST_SIDE_PX = 16, 1024
DEFAULT_QUALITY = 90  # of 100: hard to tell from the PNG by eye

_XMP_KEYWORD = "XML:com.adobe.xmp"  # the text chunk that holds XMP, XMP Specification Part 3, section 1.1.5


class PictureFormat(StrEnum):
    """What a picture may be encoded as."""

    PNG = "png"
    WEBP = "webp"
    JPEG = "jpeg"


@dataclass(frozen=True)
class Rendition:
    """The form to give a picture in; as it stands: the stored PNG.

    Raises:
        InvalidParameter: a quality for PNG, which loses nothing.
    """

    format: PictureFormat = PictureFormat.PNG
    side_px: int | None = None  # of the longer side, by Lanczos; None: as it was made
    quality: int | None = None  # 1 to 100, of WebP and JPEG; None: DEFAULT_QUALITY

    def __post_init__(self) -> None:
        if self.quality is not None and self.format is PictureFormat.PNG:
            raise InvalidParameter(
                f"quality: {self.quality} was asked for, but a PNG loses nothing",
                parameter="quality",
                remedy="leave it out, or ask for format=webp or format=jpeg",
            )

    @property
    def is_stored(self) -> bool:
        """Whether it is the PNG as it was made."""
        return self.format is PictureFormat.PNG and self.side_px is None

    @property
    def media_type(self) -> str:
        """As in Content-Type."""
        return f"image/{self.format}"

    @property
    def query(self) -> str:
        """What to add to the path of the PNG to get this; empty for the PNG itself."""
        if self.is_stored:
            return ""
        given = {"format": self.format, "size": self.side_px, "quality": self.quality}
        return "?" + urlencode({name: value for name, value in given.items() if value is not None})

    def etag(self, sha256: str) -> str:
        """Return its ETag: weak where another version of an encoder may give other bytes for the same picture.

        Args:
            sha256: of the stored PNG.
        """
        if self.is_stored:
            return f'"{sha256}"'
        quality = self.quality or DEFAULT_QUALITY if self.format is not PictureFormat.PNG else ""
        return f'W/"{sha256}-{self.format}-{self.side_px or ""}-{quality}"'

    def of(self, png: bytes) -> bytes:
        """Return a stored picture in this form, with its provenance.

        Raises:
            PictureDamaged: the file is no PNG any more.
        """
        if self.is_stored:
            return png
        try:
            with Image.open(io.BytesIO(png), formats=["PNG"]) as stored:
                assert isinstance(stored, PngImageFile)
                texts = {keyword: str(words) for keyword, words in stored.text.items()}  # reads to the file's end
                picture = _resized(stored, self.side_px) if self.side_px is not None else stored
                return self._encoded(picture, texts)
        except (OSError, SyntaxError) as error:  # Pillow raises either
            raise PictureDamaged(f"the stored PNG can't be read any more: {error}") from error

    def _encoded(self, picture: Image.Image, texts: Mapping[str, str]) -> bytes:
        file = io.BytesIO()
        if self.format is PictureFormat.PNG:
            picture.save(file, "PNG", pnginfo=_chunks(texts))
        else:
            quality = self.quality or DEFAULT_QUALITY
            picture.save(file, self.format.upper(), quality=quality, xmp=_xmp(texts), exif=_exif(texts))
        return file.getvalue()


def _chunks(texts: Mapping[str, str]) -> PngInfo:
    """Text chunks of the kinds that the stored ones have."""
    chunks = PngInfo()
    for keyword, words in texts.items():
        if words.isascii() and keyword != _XMP_KEYWORD:
            chunks.add_text(keyword, words)
        else:
            chunks.add_itxt(keyword, words)
    return chunks


def _resized(picture: Image.Image, side_px: int) -> Image.Image:
    factor = side_px / max(picture.size)
    width, height = (max(1, round(side * factor)) for side in picture.size)
    return picture.resize((width, height), Image.Resampling.LANCZOS)


def _xmp(texts: Mapping[str, str]) -> bytes:
    """The PNG's XMP, with the AIGC label inside: other formats have no text chunks.

    Source: TC260-PG-20259A, practice guide to GB 45438-2025: key `AIGC` of this namespace.
    """
    packet = texts.get(_XMP_KEYWORD, "")
    if "AIGC" in texts:
        label = (
            '<rdf:Description rdf:about="" xmlns:TC260="http://www.tc260.org.cn/ns/AIGC/1.0/">'
            f"<TC260:AIGC>{escape(texts['AIGC'])}</TC260:AIGC></rdf:Description>"
        )
        packet = packet.replace("</rdf:RDF>", f"{label}</rdf:RDF>")
    return packet.encode()


def _exif(texts: Mapping[str, str]) -> bytes:
    """The software, and what made the picture as its description; nothing where the PNG says nothing."""
    exif = Image.Exif()
    for tag, keyword in ((ExifTags.Base.ImageDescription, "Darkroom"), (ExifTags.Base.Software, "Software")):
        if keyword in texts:
            exif[tag] = texts[keyword].encode()  # UTF-8, as Exif 3.0 allows
    return exif.tobytes() if len(exif) else b""
