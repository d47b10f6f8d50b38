"""How a response of gRPC-Web ends: by a last envelope of lines, or by its headers alone."""

from __future__ import annotations

from base64 import b64encode
from configparser import ConfigParser
from functools import partial
from pathlib import Path
from random import Random

import pytest

from connect_sync import Code, ConnectError, ErrorDetail, Headers
from connect_sync.protocols.grpc_web import GRPC_WEB, GRPC_WEB_TEXT, GrpcWeb
from tests.support import envelope, error_of, rpc_status, trailer_lines

ROOT = Path(__file__).resolve().parent.parent

PROTOCOLS = pytest.mark.parametrize(
    "protocol", [GRPC_WEB, GRPC_WEB_TEXT], ids=lambda protocol: protocol.content_type
)


@PROTOCOLS
def test_request_has_the_mark_of_the_protocol(protocol: GrpcWeb) -> None:
    headers = Headers()
    protocol.write_request(headers, 1500)

    assert headers.get_all("x-grpc-web") == ["1"]
    assert headers["grpc-timeout"] == "1500m"


def test_mark_of_a_caller_is_replaced() -> None:
    headers = Headers([("x-grpc-web", "2"), ("X-Grpc-Web", "3")])
    GRPC_WEB.write_request(headers, None)

    assert headers.get_all("x-grpc-web") == ["1"]


def test_request_names_this_library_and_its_version() -> None:
    setup = ConfigParser()
    setup.read(ROOT / "setup.cfg")
    headers = Headers()
    GRPC_WEB.write_request(headers, None)

    assert headers["x-user-agent"] == f"grpc-python-connect-sync/{setup['metadata']['version']}"


def test_user_agent_of_a_caller_is_kept() -> None:
    headers = Headers([("X-User-Agent", "mine/1"), ("x-user-agent", "yours/2")])
    GRPC_WEB.write_request(headers, None)

    assert headers.get_all("x-user-agent") == ["mine/1", "yours/2"]


# The end is written


@PROTOCOLS
def test_end_is_an_envelope_with_the_highest_flag(protocol: GrpcWeb) -> None:
    success = protocol.end_response(None, None)

    assert success == (envelope(b"grpc-status: 0\r\n", 0x80), None)
    assert protocol.end_response(None, Headers()) is success
    assert protocol.end_response(ConnectError(Code.ABORTED), None) == (
        envelope(b"grpc-status: 10\r\n", 0x80),
        None,
    )


def test_end_of_success_is_a_line() -> None:
    assert GRPC_WEB.encode_end(None, None) == b"grpc-status: 0\r\n"


def test_empty_metadata_has_no_lines() -> None:
    assert GRPC_WEB.encode_end(None, Headers()) == b"grpc-status: 0\r\n"


def test_end_of_an_error_has_its_status_message_and_details() -> None:
    error = ConnectError(Code.NOT_FOUND, "caf\u00e9\n", [ErrorDetail("a.B", b"\xff")])
    details = b64encode(rpc_status(5, "caf\u00e9\n", ("type.googleapis.com/a.B", b"\xff"))).decode()

    assert trailer_lines(GRPC_WEB.encode_end(error, None)) == [
        ("grpc-status", "5"),
        ("grpc-message", "caf%C3%A9%0A"),
        ("grpc-status-details-bin", details.rstrip("=")),
    ]


def test_metadata_has_a_line_a_value_with_its_name_in_lower_case() -> None:
    metadata = Headers([("Greet-Count", "1"), ("greet-count", "2"), ("a-bin", "AP8"), ("b", "")])
    lines = trailer_lines(GRPC_WEB.encode_end(None, metadata))

    assert lines == [
        ("greet-count", "1"),
        ("greet-count", "2"),
        ("a-bin", "AP8"),
        ("b", ""),
        ("grpc-status", "0"),
    ]


# The end is read


@pytest.mark.parametrize(
    "payload",
    [
        b"grpc-status: 0\r\ngreet-count: 1\r\n",
        b"grpc-status: 0\ngreet-count: 1\n",
        b"grpc-status: 0\r\ngreet-count: 1",
        b"grpc-status:0\r\ngreet-count:1\r\n",
        b"Grpc-Status: 0\r\nGREET-COUNT: 1\r\n",
        b"greet-count: 1\r\ngrpc-status: 0\r\n",
        b" grpc-status : \t0 \r\n\tgreet-count :  1  \r\n",
        b"\r\ngrpc-status: 0\r\n\r\n \r\ngreet-count: 1\r\n\r\n",
    ],
    ids=[
        "as written",
        "line feeds",
        "no last line end",
        "no spaces",
        "case",
        "order",
        "spaces",
        "empty lines",
    ],
)
def test_end_is_read_however_it_is_spelt(payload: bytes) -> None:
    error, metadata = GRPC_WEB.decode_end(payload)

    assert error is None
    assert list(metadata.multi_items()) == [("greet-count", "1")]


def test_end_with_an_error_is_read() -> None:
    details = b64encode(rpc_status(5, "caf\u00e9", ("a.B", b"\xff")))
    payload = b"grpc-status: 5\r\ngrpc-message: caf%C3%A9\r\ngrpc-status-details-bin: " + details
    error, _ = GRPC_WEB.decode_end(payload)

    assert error is not None
    assert (error.code, error.message) == (Code.NOT_FOUND, "caf\u00e9")
    assert error.details == (ErrorDetail("a.B", b"\xff"),)


def test_message_may_hold_colons() -> None:
    error, _ = GRPC_WEB.decode_end(b"grpc-status: 5\r\ngrpc-message: a: b:c\r\n")

    assert error is not None
    assert error.message == "a: b:c"


def test_values_of_metadata_are_kept_apart() -> None:
    _, metadata = GRPC_WEB.decode_end(b"a: 1\r\ngrpc-status: 0\r\na: 2\r\nb:\r\n")

    assert (metadata.get_all("a"), metadata.get_all("b")) == (["1", "2"], [""])


@pytest.mark.parametrize(
    "payload", [b"grpc-status", b"grpc-status: 0\r\nx\r\n", b"{}", b"\xff", b"grpc-status: 0\r\n folded\r\n"]
)
def test_line_without_a_colon_is_an_internal_error(payload: bytes) -> None:
    with pytest.raises(ConnectError, match="malformed line in the response's trailers") as caught:
        GRPC_WEB.decode_end(payload)
    assert caught.value.code is Code.INTERNAL


@pytest.mark.parametrize("payload", [b"", b"\r\n", b"a: 1\r\n", b": 0\r\n", b"grpc-message: m\r\n"])
def test_end_without_a_status_is_an_unknown_error(payload: bytes) -> None:
    error, _ = GRPC_WEB.decode_end(payload)

    assert error is not None
    assert error.code is Code.UNKNOWN
    assert error.message.startswith("missing grpc-status")


@pytest.mark.parametrize(
    "error",
    [
        None,
        ConnectError(Code.ABORTED),
        ConnectError(Code.ABORTED, " % \r\n\u00e9 ", [ErrorDetail("a.B", b"")]),
    ],
    ids=["success", "code", "message and details"],
)
def test_end_comes_back(error: ConnectError | None) -> None:
    metadata = Headers([("a", "1"), ("a", "2, 3"), ("b-bin", "AP8")])
    read, read_metadata = GRPC_WEB.decode_end(GRPC_WEB.encode_end(error, metadata))

    assert list(read_metadata.multi_items()) == list(metadata.multi_items())
    if error is None:
        assert read is None
    else:
        assert read is not None
        assert (read.code, read.message, read.details) == (error.code, error.message, error.details)


def test_random_ends_are_read_or_internal_errors() -> None:
    random = Random(23)
    pieces = [
        b"grpc-status",
        b"grpc-message",
        b":",
        b":",
        b" ",
        b"\r\n",
        b"\n",
        b"\r",
        b"0",
        b"5",
        b"%f",
        b"\xe9",
    ]
    for _ in range(1500):
        payload = b"".join(random.choices(pieces, k=random.randrange(15)))
        raised = error_of(partial(GRPC_WEB.decode_end, payload))

        assert raised is None or raised.code is Code.INTERNAL


# A response without a body


def test_headers_without_a_status_are_not_an_end() -> None:
    assert GRPC_WEB.trailers_only_end(Headers({"a": "1", "grpc-message": "m"})) is None


def test_status_among_the_headers_is_the_end() -> None:
    end = GRPC_WEB.trailers_only_end(Headers({"grpc-status": "5", "grpc-message": "no%20such pet"}))

    assert end is not None
    error, _ = end
    assert error is not None
    assert (error.code, error.message) == (Code.NOT_FOUND, "no such pet")


def test_headers_that_are_metadata_are_the_trailing_metadata_too() -> None:
    headers = Headers(
        [
            ("content-type", "application/grpc-web+proto"),
            ("content-length", "0"),
            ("grpc-encoding", "gzip"),
            ("grpc-status", "0"),
            ("a", "1"),
            ("a", "2"),
        ]
    )
    end = GRPC_WEB.trailers_only_end(headers)

    assert end is not None
    error, metadata = end
    assert error is None
    assert list(metadata.multi_items()) == [("a", "1"), ("a", "2")]


def test_headers_in_which_the_end_is_found_stay_as_they_were() -> None:
    headers = Headers({"content-type": "application/grpc-web", "grpc-status": "0", "a": "1"})
    GRPC_WEB.trailers_only_end(headers)

    assert list(headers) == ["content-type", "grpc-status", "a"]
