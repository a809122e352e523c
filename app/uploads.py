"""Uploads: a multipart body goes from the socket into a blob, piece by piece, never whole in memory.

Knows nothing of data sets: it takes one part called `file`, an archive, and small text fields with given names.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Collection
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import PurePath
from typing import BinaryIO

import anyio
import anyio.to_thread
from fastapi import Request
from python_multipart import MultipartParser
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import parse_options_header
from starlette.requests import ClientDisconnect

from app.errors import InvalidParameter, MalformedRequest, NotAnArchive, TooLarge, UnsupportedMedia
from store.blobs import Blobs
from store.settings import PREFIX

FILE = "file"
#: How archives begin: zip (an entry, or the end of one that has none), gzip, bzip2, xz and zstd.
MAGIC = (b"PK\x03\x04", b"PK\x05\x06", b"\x1f\x8b", b"BZh", b"\xfd7zXZ\0", b"\x28\xb5\x2f\xfd")
TAR_MAGIC, TAR_MAGIC_AT = b"ustar", 257
HEAD_BYTES = TAR_MAGIC_AT + len(TAR_MAGIC)
MAX_FIELD_BYTES = 2_000
MAX_OVERHEAD_BYTES = 64 * 1024  # what a body may have besides the file: boundaries, headers, fields
BLOCK_BYTES = 2**20  # collected from the socket before a thread parses, hashes and writes it
DRAIN_BYTES = 8 * 2**20
DRAIN_S = 2.0


@dataclass
class Upload:
    """What has been received."""

    filename: str = ""
    size_bytes: int = 0
    fields: dict[str, str] = field(default_factory=dict)
    sha256: str = ""  # of the file

    @property
    def stem(self) -> str:
        """The file's name without its ending; empty where it has none."""
        # Browsers send a name, some clients a path; only its last part is of use, and only as text.
        return PurePath(self.filename.replace("\\", "/")).stem.replace("\0", "")[:200].strip()

    @property
    def content(self) -> bytes:
        """What tells this upload from another: the file's hash and the fields."""
        return json.dumps([self.sha256, self.fields], sort_keys=True).encode()


Check = Callable[[bytes, str], None]  # of a file's first bytes and its name; raises an AppError


def check_archive(head: bytes, filename: str) -> None:
    """Raise NotAnArchive unless a file begins as a zip or a tar does, compressed or not."""
    if not head.startswith(MAGIC) and head[TAR_MAGIC_AT:] != TAR_MAGIC:
        what = f"begins with {head[:4]!r}" if head else "is empty"
        raise NotAnArchive(
            f"{FILE}: {filename[:100]!r} {what}, so it is no archive",
            parameter=FILE,
            remedy="put the pictures into a zip or a tar; folders in it become classes",
        )


async def receive(
    request: Request,
    blobs: Blobs,
    key: str,
    *,
    fields: Collection[str],
    limit_bytes: int,
    check: Check = check_archive,
) -> Upload:
    """Stream the request's multipart body, its file into the blob `key`; nothing is left behind where it raises.

    Args:
        request: its body has not been read.
        blobs: where the file goes.
        key: under which key.
        fields: names of the text fields that may come along.
        limit_bytes: largest file accepted.
        check: asked about the file's first bytes before the others are stored.

    Raises:
        TooLarge: the file, or the body besides it, is larger than that.
        NotAnArchive: the file does not begin as a zip or a tar does, compressed or not.
        MalformedRequest: the body is not what its Content-Type says, or ends too early.
        InvalidParameter: a part is missing, twice there, or unknown.
        StorageFull, BlobsUnavailable: from the storage.
    """
    body = _Body(request)
    try:
        length = int(request.headers.get("content-length", "0"))
        if length > limit_bytes + MAX_OVERHEAD_BYTES:
            raise _too_large(limit_bytes)
        receiver = _Receiver(request.headers.get("content-type", ""), blobs, key, fields, limit_bytes, check)
        try:
            while not body.is_read:
                await anyio.to_thread.run_sync(receiver.feed, await body.block())
            return await anyio.to_thread.run_sync(receiver.finish)
        except BaseException as error:
            # Also when the client has gone or the service stops: the unfinished blob must be gone as well.
            with anyio.CancelScope(shield=True):
                await anyio.to_thread.run_sync(receiver.abort, error)
            raise
    except (TooLarge, NotAnArchive, UnsupportedMedia, MalformedRequest, InvalidParameter):
        await body.drain()
        raise


class _Body:
    """The request's body as it comes from the socket."""

    def __init__(self, request: Request) -> None:
        self._request = request
        self.is_read = False

    async def block(self) -> bytes:
        """The next megabyte, or what is left. Raises ClientDisconnect."""
        block = bytearray()
        while not self.is_read and len(block) < BLOCK_BYTES:
            message = await self._request.receive()
            if message["type"] == "http.disconnect":
                self.is_read = True
                raise ClientDisconnect("the client hung up in the middle of its upload")
            block += message.get("body", b"")
            self.is_read = not message.get("more_body", False)
        return bytes(block)

    async def drain(self) -> None:
        """Reads some of what is left: a connection closed with bytes unread is reset, and the answer is lost with it."""
        seen = 0
        with anyio.move_on_after(DRAIN_S):
            while not self.is_read and seen < DRAIN_BYTES:
                with suppress(ClientDisconnect):
                    seen += len(await self.block())


class _Receiver:
    """Parses blocks of a multipart body; every method blocks, and one is called at a time."""

    def __init__(
        self, content_type: str, blobs: Blobs, key: str, fields: Collection[str], limit_bytes: int, check: Check
    ) -> None:
        _, parameters = parse_options_header(content_type)
        boundary = parameters.get(b"boundary")
        if not boundary:
            raise MalformedRequest(
                "the multipart body's Content-Type names no boundary",
                parameter="Content-Type",
                remedy="let your HTTP client make the header, as curl -F does",
            )
        self.upload = Upload()
        self._blobs, self._key = blobs, key
        self._names, self._limit_bytes, self._check = set(fields), limit_bytes, check
        self._open = ExitStack()
        self._file: BinaryIO | None = None
        self._hash = hashlib.sha256()
        self._head = b""  # the file's first bytes, until they are enough to recognise an archive
        self._has_file = self._is_complete = False
        self._overhead_bytes = 0
        self._header_name, self._header_value = b"", b""
        self._disposition = b""
        self._part: str | None = None
        self._value = b""
        try:
            self._parser = MultipartParser(
                boundary,
                {
                    "on_part_begin": self._on_part_begin,
                    "on_header_field": self._on_header_field,
                    "on_header_value": self._on_header_value,
                    "on_header_end": self._on_header_end,
                    "on_headers_finished": self._on_headers_finished,
                    "on_part_data": self._on_part_data,
                    "on_part_end": self._on_part_end,
                    "on_end": self._on_end,
                },
            )
        except FormParserError as error:
            raise _malformed(error) from error

    def feed(self, block: bytes) -> None:
        """Takes the next bytes of the body."""
        before = self.upload.size_bytes
        try:
            self._parser.write(block)
        except FormParserError as error:
            raise _malformed(error) from error
        self._overhead_bytes += len(block) - (self.upload.size_bytes - before)
        if self._overhead_bytes > MAX_OVERHEAD_BYTES:
            raise TooLarge("the body has too much besides the file", remedy="send the file and short fields only")

    def finish(self) -> Upload:
        """Makes the blob appear, once every byte was fed."""
        if not self._is_complete:
            raise MalformedRequest("the multipart body ends too early", remedy="send the whole upload again")
        if not self._has_file:
            raise InvalidParameter(
                f"{FILE}: the form has no file of this name",
                parameter=FILE,
                remedy=f"send a zip or a tar of pictures as the part `{FILE}`, as in curl -F {FILE}=@pictures.zip",
            )
        self._open.close()  # writes, flushes to the disk, renames
        self.upload.sha256 = self._hash.hexdigest()
        return self.upload

    def abort(self, error: BaseException) -> None:
        """Drops what has been written. Raises the storage's own error where `error` came from it."""
        try:
            self._open.__exit__(type(error), error, error.__traceback__)
        except BaseException as raised:
            if raised is not error:
                raise

    def _on_part_begin(self) -> None:
        self._header_name = self._header_value = self._disposition = self._value = b""
        self._part = None

    def _on_header_field(self, data: bytes, start: int, end: int) -> None:
        self._header_name += data[start:end]

    def _on_header_value(self, data: bytes, start: int, end: int) -> None:
        self._header_value += data[start:end]

    def _on_header_end(self) -> None:
        if self._header_name.lower() == b"content-disposition":
            self._disposition = self._header_value
        self._header_name = self._header_value = b""

    def _on_headers_finished(self) -> None:
        _, parameters = parse_options_header(self._disposition)
        name = parameters.get(b"name", b"").decode(errors="replace")
        if name == FILE:
            if self._has_file:
                raise InvalidParameter(
                    f"{FILE} is there twice", parameter=FILE, remedy="send one archive for each data set"
                )
            self._has_file = True
            self.upload.filename = parameters.get(b"filename", b"").decode(errors="replace")
            self._file = self._open.enter_context(self._blobs.writer(self._key))
        elif name not in self._names:
            known = ", ".join([FILE, *sorted(self._names)])
            raise InvalidParameter(
                f"the form has an unknown field {name[:100]!r}", parameter=name[:100], remedy=f"known: {known}"
            )
        elif name in self.upload.fields:
            raise InvalidParameter(f"{name} is there twice", parameter=name, remedy="send each field once")
        self._part = name

    def _on_part_data(self, data: bytes, start: int, end: int) -> None:
        if self._part == FILE:
            self._on_file_data(data[start:end])
            return
        self._value += data[start:end]
        if len(self._value) > MAX_FIELD_BYTES:
            raise TooLarge(
                f"{self._part} is longer than {MAX_FIELD_BYTES:,} bytes", parameter=self._part, remedy="shorten it"
            )

    def _on_file_data(self, data: bytes) -> None:
        self.upload.size_bytes += len(data)
        if self.upload.size_bytes > self._limit_bytes:
            raise _too_large(self._limit_bytes)
        if len(self._head) < HEAD_BYTES:
            self._head += data[: HEAD_BYTES - len(self._head)]
            if len(self._head) == HEAD_BYTES:
                self._check(self._head, self.upload.filename)
        assert self._file is not None
        self._file.write(data)
        self._hash.update(data)

    def _on_part_end(self) -> None:
        if self._part == FILE:
            self._check(self._head, self.upload.filename)  # a very short file has not been looked at yet
        elif self._part is not None:
            try:
                self.upload.fields[self._part] = self._value.decode()
            except UnicodeDecodeError as error:
                raise InvalidParameter(
                    f"{self._part} is not UTF-8", parameter=self._part, remedy="send text as UTF-8"
                ) from error

    def _on_end(self) -> None:
        self._is_complete = True


def _too_large(limit_bytes: int) -> TooLarge:
    return TooLarge(
        f"{FILE}: the upload is larger than {limit_bytes:,} bytes",
        parameter=FILE,
        remedy=f"split it, or raise {PREFIX}MAX_UPLOAD_BYTES",
    )


def _malformed(error: FormParserError) -> MalformedRequest:
    return MalformedRequest(
        f"the multipart body can't be read: {error}", remedy="let your HTTP client make the body, as curl -F does"
    )
