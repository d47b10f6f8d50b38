"""Whatever a request holds, the answer is a well-formed response, and no exception leaves."""

from __future__ import annotations

import gzip
import json
from base64 import urlsafe_b64encode
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
from tests.support import BIDI, END, Answer, envelope, join, proto

SERVICE = "unit.v1.UnitService"
METHODS: dict[str, Method[Any, Any]] = {
    "echo": Method(SERVICE, "Echo", Type, Type, idempotency=IdempotencyLevel.NO_SIDE_EFFECTS),
    "struct": Method(SERVICE, "Struct", Struct, Struct),
    "join": Method(SERVICE, "Join", StringValue, StringValue, StreamKind.CLIENT_STREAM),
    "twice": Method(SERVICE, "Twice", StringValue, StringValue, StreamKind.SERVER_STREAM),
    "chat": BIDI,
}
FORMS = ["proto", "json", "connect+proto", "connect+json"]


@pytest.fixture
def service() -> Service:
    handlers = SimpleNamespace(
        echo=lambda request, ctx: request,
        struct=lambda request, ctx: request,
        join=join,
        twice=lambda request, ctx: [request, request],
    )
    return Service(handlers, METHODS, read_max_bytes=2000, compressions=["gzip"])


def check_well_formed(answer: Answer) -> None:
    Headers(answer.headers)  # raises for what HTTP could not carry
    content_type = answer.headers["content-type"]
    if content_type.startswith("application/connect+"):
        assert answer.status == 200
        flags = [flags for flags, _ in answer.envelopes]
        assert flags[-1:] == [END]
        assert set(flags[:-1]) <= {0, 1}
        check_error(answer.end.get("error"))
    elif answer.status == 200:
        assert content_type in ("application/proto", "application/json")
    elif content_type == "application/json":
        check_error(answer.error)
        assert Code(answer.error["code"]).http_status == answer.status
    else:
        assert (content_type, answer.status in (404, 405, 415)) == ("text/plain; charset=utf-8", True)
    # Each of these tests uses handlers that do not fail: the request is to blame for what goes wrong.
    assert b"internal error" not in answer.body


def check_error(error: dict[str, Any] | None) -> None:
    if error is not None:
        Code(error["code"])
        assert set(error) <= {"code", "message", "details"}


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


def random_headers(random: Random) -> dict[str, str]:
    headers = {"content-type": f"application/{random.choice(FORMS)}"}
    values = [
        "gzip",
        "identity",
        "",
        "1",
        "1000",
        "br",
        "gzip;q=0",
        ",",
        "\xff\x00",
        "9" * 12,
        "application/json",
    ]
    names = ["content-encoding", "accept-encoding", "connect-content-encoding", "connect-accept-encoding"]
    names += ["connect-timeout-ms", "connect-protocol-version", "content-type", "host", "x"]
    for name in random.sample(names, random.randrange(3)):
        headers[name] = random.choice([*values, "".join(map(chr, random.choices(range(256), k=5)))])
    return headers


def test_random_posts_are_answered(service: Service) -> None:
    random = Random(12)
    for _ in range(1000):
        data = random_body(random)
        cut = random.randrange(len(data) + 1)
        headers = Headers.from_wire(random_headers(random).items())
        request = Request("POST", random_name(random), headers, [data[:cut], data[cut:]])

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
            body = envelope(data) if form.startswith("connect+") else data
            headers = Headers({"content-type": f"application/{form}"})

            check_well_formed(Answer(service(Request("POST", method.path, headers, [body]))))


def test_errors_of_random_requests_are_one_line_of_json(service: Service) -> None:
    random = Random(16)
    for _ in range(500):
        request = Request("POST", METHODS["echo"].path, Headers({"content-type": "application/json"}))
        request.body = [random.randbytes(random.randrange(1, 20))]
        answer = Answer(service(request))

        assert answer.status in (200, 400)
        json.loads(answer.body)
        assert b"\n" not in answer.body
