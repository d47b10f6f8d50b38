"""A method with its handler, as the forms in which it can be called share it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from connect_sync.compression import Compressions
from connect_sync.errors import ConnectError
from connect_sync.headers import Headers
from connect_sync.http import Fields
from connect_sync.interceptor import Call
from connect_sync.method import Method
from connect_sync.protocols.protocol import remove_reserved
from connect_sync.server.errors import ErrorMapper


@dataclass(frozen=True, eq=False)
class Endpoint:
    """What is decided of a method when its application is built."""

    method: Method[Any, Any]
    """The method."""
    call: Call[Any, Any]
    """The handler, with the interceptors around it; for a bidirectional method, its refusal."""
    read_max_bytes: int
    """How large a received message may be, decompressed, in bytes."""
    compressions: Compressions
    """The compressions that are offered."""
    compress_min_bytes: int
    """From which size on a message is compressed, in bytes."""
    errors: ErrorMapper
    """What the application's exceptions are mapped to."""

    def to_connect_error(self, error: BaseException) -> ConnectError:
        """Return what the client may know of ``error``; what it may not know is logged."""
        return self.errors.to_connect_error(error, self.method)


def response_headers(leading: Headers | None, fields: Fields) -> Headers | Fields:
    """Return the headers of a response: what leading metadata the handler wrote, and ``fields``."""
    if leading is None:
        return fields
    headers = leading.copy()
    remove_reserved(headers)
    for name, value in fields:
        headers[name] = value
    return headers
