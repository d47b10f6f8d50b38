"""What is decided once for a method, for both sides: a call only looks it up."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from connect_sync.codec import Encoder
from connect_sync.compression import Compression, Compressions
from connect_sync.envelope import check_compress_min_bytes
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
        compressions: Iterable[Compression | str],
        compress_min_bytes: int,
    ) -> None:
        """Take the options.

        Args:
            read_max_bytes: How large a received message may be, decompressed, in bytes.
            send_max_bytes: How large a sent message may be before it is compressed, in bytes; None for no
                limit.
            compressions: The compressions to accept, or their names, in order of preference.
            compress_min_bytes: The size in bytes from which messages are compressed.

        Raises:
            TypeError: ``compressions`` is not a list.
            ValueError: A number is out of its range; two compressions share a name; a name is unknown.
        """
        self.read_max_bytes: int = check_max_bytes("read_max_bytes", read_max_bytes)
        self.send_max_bytes: int | None = (
            None if send_max_bytes is None else check_max_bytes("send_max_bytes", send_max_bytes)
        )
        self.compressions: Compressions = Compressions(compressions)
        self.compress_min_bytes: int = check_compress_min_bytes(compress_min_bytes)

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


def check_max_bytes(option: str, max_bytes: object) -> int:
    """Return a limit on the size of messages, in bytes. ``option`` is its name.

    Raises:
        TypeError: ``max_bytes`` is not an ``int``.
        ValueError: It is not positive.
    """
    if not isinstance(max_bytes, int) or isinstance(max_bytes, bool):
        raise TypeError(f"{option} must be a number of bytes, got {describe(max_bytes)}")
    if max_bytes <= 0:
        raise ValueError(f"{option} must be a positive number of bytes, got {max_bytes}")
    return max_bytes


class Endpoint:
    """A method with all that its calls share."""

    __slots__ = ("call", "hooks", "method", "options")

    def __init__(
        self,
        method: Method[Any, Any],
        call: Call[Any, Any],
        interceptors: Interceptors,
        options: MessageOptions,
    ) -> None:
        """Take the method and the innermost ``call``: a server's handler, or a client's request."""
        self.method: Method[Any, Any] = method
        self.call: Call[Any, Any] = interceptors.around(call, method)
        self.hooks: Hooks | None = interceptors.hooks
        self.options: MessageOptions = options
