"""Heads of requests, bounded: the parser would keep a header that never ends until memory does."""

from __future__ import annotations

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

MAX_HEAD_BYTES = 64 * 1024  # of the request line and all headers; clients that mean well stay far below


class BoundedHeads(HttpToolsProtocol):
    """uvicorn's protocol, except that it closes the connection of a client whose request does not come to its body."""

    _is_in_head = False
    _head_bytes = 0

    def data_received(self, data: bytes) -> None:
        """Parses the next bytes of a connection."""
        super().data_received(data)
        if self._is_in_head:
            self._head_bytes += len(data)
            if self._head_bytes > MAX_HEAD_BYTES and not self.transport.is_closing():
                self.send_400_response(f"The request line and its headers have more than {MAX_HEAD_BYTES} bytes.")

    def on_message_begin(self) -> None:
        """A request begins."""
        self._is_in_head, self._head_bytes = True, 0
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        """Its headers are there."""
        self._is_in_head = False
        super().on_headers_complete()
