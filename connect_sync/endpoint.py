"""What is decided once for a method, for both sides: a call only looks it up."""

from __future__ import annotations

from typing import Any

from connect_sync.codec import Encoder
from connect_sync.compression import Compressions
from connect_sync.errors import TooLargeError, describe
from connect_sync.interceptor import Call, Hooks, Interceptors
from connect_sync.method import Method


class MessageOptions:
    """What holds for the messages of all methods of one side."""

    __slots__ = ("compress_min_bytes", "compressions", "read_max_bytes", "send_max_bytes")

    def __init__(
        self,
        *,
        read_max_bytes: int,
        send_max_bytes: int | None,
        compressions: Compressions,
        compress_min_bytes: int,
    ) -> None:
        """Take the options.

        Args:
            read_max_bytes: How large a received message may be, decompressed, in bytes.
            send_max_bytes: How large a sent message may be before it is compressed, in bytes; None for no
                limit.
            compressions: The compressions to accept.
            compress_min_bytes: The size in bytes from which messages are compressed.

        Raises:
            TypeError: A number is of another type.
            ValueError: A number is out of its range.
        """
        self.read_max_bytes: int = check_bytes("read_max_bytes", read_max_bytes, least=1)
        self.send_max_bytes: int | None = (
            None if send_max_bytes is None else check_bytes("send_max_bytes", send_max_bytes, least=1)
        )
        self.compressions: Compressions = compressions
        self.compress_min_bytes: int = check_bytes("compress_min_bytes", compress_min_bytes, least=0)

    def limit(self, encode: Encoder) -> Encoder:
        """Return ``encode``, with the limit of sent messages if there is one.

        What is returned raises TooLargeError for a message past the limit.
        """
        max_bytes = self.send_max_bytes
        if max_bytes is None:
            return encode

        def encode_within_limit(message: Any) -> bytes:
            data = encode(message)
            if len(data) > max_bytes:
                raise TooLargeError(max_bytes, len(data), option="send_max_bytes")
            return data

        return encode_within_limit


def check_bytes(option: str, size: object, *, least: int) -> int:
    """Return a number of bytes, which is ``least`` or more. ``option`` is what errors call it.

    Raises:
        TypeError: ``size`` is not an ``int``.
        ValueError: It is less than ``least``.
    """
    if not isinstance(size, int) or isinstance(size, bool):
        raise TypeError(f"{option} must be a number of bytes, got {describe(size)}")
    if size < least:
        raise ValueError(f"{option} must be {least} or more bytes, got {size}")
    return size


class Endpoint:
    """What all calls of a method share.

    It does not refer to the method, so that a table of endpoints may hold the methods weakly.
    """

    __slots__ = ("call", "hooks")

    def __init__(self, method: Method[Any, Any], call: Call[Any, Any], interceptors: Interceptors) -> None:
        """Take a method and its innermost ``call``: a server's handler, or a client's request."""
        self.call: Call[Any, Any] = interceptors.around(call, method)
        self.hooks: Hooks | None = interceptors.hooks
