"""Whatever a request holds, the answer is a well-formed response, and no exception leaves."""

from __future__ import annotations

import gzip
import json
from base64 import b64decode, b64encode, urlsafe_b64encode
from random import Random
from types import SimpleNamespace
from typing import Any

import pytest
from google.protobuf.struct_pb2 import Struct
from google.protobuf.type_pb2 import Type
from google.protobuf.wrappers_pb2 import StringValue

from connect_sync import Code, Headers, IdempotencyLevel, Method, StreamKind
from connect_sync.http import Request
from connect_sync.server import Service
from tests.support import (
    BIDI,
    END,
    WEB_END,
    Answer,
    envelope,
    join,
    proto,
    split_envelopes,
    trailer_lines,
)

SERVICE = "unit.v1.UnitService"
METHODS: dict[str, Method[Any, Any]] = {
    "echo": Method(SERVICE, "Echo", Type, Type, idempotency=IdempotencyLevel.NO_SIDE_EFFECTS),
    "struct": Method(SERVICE, "Struct", Struct, Struct),
    "join": Method(SERVICE, "Join", StringValue, StringValue, StreamKind.CLIENT_STREAM),
    "twice": Method(SERVICE, "Twice", StringValue, StringValue, StreamKind.SERVER_STREAM),
    "chat": BIDI,
}
CONNECT_FORMS = ["proto", "json", "connect+proto", "connect+json"]
GRPC_FORMS = [
    f"{family}{codec}"
    for family in ("grpc", "grpc-web", "grpc-web-text")
    for codec in ("", "+proto", "+json")
]
FORMS = CONNECT_FORMS + GRPC_FORMS


@pytest.fixture
def service() -> Service:
    handlers = SimpleNamespace(
        echo=lambda request, ctx: request,
        struct=lambda request, ctx: request,
        join=join,
        twice=lambda request, ctx: [request, request],
    )
    return Service(handlers, METHODS, read_max_bytes=2000, compressions=["gzip"], compress_min_bytes=0)


def check_well_formed(answer: Answer) -> None:
    Headers(answer.headers)  # raises for what HTTP could not carry
    content_type = answer.headers["content-type"]
    if content_type.startswith("application/connect+"):
        assert answer.status == 200
        flags = [flags for flags, _ in answer.envelopes]
        assert flags[-1:] == [END]
        assert set(flags[:-1]) <= {0, 1}
        check_error(answer.end.get("error"))
    elif content_type.startswith("application/grpc"):
        assert answer.status == 200
        check_status(answer, content_type)
    elif answer.status == 200:
        assert content_type in ("application/proto", "application/json")
    elif content_type == "application/json":
        check_error(answer.error)
        assert Code(answer.error["code"]).http_status == answer.status
    else:
        assert (content_type, answer.status in (404, 405, 415, 501)) == ("text/plain; charset=utf-8", True)
    # Each of these tests uses handlers that do not fail: the request is to blame for what goes wrong.
    assert b"internal error" not in answer.body


def check_error(error: dict[str, Any] | None) -> None:
    if error is not None:
        Code(error["code"])
        assert set(error) <= {"code", "message", "details"}


def check_status(answer: Answer, content_type: str) -> None:
    body = answer.body
    if content_type.startswith("application/grpc-web-text"):
        body = b"".join(b64decode(chunk, validate=True) for chunk in answer.chunks)
    envelopes = split_envelopes(body)
    if content_type.startswith("application/grpc-web"):
        assert answer.trailers is None
        flags, payload = envelopes.pop()
        assert flags == WEB_END
        trailers = Headers(trailer_lines(payload))
    else:
        assert answer.trailers is not None
        trailers = answer.trailers
    assert {flags for flags, _ in envelopes} <= {0, 1}
    assert 0 <= int(trailers["grpc-status"]) <= 16
    assert set(trailers) <= {"grpc-status", "grpc-message", "grpc-status-details-bin"}
    assert trailers.get("grpc-message") != "internal error"


def random_name(random: Random) -> str:
    return random.choice(list(METHODS.values())).path


def random_body(random: Random) -> bytes:
    message = random.choice(
        [b"", proto("a"), b'"a"', b"{}", b'{"a":1}', random.randbytes(random.randrange(20))]
    )
    if not random.randrange(3):
        message = gzip.compress(message)
    if random.randrange(2):
        message = envelope(message, random.choice([0, 0, 0, 1, 2, random.randrange(256)]))
    if not random.randrange(4):
        message += message
    if message and not random.randrange(4):
        damaged = bytearray(message)
        damaged[random.randrange(len(damaged))] = random.randrange(256)
        message = bytes(damaged[: random.randrange(len(damaged) + 1)])
    return message


def random_text(random: Random, body: bytes) -> bytes:
    """Return a body as base64 in pieces, most often undamaged."""
    cut = random.randrange(len(body) + 1)
    text = b64encode(body[:cut]) + b64encode(body[cut:])
    if text and not random.randrange(4):
        damaged = bytearray(text)
        damaged[random.randrange(len(damaged))] = random.randrange(256)
        text = bytes(damaged[: random.randrange(len(damaged) + 1)])
    return text


def random_headers(random: Random) -> dict[str, str]:
    headers = {"content-type": f"application/{random.choice(FORMS)}"}
    values = [
        "gzip",
        "identity",
        "",
        "1",
        "1000",
        "1000m",
        "br",
        "gzip;q=0",
        ",",
        "\xff\x00",
        "9" * 12,
        "application/json",
    ]
    names = ["content-encoding", "accept-encoding", "connect-content-encoding", "connect-accept-encoding"]
    names += ["connect-timeout-ms", "connect-protocol-version", "content-type", "host", "x"]
    names += ["grpc-encoding", "grpc-accept-encoding", "grpc-timeout", "grpc-status", "x-grpc-web"]
    for name in random.sample(names, random.randrange(3)):
        headers[name] = random.choice([*values, "".join(map(chr, random.choices(range(256), k=5)))])
    return headers


def test_random_posts_are_answered(service: Service) -> None:
    random = Random(12)
    for _ in range(1000):
        data = random_body(random)
        if not random.randrange(3):
            data = random_text(random, data)
        cut = random.randrange(len(data) + 1)
        headers = Headers.from_wire(random_headers(random).items())
        has_trailers = random.random() < 0.5
        request = Request(
            "POST", random_name(random), headers, [data[:cut], data[cut:]], accepts_trailers=has_trailers
        )

        check_well_formed(Answer(service(request)))


def test_random_bodies_in_a_known_form_are_answered(service: Service) -> None:
    random = Random(13)
    for _ in range(1000):
        method = random.choice(list(METHODS.values()))
        prefix = "" if method.kind is StreamKind.UNARY else "connect+"
        content_type = f"application/{prefix}{random.choice(['proto', 'json'])}"
        request = Request("POST", method.path, Headers({"content-type": content_type}), [random_body(random)])
        answer = Answer(service(request))

        check_well_formed(answer)
        assert answer.status != 415


@pytest.mark.parametrize("form", GRPC_FORMS)
def test_random_bodies_in_a_form_of_grpc_are_answered(service: Service, form: str) -> None:
    random = Random(form)
    for _ in range(300):
        method = random.choice(list(METHODS.values()))
        body = random_body(random)
        if form.startswith("grpc-web-text"):
            body = random_text(random, body)
        headers = Headers({"content-type": f"application/{form}"})
        for name in ("grpc-encoding", "grpc-accept-encoding"):
            if random.randrange(2):
                headers[name] = "gzip"
        cut = random.randrange(len(body) + 1)
        request = Request("POST", method.path, headers, [body[:cut], body[cut:]], accepts_trailers=True)
        answer = Answer(service(request))

        check_well_formed(answer)
        assert answer.headers["content-type"] == f"application/{form}"


def test_random_gets_are_answered(service: Service) -> None:
    random = Random(14)
    names = ["connect", "base64", "encoding", "compression", "message", "x"]
    values = [
        "v1",
        "1",
        "0",
        "proto",
        "json",
        "gzip",
        "identity",
        "",
        "%7B%7D",
        "%ff",
        "%",
        "+",
        "é",
        "€",
        "=",
        ";",
    ]
    for _ in range(1000):
        message = urlsafe_b64encode(random_body(random)).decode()
        pairs = [("encoding", random.choice(["proto", "json"])), ("message", random.choice([message, "{}"]))]
        pairs += [
            (random.choice(names), random.choice([*values, message])) for _ in range(random.randrange(4))
        ]
        random.shuffle(pairs)
        query = "&".join(f"{name}={value}" for name, value in pairs)
        headers = Headers.from_wire(random_headers(random).items())

        check_well_formed(Answer(service(Request("GET", METHODS["echo"].path, headers, query=query))))


def test_random_lines_of_request_are_answered(service: Service) -> None:
    random = Random(15)
    pieces = ["/", "unit.v1.UnitService", "Echo", "Chat", "", ".", "..", "%2F", "\x00", "é", "\ud800", "?"]
    for _ in range(500):
        http_method = random.choice(["POST", "GET", "HEAD", "OPTIONS", "", "get", "\x00", "\ud800"])
        path = random.choice([random_name(random), "".join(random.choices(pieces, k=random.randrange(5)))])
        headers = Headers.from_wire(random_headers(random).items())

        check_well_formed(Answer(service(Request(http_method, path, headers))))


@pytest.mark.parametrize("form", FORMS)
def test_deeply_nested_json_is_answered(service: Service, form: str) -> None:
    for method in METHODS.values():
        for piece in (b"[", b'{"a":', b'{"fields":[', b'{"@type":'):
            data = piece * 300
            body = data if form in ("proto", "json") else envelope(data)
            if form.startswith("grpc-web-text"):
                body = b64encode(body)
            headers = Headers({"content-type": f"application/{form}"})
            request = Request("POST", method.path, headers, [body], accepts_trailers=True)

            check_well_formed(Answer(service(request)))


def test_errors_of_random_requests_are_one_line_of_json(service: Service) -> None:
    random = Random(16)
    for _ in range(500):
        request = Request("POST", METHODS["echo"].path, Headers({"content-type": "application/json"}))
        request.body = [random.randbytes(random.randrange(1, 20))]
        answer = Answer(service(request))

        assert answer.status in (200, 400)
        json.loads(answer.body)
        assert b"\n" not in answer.body
