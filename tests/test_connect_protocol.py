from __future__ import annotations

import json
from base64 import b64encode
from functools import partial
from random import Random
from typing import Any
from urllib.parse import parse_qsl

import pytest
from google.protobuf.duration_pb2 import Duration
from google.protobuf.struct_pb2 import Value
from google.protobuf.wrappers_pb2 import StringValue

from connect_sync import Code, ConnectError, ErrorDetail, Headers, ProtocolType
from connect_sync.codec import JSON, PROTO, Codec
from connect_sync.compression import GZIP, Compression, Compressions
from connect_sync.protocols.connect import (
    STREAM,
    UNARY,
    decode_error,
    decode_get_query,
    encode_error,
    encode_get_query,
    parse_get_query,
    split_trailers,
)
from connect_sync.protocols.protocol import ResponseEnd, WireProtocol, metadata_of
from tests.support import END, envelope, error_of


def decoded(status: int, body: bytes) -> ConnectError:
    error = decode_error(status, body)
    assert error is not None
    return error


NONE = Compressions(())
PROTOCOLS = pytest.mark.parametrize("protocol", [UNARY, STREAM], ids=["unary", "stream"])


@PROTOCOLS
def test_unary_calls_and_streams_are_of_connect(protocol: WireProtocol) -> None:
    assert protocol.type is ProtocolType.CONNECT


# The headers of a request


@PROTOCOLS
@pytest.mark.parametrize("value", [None, "", "1"])
def test_version_is_one_or_absent(protocol: WireProtocol, value: str | None) -> None:
    headers = Headers() if value is None else Headers({"connect-protocol-version": value})

    assert protocol.read_request(headers, NONE) == (None, None, None)


@PROTOCOLS
@pytest.mark.parametrize("require_version", [False, True])
@pytest.mark.parametrize("value", ["0", "2", "1.0", "v1", "1, 1"])
def test_other_versions_are_refused(protocol: WireProtocol, value: str, require_version: bool) -> None:
    with pytest.raises(ConnectError) as caught:
        protocol.read_request(Headers({"connect-protocol-version": value}), NONE, require_version)
    assert caught.value.code is Code.INVALID_ARGUMENT
    assert caught.value.message == f"connect-protocol-version must be '1', got {value!r}"


@PROTOCOLS
def test_version_that_is_required_is_read(protocol: WireProtocol) -> None:
    headers = Headers({"connect-protocol-version": "1"})

    assert protocol.read_request(headers, NONE, require_version=True) == (None, None, None)


@PROTOCOLS
@pytest.mark.parametrize("headers", [{}, {"connect-protocol-version": ""}], ids=["absent", "empty"])
def test_missing_version_is_refused_if_it_is_required(
    protocol: WireProtocol, headers: dict[str, str]
) -> None:
    with pytest.raises(ConnectError) as caught:
        protocol.read_request(Headers(headers), NONE, require_version=True)
    assert caught.value.code is Code.INVALID_ARGUMENT
    assert caught.value.message == "missing required header: connect-protocol-version must be '1'"


@PROTOCOLS
@pytest.mark.parametrize(("value", "timeout_ms"), [("1", 1), ("500", 500), ("9999999999", 9_999_999_999)])
def test_timeout_is_a_number_of_milliseconds(protocol: WireProtocol, value: str, timeout_ms: int) -> None:
    assert protocol.parse_timeout(value) == timeout_ms


@PROTOCOLS
def test_empty_timeout_counts_as_absent(protocol: WireProtocol) -> None:
    assert protocol.read_request(Headers({"connect-timeout-ms": ""}), NONE) == (None, None, None)


@PROTOCOLS
@pytest.mark.parametrize(
    "value", [" ", "-1", "+1", "1.5", "1e3", "10000000000", "1 ", "1, 2", "1_0", "0x1", "500ms", "²", "٣"]
)
def test_malformed_timeout_is_refused(protocol: WireProtocol, value: str) -> None:
    with pytest.raises(ConnectError, match="connect-timeout-ms must be a whole number") as caught:
        protocol.read_request(Headers.from_wire([("connect-timeout-ms", value)]), NONE)
    assert caught.value.code is Code.INVALID_ARGUMENT


@PROTOCOLS
@pytest.mark.parametrize(
    ("timeout_ms", "value"), [(1, "1"), (1500.9, "1500"), (0.2, "1"), (0, "1"), (9_999_999_999, "9999999999")]
)
def test_timeout_is_written_as_a_positive_whole_number(
    protocol: WireProtocol, timeout_ms: float, value: str
) -> None:
    headers = Headers()
    protocol.write_request(headers, timeout_ms)

    assert list(headers.multi_items()) == [("connect-protocol-version", "1"), ("connect-timeout-ms", value)]


@PROTOCOLS
def test_no_timeout_is_written_without_one(protocol: WireProtocol) -> None:
    headers = Headers()
    protocol.write_request(headers, None)

    assert list(headers.multi_items()) == [("connect-protocol-version", "1")]


@pytest.mark.parametrize(("protocol", "prefix"), [(UNARY, ""), (STREAM, "connect-")], ids=["unary", "stream"])
@pytest.mark.parametrize(
    ("encoding", "accept", "received", "accepted"),
    [
        (None, None, None, None),
        ("gzip", None, GZIP, GZIP),
        ("identity", None, None, None),
        (None, "gzip", None, GZIP),
        ("gzip", "identity", GZIP, None),
        ("gzip", "", GZIP, None),
        ("gzip", "br", GZIP, None),
        ("identity", "br, gzip;q=0.5", None, GZIP),
    ],
)
def test_answer_is_compressed_as_the_client_accepts_or_as_its_request_was(
    protocol: WireProtocol,
    prefix: str,
    encoding: str | None,
    accept: str | None,
    received: Compression | None,
    accepted: Compression | None,
) -> None:
    headers = Headers()
    if encoding is not None:
        headers[f"{prefix}content-encoding"] = encoding
    if accept is not None:
        headers[f"{prefix}accept-encoding"] = accept

    assert protocol.read_request(headers, Compressions([GZIP])) == (None, received, accepted)


@pytest.mark.parametrize("name", ["content-encoding", "accept-encoding"])
def test_compression_of_http_is_not_that_of_a_stream(name: str) -> None:
    headers = Headers({name: "gzip"})

    assert STREAM.read_request(headers, Compressions([GZIP])) == (None, None, None)


@pytest.mark.parametrize(
    "name",
    [
        "accept-encoding",
        "connection",
        "content-encoding",
        "content-length",
        "Content-Type",
        "expect",
        "keep-alive",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
        "connect-timeout-ms",
        "Connect-Anything",
        "grpc-timeout",
    ],
)
def test_header_that_frames_the_call_is_not_metadata(name: str) -> None:
    headers = Headers({name: "1", "mine": "2"})

    assert list(metadata_of(headers)) == ["mine"]
    assert len(headers) == 2


@pytest.mark.parametrize(
    "name", ["authorization", "connected", "x-connect-a", "content-language", "trailer-a", "a-bin"]
)
def test_other_headers_are_metadata(name: str) -> None:
    assert list(metadata_of(Headers({name: "1"}))) == [name]


# Trailing metadata of unary responses


def test_headers_are_split_by_the_prefix_of_trailers() -> None:
    headers = Headers(
        [("a", "1"), ("trailer-a", "2"), ("Trailer-B", "3"), ("trailer-b", "4"), ("trailer", "5")]
    )
    leading, trailing = split_trailers(headers)

    assert list(leading.multi_items()) == [("a", "1"), ("trailer", "5")]
    assert list(trailing.multi_items()) == [("a", "2"), ("b", "3"), ("b", "4")]


# Content types of responses


@pytest.mark.parametrize(
    ("protocol", "codec", "content_type"),
    [
        (UNARY, PROTO, "application/proto"),
        (UNARY, JSON, "application/json"),
        (UNARY, JSON, "application/json; charset=utf-8"),
        (UNARY, JSON, "Application/JSON;charset=UTF-8"),
        (STREAM, PROTO, "application/connect+proto"),
        (STREAM, JSON, "application/connect+json"),
    ],
)
def test_content_type_of_the_request_is_taken(
    protocol: WireProtocol, codec: Codec, content_type: str
) -> None:
    protocol.check_content_type(codec, content_type)


@pytest.mark.parametrize(
    ("protocol", "codec", "content_type", "code"),
    [
        (UNARY, PROTO, "application/json", Code.INTERNAL),
        (UNARY, JSON, "application/proto", Code.INTERNAL),
        (UNARY, PROTO, "application/connect+proto", Code.INTERNAL),
        (UNARY, PROTO, "image/jpeg", Code.UNKNOWN),
        (UNARY, PROTO, "text/html; charset=utf-8", Code.UNKNOWN),
        (UNARY, PROTO, "", Code.UNKNOWN),
        (STREAM, PROTO, "application/connect+json", Code.INTERNAL),
        (STREAM, PROTO, "application/proto", Code.UNKNOWN),
        (STREAM, PROTO, "application/json", Code.UNKNOWN),
    ],
)
def test_other_content_types_are_refused(
    protocol: WireProtocol, codec: Codec, content_type: str, code: Code
) -> None:
    with pytest.raises(ConnectError) as caught:
        protocol.check_content_type(codec, content_type)
    assert caught.value.code is code


@pytest.mark.parametrize(
    "content_type", ["application/json", "application/json; charset=utf-8", "APPLICATION/JSON"]
)
def test_json_may_be_an_error(content_type: str) -> None:
    assert UNARY.is_error_content_type(content_type)


@pytest.mark.parametrize("content_type", ["", "application/proto", "text/json", "application/problem+json"])
def test_other_types_are_not_errors(content_type: str) -> None:
    assert not UNARY.is_error_content_type(content_type)


# Errors as JSON


def test_error_is_written_with_code_message_and_details() -> None:
    error = ConnectError(Code.NOT_FOUND, "no such pet", [Duration(seconds=90)])

    assert json.loads(encode_error(error)) == {
        "code": "not_found",
        "message": "no such pet",
        "details": [{"type": "google.protobuf.Duration", "value": "CFo", "debug": "90s"}],
    }


def test_error_without_message_and_details_is_its_code() -> None:
    assert encode_error(ConnectError(Code.NOT_FOUND)) == b'{"code":"not_found"}'


def test_detail_of_an_unknown_type_is_written_without_debug() -> None:
    error = ConnectError(Code.ABORTED, details=[ErrorDetail("unheard.of.Message", b"\xfb\xff")])

    assert json.loads(encode_error(error))["details"] == [{"type": "unheard.of.Message", "value": "+/8"}]


@pytest.mark.parametrize(
    "detail",
    [
        ErrorDetail("google.protobuf.StringValue", b"\x0a\x05a"),
        ErrorDetail("google.protobuf.Duration", b"\x08\xff\xff\xff\xff\xff\xff\xff\xff\x7f"),
        ErrorDetail.pack(Value(number_value=float("nan"))),
    ],
    ids=["does not parse", "out of range", "not a number"],
)
def test_detail_that_has_no_json_is_written_without_debug(detail: ErrorDetail) -> None:
    written = json.loads(encode_error(ConnectError(Code.ABORTED, details=[detail])))

    assert written["details"] == [{"type": detail.type, "value": b64encode(detail.data).decode().rstrip("=")}]


@pytest.mark.parametrize("message", ["é", '"\\\n\x00', "\U0001f600", " " * 1000])
def test_message_of_an_error_comes_back(message: str) -> None:
    error = decoded(400, encode_error(ConnectError(Code.ABORTED, message)))

    assert (error.code, error.message) == (Code.ABORTED, message)


def test_message_with_an_unpaired_surrogate_is_written_as_utf_8() -> None:
    json.loads(encode_error(ConnectError(Code.ABORTED, "a\ud800b")).decode("utf-8"))


def test_details_of_an_error_come_back() -> None:
    details = (ErrorDetail("a.Message", b"\x00\xff\xfe"), ErrorDetail.pack(StringValue(value="a")))

    assert decoded(400, encode_error(ConnectError(Code.ABORTED, "", details))).details == details


@pytest.mark.parametrize("value", ["AP/+", "AP/+AA", "AP/+AA=="])
def test_value_of_a_detail_is_read_padded_or_not(value: str) -> None:
    body = json.dumps({"code": "aborted", "details": [{"type": "a.Message", "value": value}]}).encode()

    assert decoded(409, body).details[0].data.startswith(b"\x00\xff\xfe")


def test_type_of_a_detail_may_be_a_url() -> None:
    body = b'{"code":"aborted","details":[{"type":"type.googleapis.com/a.Message","value":""}]}'

    assert decoded(409, body).details == (ErrorDetail("a.Message", b""),)


def test_debug_of_a_detail_is_not_read() -> None:
    body = b'{"code":"aborted","details":[{"type":"a.Message","value":"YQ","debug":{"x":[1]}}]}'

    assert decoded(409, body).details == (ErrorDetail("a.Message", b"a"),)


@pytest.mark.parametrize(
    "detail",
    [
        None,
        1,
        "a",
        [],
        {},
        {"type": "a"},
        {"value": "YQ"},
        {"type": 1, "value": "YQ"},
        {"type": "a", "value": "*"},
        {"type": "a", "value": None},
        {"type": "a", "value": "\u00e9"},
    ],
)
def test_detail_that_cannot_be_read_hides_neither_the_error_nor_other_details(detail: Any) -> None:
    good = {"type": "a.Message", "value": "YQ"}
    body = json.dumps({"code": "aborted", "message": "m", "details": [good, detail, good]}).encode()
    error = decoded(409, body)

    assert (error.code, error.message) == (Code.ABORTED, "m")
    assert error.details == (ErrorDetail("a.Message", b"a"),) * 2


@pytest.mark.parametrize(
    "body",
    [
        {"code": "out_of_range", "message": "m", "unheardOf": [1]},
        {"code": "out_of_range", "message": "m", "details": None},
        {"code": "out_of_range", "message": "m", "details": {}},
        {"message": "m", "code": "out_of_range", "details": "a"},
    ],
)
def test_what_is_unknown_or_malformed_beside_the_code_is_ignored(body: dict[str, Any]) -> None:
    error = decoded(500, json.dumps(body).encode())

    assert (error.code, error.message, error.details) == (Code.OUT_OF_RANGE, "m", ())


@pytest.mark.parametrize("code", ["", "foobar", "NOT_FOUND"])
def test_error_of_an_unknown_code_has_that_of_the_http_status(code: Any) -> None:
    error = decoded(401, json.dumps({"code": code, "message": "oops"}).encode())

    assert (error.code, error.message) == (Code.UNAUTHENTICATED, "oops")


@pytest.mark.parametrize("body", [b'{"message": "oops"}', b'{"code": null, "message": "oops"}'])
def test_message_without_a_code_has_that_of_the_http_status(body: bytes) -> None:
    error = decoded(503, body)

    assert (error.code, error.message) == (Code.UNAVAILABLE, "oops")


@pytest.mark.parametrize("code", [5, True, ["not_found"], {}])
def test_object_whose_code_is_not_text_is_not_an_error_of_the_protocol(code: Any) -> None:
    assert decode_error(503, json.dumps({"code": code, "message": "oops"}).encode()) is None


@pytest.mark.parametrize("body", [b"{}", b'{"detail": "oops"}', b'{"message": {"text": "oops"}}'])
def test_object_with_neither_a_code_nor_a_message_is_not_an_error_of_the_protocol(body: bytes) -> None:
    assert decode_error(503, body) is None


@pytest.mark.parametrize("message", [None, 5, [], {}])
def test_message_that_is_not_text_is_left_out(message: Any) -> None:
    assert decoded(404, json.dumps({"code": "not_found", "message": message}).encode()).message == ""


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"null",
        b"[]",
        b'"not_found"',
        b"5",
        b"<html>",
        b'{"code":',
        b"\xff\xfe",
        b"[" * 100_000,
        b"9" * 5000,
    ],
    ids=range(10),
)
def test_body_that_is_not_an_object_is_not_an_error_of_the_protocol(body: bytes) -> None:
    assert decode_error(403, body) is None


def test_random_error_bodies_never_fail() -> None:
    random = Random(9)
    pieces = [
        '"code"',
        '"message"',
        '"details"',
        '"not_found"',
        "{",
        "}",
        "[",
        "]",
        ":",
        ",",
        "1",
        "null",
        '"type"',
    ]
    for _ in range(1500):
        body = "".join(random.choices(pieces, k=random.randrange(12)))

        assert isinstance(decode_error(404, body.encode()), ConnectError | None)


# The end of a stream


def test_end_of_a_stream_is_an_envelope_without_trailers() -> None:
    error = ConnectError(Code.ABORTED)

    assert STREAM.end_response(None, None) == ResponseEnd(envelope(b"{}", END), None)
    assert STREAM.end_response(error, None) == (envelope(b'{"error":{"code":"aborted"}}', END), None)
    assert STREAM.end_response(None, Headers({"a": "1"})) == (
        envelope(b'{"metadata":{"a":["1"]}}', END),
        None,
    )


def test_end_of_a_successful_stream_is_made_once() -> None:
    assert STREAM.end_response(None, Headers()) is STREAM.end_response(None, None)


def test_end_of_a_successful_stream_is_an_empty_object() -> None:
    assert STREAM.encode_end(None, None) == b"{}"


def test_empty_trailers_are_left_out() -> None:
    assert STREAM.encode_end(None, Headers()) == b"{}"


def test_trailers_are_lists_of_values() -> None:
    trailers = Headers([("a", "1"), ("a", "2"), ("b-bin", "YQ")])

    assert json.loads(STREAM.encode_end(None, trailers)) == {"metadata": {"a": ["1", "2"], "b-bin": ["YQ"]}}


@pytest.mark.parametrize("name", ["content-type", "Connect-A", "grpc-status", "trailer"])
def test_reserved_name_is_left_out_of_the_trailers_of_a_stream(name: str) -> None:
    trailers = Headers([(name, "mine"), ("a", "1")])

    assert json.loads(STREAM.encode_end(None, trailers)) == {"metadata": {"a": ["1"]}}
    assert list(trailers) == [name.lower(), "a"]


def test_trailers_of_reserved_names_alone_are_left_out() -> None:
    assert STREAM.encode_end(None, Headers({"content-type": "mine"})) == b"{}"


def test_error_and_trailers_end_a_stream_together() -> None:
    end = STREAM.encode_end(ConnectError(Code.ABORTED, "m"), Headers({"a": "1"}))

    assert json.loads(end) == {"error": {"code": "aborted", "message": "m"}, "metadata": {"a": ["1"]}}


def test_end_comes_back() -> None:
    trailers = Headers([("a", "1"), ("a", "2")])
    error, read = STREAM.decode_end(
        STREAM.encode_end(ConnectError(Code.ABORTED, "m", [StringValue()]), trailers)
    )

    assert error is not None
    assert (error.code, error.message, error.details) == (
        Code.ABORTED,
        "m",
        (ErrorDetail.pack(StringValue()),),
    )
    assert read == trailers


@pytest.mark.parametrize(
    "payload",
    [b"{}", b'{"error": null}', b'{"metadata": null}', b'{"code": "aborted", "message": "m"}', b'{"x": [1]}'],
)
def test_end_without_an_error_is_success(payload: bytes) -> None:
    error, trailers = STREAM.decode_end(payload)

    assert (error, len(trailers)) == (None, 0)


@pytest.mark.parametrize("code", [None, "foobar", 5, [], {}])
def test_error_of_an_unknown_code_at_the_end_is_unknown(code: Any) -> None:
    error, _ = STREAM.decode_end(json.dumps({"error": {"code": code, "message": "oops"}}).encode())

    assert error is not None
    assert (error.code, error.message) == (Code.UNKNOWN, "oops")


def test_names_of_trailers_are_read_in_any_case() -> None:
    _, trailers = STREAM.decode_end(b'{"metadata": {"Greet-Count": ["1"]}}')

    assert trailers["greet-count"] == "1"


def test_values_of_trailers_that_are_not_text_are_left_out() -> None:
    _, trailers = STREAM.decode_end(b'{"metadata": {"a": ["1", 2, null], "b": "3", "c": {}, "d": []}}')

    assert list(trailers.multi_items()) == [("a", "1")]


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"null",
        b"[]",
        b"5",
        b"{",
        b"\xff",
        b'{"error": 5}',
        b'{"error": []}',
        b'{"metadata": "a"}',
        b"[" * 100_000,
    ],
    ids=range(10),
)
def test_malformed_end_is_an_internal_error(payload: bytes) -> None:
    with pytest.raises(ConnectError) as caught:
        STREAM.decode_end(payload)
    assert caught.value.code is Code.INTERNAL


# The query of a GET


def test_query_of_proto_is_urlsafe_base64() -> None:
    assert encode_get_query(PROTO, None, b"\xfb\xff") == "connect=v1&base64=1&encoding=proto&message=-_8"


def test_query_of_json_is_percent_encoded() -> None:
    query = encode_get_query(JSON, None, '{"a":"é &="}'.encode())

    assert query == "connect=v1&encoding=json&message=%7B%22a%22%3A%22%C3%A9%20%26%3D%22%7D"


@pytest.mark.parametrize("codec", [PROTO, JSON], ids=["proto", "json"])
def test_query_of_a_compressed_message_is_base64(codec: Codec) -> None:
    query = encode_get_query(codec, GZIP, b"\x1f\x8b")

    assert query == f"connect=v1&base64=1&compression=gzip&encoding={codec.name}&message=H4s"


@pytest.mark.parametrize("codec", [PROTO, JSON], ids=["proto", "json"])
@pytest.mark.parametrize("compression", [None, GZIP], ids=["plain", "gzip"])
def test_any_message_comes_back_by_query(codec: Codec, compression: Compression | None) -> None:
    random = Random(4)
    for size in range(70):
        message = random.randbytes(size)
        parameters = parse_get_query(encode_get_query(codec, compression, message))

        assert parameters["encoding"] == codec.name
        assert decode_get_query(parameters, require_version=True) == (
            "" if compression is None else "gzip",
            message,
        )


def test_query_is_read_by_others() -> None:
    message = b'{"a":"+ %/\xc3\xa9"}'
    parameters = dict(parse_qsl(encode_get_query(JSON, None, message)))

    assert parameters["message"].encode() == message


@pytest.mark.parametrize(
    "query",
    [
        "connect=v1&encoding=json&message=a",
        "message=a&encoding=json&connect=v1",
        "encoding=json&message=a",
        "encoding=json&base64=0&compression=&message=a&connect=v1",
        "encoding=json&base64=&message=a",
        "encoding=json&base64=2&message=a",
        "encoding=json&base64=true&message=a",
        "connect=&encoding=json&message=a",
        "encoding=json&message=a&unheard=of&x",
        "encoding=json&message=%61",
    ],
)
def test_query_is_read_in_any_order_with_whatever_else_it_holds(query: str) -> None:
    parameters = parse_get_query(query)

    assert (parameters["encoding"], decode_get_query(parameters)) == ("json", ("", b"a"))


def test_first_of_a_repeated_parameter_counts() -> None:
    first = "connect=v1&base64=&compression=gzip&encoding=json&message=a"
    parameters = parse_get_query(f"{first}&message=*&encoding=proto&compression=br&base64=1&connect=v2")

    assert (parameters["encoding"], decode_get_query(parameters)) == ("json", ("gzip", b"a"))


def test_query_may_hold_an_empty_message() -> None:
    assert decode_get_query({"base64": "1", "message": ""}).message == b""


@pytest.mark.parametrize("value", ["-_8", "-_8=", "-_8%3D"])
def test_base64_of_a_query_is_read_padded_or_not(value: str) -> None:
    assert decode_get_query(parse_get_query(f"base64=1&message={value}")).message == b"\xfb\xff"


@pytest.mark.parametrize(
    ("query", "parameter"),
    [
        ("", "message"),
        ("encoding=json", "message"),
        ("connect=v2&encoding=json&message=a", "connect"),
        ("connect=1&encoding=json&message=a", "connect"),
        ("base64=1&encoding=proto&message=a", "message"),
        ("base64=1&encoding=proto&message=*", "message"),
        ("base64=1&encoding=proto&message=%2B%2F8", "message"),
        ("base64=1&encoding=proto&message=YQ%3DYQ", "message"),
        ("base64=1&encoding=proto&message=YQ%3D%3D%3D", "message"),
        ("base64=1&encoding=proto&message=YQ%20", "message"),
        ("encoding=json&message=\u20ac", "message"),
    ],
)
def test_malformed_query_names_the_parameter(query: str, parameter: str) -> None:
    with pytest.raises(ConnectError, match=f"the query parameter '{parameter}'") as caught:
        decode_get_query(parse_get_query(query))
    assert caught.value.code is Code.INVALID_ARGUMENT


@pytest.mark.parametrize("query", ["message=a", "connect=&message=a"])
def test_missing_version_of_a_query_is_refused_if_it_is_required(query: str) -> None:
    with pytest.raises(ConnectError) as caught:
        decode_get_query(parse_get_query(query), require_version=True)
    assert caught.value.code is Code.INVALID_ARGUMENT
    assert caught.value.message == "the query parameter 'connect' is missing: it must be 'v1'"


def test_random_queries_are_read_or_refused() -> None:
    random = Random(10)
    pieces = [
        "connect",
        "v1",
        "base64",
        "=",
        "=",
        "&",
        "&",
        "1",
        "encoding",
        "message",
        "%",
        "%ff",
        "+",
        ";",
        "é",
        "€",
    ]
    for _ in range(1500):
        query = "".join(random.choices(pieces, k=random.randrange(20)))
        error = error_of(partial(decode_get_query, parse_get_query(query)))

        assert error is None or error.code is Code.INVALID_ARGUMENT
