"""The sends that a response takes under gunicorn: of its gthread worker, in this thread."""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, TypeAlias, cast

import pytest
from google.protobuf.wrappers_pb2 import StringValue
from gunicorn.app.base import BaseApplication
from gunicorn.glogging import Logger
from gunicorn.workers.gthread import TConn, ThreadWorker

from connect_sync import Code, ConnectError, Method, RequestContext
from connect_sync.http import READ_SIZE
from tests.support import END, SERVER_STREAM, SERVICE, UNARY, envelope, envelopes, proto, split, text
from wsgi_adapters import ConnectWSGIApplication, CORSMiddleware
from wsgi_adapters.body import SMALL_RESPONSE_BYTES

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

ADDRESS = ("127.0.0.1", 5000)
LARGE = SMALL_RESPONSE_BYTES + 1


class Unit:
    def unary(self, request: StringValue, ctx: RequestContext) -> StringValue:
        if request.value == "fail":
            raise ConnectError(Code.NOT_FOUND, "as told")
        return text("x" * LARGE) if request.value == "grow" else request

    def expand(self, request: StringValue, ctx: RequestContext) -> Iterator[StringValue]:
        if request.value == "grow":
            yield text("x" * LARGE)
        yield from split(request, ctx)


class UnitApplication(ConnectWSGIApplication[Unit]):
    path = f"/{SERVICE}"
    methods: ClassVar = {"unary": UNARY, "expand": SERVER_STREAM}


application = UnitApplication(Unit())


class Settings(BaseApplication):
    """gunicorn's settings, as they are where nothing is said."""

    def load_config(self) -> None:
        pass

    def load(self) -> Any:
        raise NotImplementedError


class Sender(socket.socket):
    """A socket that keeps what each send was given."""

    def __init__(self, sock: socket.socket) -> None:
        super().__init__(fileno=sock.detach())
        self.sent: list[bytes] = []

    def sendall(self, data: ReadableBuffer, flags: int = 0, /) -> None:
        self.sent.append(bytes(data))
        super().sendall(data, flags)


class Connection:
    """A connection between a client and a worker."""

    def __init__(self, worker: ThreadWorker, client: socket.socket, server: Sender) -> None:
        self._worker = worker
        self._client = client
        self._server = server
        self._connection: Any = TConn(worker.cfg, server, ADDRESS, ADDRESS)
        self._connection.data_ready = True

    def sends(
        self,
        method: Method[Any, Any],
        content_type: str,
        body: bytes,
        *,
        verb: str = "POST",
        http: str = "HTTP/1.1",
        is_kept: bool | None = True,
    ) -> list[bytes]:
        """Have a request answered, and return what each send was given.

        ``is_kept`` says whether the connection has to be kept, None that it does not matter.
        """
        del self._server.sent[:]
        self._client.sendall(
            f"{verb} {method.path} {http}\r\nhost: unit.test\r\ncontent-type: {content_type}\r\n"
            f"content-length: {len(body)}\r\n\r\n".encode()
            + body
        )
        kept = bool(self._worker.handle(self._connection))
        assert is_kept in (None, kept)
        return self._server.sent

    def received(self) -> bytes:
        """Return what has arrived at the client."""
        return self._client.recv(READ_SIZE)


Connect = Callable[..., Connection]
Header: TypeAlias = tuple[str, str]


@pytest.fixture
def connect() -> Iterator[Connect]:
    """Return what connects to a worker with an application."""
    settings = Settings()
    worker = ThreadWorker(1, os.getppid(), [], settings, 30, settings.cfg, Logger(settings.cfg))
    client, server = socket.socketpair()
    with closing(worker.tmp), client, Sender(server) as sender:

        def connect(wsgi: WSGIApplication = application) -> Connection:
            worker.wsgi = cast(Any, wsgi)  # its stub has other types for the same
            return Connection(worker, client, sender)

        yield connect


def test_unary_response_takes_one_send(connect: Connect) -> None:
    (whole,) = connect().sends(UNARY, "application/proto", proto("Jane"))
    head, _, body = whole.partition(b"\r\n\r\n")

    assert (head.splitlines()[0], body) == (b"HTTP/1.1 200 OK", proto("Jane"))


@pytest.mark.parametrize(
    ("content_type", "wrap"),
    [("application/proto", lambda payload: payload), ("application/grpc-web+proto", envelope)],
)
def test_failure_takes_one_send(connect: Connect, content_type: str, wrap: Callable[[bytes], bytes]) -> None:
    (whole,) = connect().sends(UNARY, content_type, wrap(proto("fail")))

    assert b"as told" in whole


def test_each_response_of_a_kept_connection_takes_one_send(connect: Connect) -> None:
    connection = connect()

    for name in ("anna", "bert"):
        (whole,) = connection.sends(UNARY, "application/proto", proto(name))
        assert whole.endswith(proto(name))


def test_response_with_an_empty_message_is_its_head(connect: Connect) -> None:
    (head,) = connect().sends(UNARY, "application/proto", b"")

    assert (head[-4:], b"content-length: 0\r\n" in head) == (b"\r\n\r\n", True)


def test_large_body_is_not_copied_behind_its_head(connect: Connect) -> None:
    head, body = connect().sends(UNARY, "application/proto", proto("grow"))

    assert (head[-4:], body) == (b"\r\n\r\n", proto("x" * LARGE))


def test_head_of_a_stream_leaves_with_the_first_message(connect: Connect) -> None:
    first, second, end, last = connect().sends(
        SERVER_STREAM, "application/connect+proto", envelope(proto("a,b"))
    )

    assert first.startswith(b"HTTP/1.1 200 OK\r\n")
    assert [first.partition(b"\r\n\r\n")[2], second, end, last] == [
        in_chunk(envelopes("a")),
        in_chunk(envelopes("b")),
        in_chunk(END_OF_STREAM),
        b"0\r\n\r\n",
    ]


def in_chunk(data: bytes) -> bytes:
    return b"%X\r\n%b\r\n" % (len(data), data)


END_OF_STREAM = envelope(b"{}", END)


def test_head_of_a_stream_leaves_once_before_a_large_message(connect: Connect) -> None:
    head, message, *others = connect().sends(
        SERVER_STREAM, "application/connect+proto", envelope(proto("grow"))
    )

    assert (head[-4:], envelope(proto("x" * LARGE)) in message) == (b"\r\n\r\n", True)
    assert others == [in_chunk(envelope(proto("grow"))), in_chunk(END_OF_STREAM), b"0\r\n\r\n"]


def test_stream_of_unknown_length_over_http_1_0(connect: Connect) -> None:
    head, *sent = connect().sends(
        SERVER_STREAM, "application/connect+proto", envelope(proto("a,b")), http="HTTP/1.0", is_kept=False
    )

    assert b"Connection: close" in head
    assert sent == [envelopes("a"), envelopes("b"), END_OF_STREAM]


# What stands between gunicorn and the application


def an_error() -> Any:
    """Return what start_response takes of an error, for which another response has to stand in."""
    try:
        raise ValueError("the answer is of no use")
    except ValueError:
        return sys.exc_info()


def changing(change: Callable[[str, list[Header]], tuple[str, list[Header]]]) -> WSGIApplication:
    """Return the application with a middleware around it that changes the head of its response."""

    def middleware(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        def start(status: str, headers: list[Header], exc_info: Any = None, /) -> Callable[[bytes], object]:
            return start_response(*change(status, headers), exc_info)

        return application(environ, start)

    return middleware


def test_response_whose_head_a_middleware_adds_to_takes_one_send(connect: Connect) -> None:
    middleware = changing(lambda status, headers: (status, [*headers, ("added", "1")]))
    (whole,) = connect(middleware).sends(UNARY, "application/proto", proto("Jane"))
    head, _, body = whole.partition(b"\r\n\r\n")

    assert (b"added: 1" in head, body) == (True, proto("Jane"))


@pytest.mark.parametrize(
    "change",
    [
        lambda status, headers: ("204 No Content", headers),
        lambda status, headers: ("304 Not Modified", headers),
        lambda status, headers: (status, [("content-length", "0")]),
    ],
    ids=["204", "304", "length 0"],
)
def test_head_that_a_middleware_leaves_no_body_is_not_held(
    connect: Connect, change: Callable[[str, list[Header]], tuple[str, list[Header]]]
) -> None:
    (head,) = connect(changing(change)).sends(UNARY, "application/proto", proto("Jane"))

    assert head.endswith(b"\r\n\r\n")


def test_middleware_with_a_write_of_its_own_gets_what_it_asks_for(connect: Connect) -> None:
    def middleware(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        heads: list[tuple[str, list[Header]]] = []
        written: list[bytes] = []

        def start(status: str, headers: list[Header], exc_info: Any = None, /) -> Callable[[bytes], object]:
            heads.append((status, headers))
            return written.append

        chunks = application(environ, start)
        start_response(*heads[0])
        return chunks

    sent = connect(middleware).sends(UNARY, "application/proto", proto("Jane"))

    assert b"".join(sent).endswith(b"\r\n\r\n" + proto("Jane"))


@pytest.mark.parametrize("status", ["204 No Content", "503 Service Unavailable"])
@pytest.mark.parametrize("chunks", [(), (b"",)])
def test_response_in_place_of_the_applications_is_not_held(
    connect: Connect, status: str, chunks: tuple[bytes, ...]
) -> None:
    def middleware(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        application(environ, start_response)
        start_response(status, [("content-length", "0")], an_error())
        return chunks

    sent = connect(middleware).sends(UNARY, "application/proto", proto("Jane"))

    assert b"".join(sent).startswith(f"HTTP/1.1 {status}\r\n".encode())


def writing(data: bytes) -> WSGIApplication:
    """Return the application with a middleware around it that writes ``data`` before the response."""

    def middleware(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        def start(status: str, headers: list[Header], exc_info: Any = None, /) -> Callable[[bytes], object]:
            write = start_response(status, headers, exc_info)
            write(data)
            return write

        return application(environ, start)

    return middleware


def test_unary_response_whose_head_a_middleware_has_sent(connect: Connect) -> None:
    head, *_, body = connect(writing(b"")).sends(UNARY, "application/proto", proto("Jane"))

    assert (head[-4:], body) == (b"\r\n\r\n", proto("Jane"))


@pytest.mark.parametrize("data", [b"", b"written"])
def test_message_behind_a_head_that_a_middleware_has_sent_leaves_at_once(
    connect: Connect, data: bytes
) -> None:
    sent = connect(writing(data)).sends(SERVER_STREAM, "application/connect+proto", envelope(proto("a,b")))

    assert sent[-4:] == [
        in_chunk(envelopes("a")),
        in_chunk(envelopes("b")),
        in_chunk(END_OF_STREAM),
        b"0\r\n\r\n",
    ]


def test_second_application_answers_where_the_first_gives_way(connect: Connect) -> None:
    def middleware(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        def restart(status: str, headers: list[Header], exc_info: Any = None, /) -> Callable[[bytes], object]:
            return start_response(status, headers, an_error())

        without_headers = changing(lambda status, headers: (status, []))
        without_headers({**environ, "PATH_INFO": "/nothing"}, start_response)
        return application(environ, restart)

    sent = connect(middleware).sends(UNARY, "application/proto", proto("Jane"))

    assert b"".join(sent).endswith(b"\r\n\r\n" + proto("Jane"))


@pytest.mark.parametrize("http", ["HTTP/1.0", "HTTP/1.1"])
@pytest.mark.parametrize("status", ["200 OK", "205 Reset Content", "103 Early Hints"])
def test_head_leaves_without_a_length_and_a_body(connect: Connect, status: str, http: str) -> None:
    answer = changing(lambda _, headers: (status, []))

    def middleware(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        answer(environ, start_response)
        return []

    sent = connect(middleware).sends(UNARY, "application/proto", proto("Jane"), http=http, is_kept=None)

    assert b"".join(sent).startswith(f"{http} {status}\r\n".encode())


def test_response_to_a_page_of_another_origin_takes_one_send(connect: Connect) -> None:
    open_to_pages = CORSMiddleware(application, allow_origins=["https://example.com"])
    (whole,) = connect(open_to_pages).sends(
        UNARY, "application/proto\r\norigin: https://example.com", proto("Jane")
    )

    assert b"access-control-allow-origin: https://example.com\r\n" in whole


def test_head_leaves_though_a_middleware_has_made_a_get_of_it(connect: Connect) -> None:
    def middleware(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        environ["REQUEST_METHOD"] = "GET"
        return application(environ, start_response)

    (head,) = connect(middleware).sends(UNARY, "application/proto", b"", verb="HEAD")

    assert head.startswith(b"HTTP/1.1 405 Method Not Allowed\r\n")


def test_file_in_place_of_the_body_comes_behind_the_head(connect: Connect, tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes(proto("Mary"))

    def middleware(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        application(environ, start_response)
        wrapped: Iterable[bytes] = environ["wsgi.file_wrapper"](file.open("rb"))
        return wrapped

    connection = connect(middleware)
    (head,) = connection.sends(UNARY, "application/proto", proto("Jane"))

    assert connection.received() == head + proto("Mary")
