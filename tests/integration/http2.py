"""HTTP/2 by hand, for tests that care which frames go over a connection, and when."""

from __future__ import annotations

import os
import select
import socket
import ssl
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from time import monotonic
from typing import NamedTuple

from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.errors import ErrorCodes
from h2.events import (
    ConnectionTerminated,
    DataReceived,
    Event,
    InformationalResponseReceived,
    PingAckReceived,
    ResponseReceived,
    StreamEnded,
    StreamReset,
    TrailersReceived,
)
from h2.settings import SettingCodes, Settings

from tests.integration.wire import SERVICE, connect, reset

WINDOW = 65_535
"""How many bytes of a stream may be on their way if nobody says otherwise (RFC 9113, section 6.9.2)."""


class Http2Reply(NamedTuple):
    """A response as it came."""

    status: int
    headers: dict[str, str]
    body: bytes
    trailers: dict[str, str]


class Http2Connection:
    """A client's connection, on which nothing is sent or read but what the test says.

    Reading a stream opens its window again, by halves; that of the connection is as good as open.
    """

    def __init__(
        self,
        port: int,
        tls: ssl.SSLContext | None = None,
        *,
        window: int | None = None,
        receive_buffer: int | None = None,
    ) -> None:
        """Connect.

        ``window`` is with how many bytes of each stream the server may begin, where it matters; for the rest
        see `tests.integration.wire.connect`.
        """
        self._socket = connect(port, tls, receive_buffer)
        self._streams: dict[int, Stream] = {}
        self._pongs: list[bytes] = []
        self._is_held_back = False
        self.end_code: int | None = None
        """The code with which the server has said that it ends the connection."""
        self.protocol = H2Connection(H2Configuration(client_side=True))
        if window is not None:
            values = {SettingCodes.INITIAL_WINDOW_SIZE: window}
            self.protocol.local_settings = Settings(client=True, initial_values=values)
        self.protocol.initiate_connection()
        self.protocol.increment_flow_control_window(1 << 30)
        self.flush()

    def open(
        self, method: str, headers: Mapping[str, object], *pieces: bytes, is_whole: bool = False
    ) -> Stream:
        """Call a method of the service, and send the start of the body, or all of it."""
        number = self.protocol.get_next_available_stream_id()
        self._streams[number] = stream = Stream(self, number)
        pseudo_headers = {
            ":method": "POST",
            ":scheme": "http",
            ":authority": "test",
            ":path": f"{SERVICE}/{method}",
        }
        fields = [(name, str(value)) for name, value in (pseudo_headers | dict(headers)).items()]
        self.protocol.send_headers(number, fields)
        self.flush()
        stream.send(*pieces)
        if is_whole:
            stream.end()
        return stream

    def ping(self, data: bytes) -> None:
        """Send eight bytes for the server to send back."""
        self.protocol.ping(data)
        self.flush()

    def wait_for_pong(self, data: bytes) -> None:
        while data not in self._pongs:
            assert self.receive(), "the server has closed the connection"

    def catch_up(self) -> None:
        """Let the server answer to all that was sent."""
        self.ping(b"catch up")
        self.wait_for_pong(b"catch up")
        self._pongs.clear()

    def wait_for_end(self) -> None:
        """Read until the server closes the connection."""
        try:
            while self.receive():
                pass
        except ConnectionResetError:
            pass  # the server had bytes left that it did not want to read

    def send_raw(self, data: bytes) -> None:
        """Send what is no frame, or none that `protocol` would send."""
        self._socket.sendall(data)

    def send_below_tls(self, data: bytes) -> None:
        """Send what is not encrypted. The connection is of no use then, but that it can be read."""
        os.write(self._socket.fileno(), data)

    def shrink_windows(self) -> None:
        """Let the server send a byte of each stream to begin with, and count what it has sent."""
        self.protocol.update_settings({SettingCodes.INITIAL_WINDOW_SIZE: 1})
        self.flush()

    def end(self) -> None:
        """Say that nothing more will be sent."""
        self._socket.shutdown(socket.SHUT_WR)

    def reset(self) -> None:
        """Leave without a word more, so that what is sent here next fails."""
        reset(self._socket)

    def close(self) -> None:
        self._socket.close()

    @contextmanager
    def one_packet(self) -> Iterator[None]:
        """Send the frames of a block together."""
        self._is_held_back = True
        yield
        self._is_held_back = False
        self.flush()

    def flush(self) -> None:
        """Send what `protocol` has ready."""
        if not self._is_held_back:
            self._socket.sendall(self.protocol.data_to_send())

    def receive_for(self, seconds: float) -> None:
        """Read what comes in that time."""
        end = monotonic() + seconds
        while select.select([self._socket], [], [], max(0, end - monotonic()))[0] and self.receive():
            pass

    def receive(self) -> bool:
        """Read once, and tell whether something came; nothing comes when the server has closed."""
        data = self._socket.recv(65_536)
        for event in self.protocol.receive_data(data):
            self._handle(event)
        self.flush()
        return bool(data)

    def _handle(self, event: Event) -> None:
        if isinstance(event, PingAckReceived):
            self._pongs.append(event.ping_data)
        elif isinstance(event, ConnectionTerminated):
            self.end_code = event.error_code
        elif isinstance(
            event,
            DataReceived
            | InformationalResponseReceived
            | ResponseReceived
            | StreamEnded
            | StreamReset
            | TrailersReceived,
        ):
            self._streams[event.stream_id].handle(event)

    def __enter__(self) -> Http2Connection:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()


class Stream:
    """One call on a connection."""

    def __init__(self, connection: Http2Connection, number: int) -> None:
        self.number = number
        self.interim: list[int] = []
        """The statuses of the responses that came before the final one."""
        self.reset_code: int | None = None
        """The code with which the server has reset the stream."""
        self._connection = connection
        self._protocol = connection.protocol
        self._head: tuple[int, dict[str, str]] | None = None
        self._data: list[bytes] = []
        self._read_size = 0
        self._trailers: dict[str, str] = {}
        self._is_ended = False

    def send(self, *pieces: bytes) -> None:
        """Send each piece in a frame of its own, or in several where it is larger than they may be."""
        for piece in pieces:
            for i in range(0, len(piece), self._protocol.max_outbound_frame_size):
                frame = piece[i : i + self._protocol.max_outbound_frame_size]
                # A frame for every byte of window would make ever smaller frames.
                while self._protocol.local_flow_control_window(self.number) < len(frame):
                    self._receive()
                self._protocol.send_data(self.number, frame)
                self._connection.flush()

    def send_what_fits(self, data: bytes) -> bool:
        """Send as much of it as the windows let through now, in whole frames; tell whether that is any."""
        size = self._protocol.max_outbound_frame_size
        for i in range(0, len(data), size):
            frame = data[i : i + size]
            if self.is_over or len(frame) > self._protocol.local_flow_control_window(self.number):
                return i > 0
            self._protocol.send_data(self.number, frame)
            self._connection.flush()
        return True

    def end(self, trailers: Mapping[str, str] | None = None) -> None:
        """End the body."""
        if trailers is None:
            self._protocol.end_stream(self.number)
        else:
            self._protocol.send_headers(self.number, list(trailers.items()), end_stream=True)
        self._connection.flush()

    def reset(self) -> None:
        """Give the call up, on a connection that goes on."""
        self._protocol.reset_stream(self.number, ErrorCodes.CANCEL)
        self._connection.flush()

    def open_window(self, size: int) -> None:
        """Let the server send more than what was read."""
        self._protocol.increment_flow_control_window(size, self.number)
        self._connection.flush()

    @property
    def is_over(self) -> bool:
        """Whether the response has ended, or the server has reset the stream."""
        return self._is_ended or self.reset_code is not None

    def wait_for_interim(self) -> None:
        while not self.interim:
            self._receive()

    def read_head(self) -> tuple[int, dict[str, str]]:
        while self._head is None:
            self._receive()
        return self._head

    def read_data(self) -> bytes:
        """Return what one frame brings; nothing at the end."""
        while not self._data and not self._is_ended:
            self._receive()
        if not self._data:
            return b""
        data = self._data.pop(0)
        self._read_size += len(data)
        # As clients do, not for each frame.
        if self._read_size > WINDOW // 2 and not self.is_over:
            self.open_window(self._read_size)
            self._read_size = 0
        return data

    def read(self, size: int) -> bytes:
        """Return that many bytes of the body, and not a byte behind them."""
        data = b""
        while len(data) < size:
            piece = self.read_data()
            assert piece, f"the body ended: {data!r}"
            data += piece
        if len(data) > size:
            self._data.insert(0, data[size:])
        return data[:size]

    def read_envelope(self) -> tuple[int, bytes]:
        flags, *size = self.read(5)
        return flags, self.read(int.from_bytes(size, "big"))

    def read_reply(self) -> Http2Reply:
        """Read the response to its end."""
        status, headers = self.read_head()
        body = b"".join(iter(self.read_data, b""))
        return Http2Reply(status, headers, body, self._trailers)

    def wait_for_reset(self) -> int:
        """Return the code with which the server resets the stream."""
        while self.reset_code is None:
            assert self._connection.receive(), "the server has closed the connection"
        return self.reset_code

    def handle(self, event: Event) -> None:
        """Take what has come."""
        if isinstance(event, ResponseReceived):
            headers = decode(event.headers)
            self._head = int(headers.pop(":status")), headers
        elif isinstance(event, InformationalResponseReceived):
            self.interim.append(int(decode(event.headers)[":status"]))
        elif isinstance(event, DataReceived):
            if event.data:
                self._data.append(event.data)
        elif isinstance(event, TrailersReceived):
            self._trailers = decode(event.headers)
        elif isinstance(event, StreamEnded):
            self._is_ended = True
        elif isinstance(event, StreamReset):
            self.reset_code = event.error_code

    def _receive(self) -> None:
        assert self.reset_code is None, f"the server has reset the stream: {self.reset_code}"
        assert self._connection.receive(), "the server has closed the connection"


def decode(headers: Iterable[tuple[bytes, bytes]]) -> dict[str, str]:
    fields = [(name.decode(), value.decode()) for name, value in headers]
    assert len(dict(fields)) == len(fields), f"a name is there twice: {fields}"
    return dict(fields)
