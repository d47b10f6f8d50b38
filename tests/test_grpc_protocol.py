"""What gRPC and gRPC-Web share: content types, the headers of requests, and the status that ends a call."""

from __future__ import annotations

import subprocess
import sys
from base64 import b64decode, b64encode
from random import Random

import pytest
from google.protobuf.wrappers_pb2 import StringValue

from connect_sync import Code, ConnectError, ErrorDetail, Headers, ProtocolType
from connect_sync.codec import JSON, PROTO, Codec
from connect_sync.compression import GZIP, Compression, Compressions
from connect_sync.protocols.grpc import GRPC, GrpcFamily, decode_status, encode_status
from connect_sync.protocols.grpc_web import GRPC_WEB, GRPC_WEB_TEXT
from tests.support import rpc_status

NONE = Compressions(())
FAMILY = pytest.mark.parametrize(
    "protocol", [GRPC, GRPC_WEB, GRPC_WEB_TEXT], ids=lambda protocol: protocol.content_type
)


@pytest.mark.parametrize(
    ("protocol", "protocol_type"),
    [
        (GRPC, ProtocolType.GRPC),
        (GRPC_WEB, ProtocolType.GRPC_WEB),
        (GRPC_WEB_TEXT, ProtocolType.GRPC_WEB),
    ],
)
def test_protocol_has_its_type(protocol: GrpcFamily, protocol_type: ProtocolType) -> None:
    assert protocol.type is protocol_type


# Content types


@FAMILY
def test_content_type_of_the_proto_format_is_named_or_left_out(protocol: GrpcFamily) -> None:
    name = protocol.content_type

    assert protocol.content_types(PROTO) == (f"{name}+proto", name)


@FAMILY
def test_content_type_of_json_is_named(protocol: GrpcFamily) -> None:
    assert protocol.content_types(JSON) == (f"{protocol.content_type}+json",)


@pytest.mark.parametrize(
    ("protocol", "name"),
    [
        (GRPC, "application/grpc"),
        (GRPC_WEB, "application/grpc-web"),
        (GRPC_WEB_TEXT, "application/grpc-web-text"),
    ],
)
def test_each_protocol_has_its_content_type(protocol: GrpcFamily, name: str) -> None:
    assert protocol.content_type == name


@pytest.mark.parametrize(
    ("codec", "content_type"),
    [
        (PROTO, "application/grpc-web+proto"),
        (PROTO, "application/grpc-web"),
        (PROTO, "Application/gRPC-Web"),
        (PROTO, "application/grpc-web+proto; charset=utf-8"),
        (JSON, "application/grpc-web+json"),
    ],
)
def test_response_of_the_codec_of_its_request_is_taken(codec: Codec, content_type: str) -> None:
    GRPC_WEB.check_content_type(codec, content_type)


@pytest.mark.parametrize(
    ("codec", "content_type", "code"),
    [
        (PROTO, "application/grpc-web+json", Code.INTERNAL),
        (PROTO, "application/grpc-web+thrift", Code.INTERNAL),
        (JSON, "application/grpc-web+proto", Code.INTERNAL),
        (JSON, "application/grpc-web", Code.INTERNAL),
        (PROTO, "application/grpc-web-text+proto", Code.UNKNOWN),
        (PROTO, "application/grpc-web-text", Code.UNKNOWN),
        (PROTO, "application/grpc+proto", Code.UNKNOWN),
        (PROTO, "application/grpc", Code.UNKNOWN),
        (PROTO, "application/connect+proto", Code.UNKNOWN),
        (PROTO, "application/proto", Code.UNKNOWN),
        (PROTO, "text/html", Code.UNKNOWN),
        (PROTO, "", Code.UNKNOWN),
    ],
)
def test_response_of_another_content_type_is_refused(codec: Codec, content_type: str, code: Code) -> None:
    with pytest.raises(ConnectError) as caught:
        GRPC_WEB.check_content_type(codec, content_type)
    assert caught.value.code is code


@FAMILY
@pytest.mark.parametrize("content_type", ["application/json", "application/grpc-web+json", "text/plain", ""])
def test_no_body_of_another_status_holds_an_error(protocol: GrpcFamily, content_type: str) -> None:
    assert not protocol.is_error_content_type(content_type)


# The timeout


@FAMILY
@pytest.mark.parametrize(
    ("value", "timeout_ms"),
    [
        ("1H", 3_600_000),
        ("1M", 60_000),
        ("1S", 1_000),
        ("1m", 1),
        ("1u", 0.001),
        ("1n", 0.000001),
        ("0m", 0),
        ("250000u", 250),
        ("00000010S", 10_000),
        ("99999999n", 99.999999),
        ("99999999m", 99_999_999),
        ("99999999H", 359_999_996_400_000),
    ],
)
def test_timeout_is_a_number_and_its_unit(protocol: GrpcFamily, value: str, timeout_ms: float) -> None:
    assert protocol.parse_timeout(value) == pytest.approx(timeout_ms)


@FAMILY
@pytest.mark.parametrize("headers", [{}, {"grpc-timeout": ""}], ids=["absent", "empty"])
def test_timeout_may_be_absent_or_empty(protocol: GrpcFamily, headers: dict[str, str]) -> None:
    assert protocol.read_request(Headers(headers), NONE) == (None, None, None)


@FAMILY
@pytest.mark.parametrize(
    "value",
    [
        *(" ", "1", "m", "-1m", "+1m", "1.5S", "1e3m", "1_0m", "0x1m", "1 m", " 1m", "1m ", "1m\n"),
        *("100000000m", "000000001m", "1s", "1h", "1ms", "1U", "1N", "1d", "m1", "1m, 2m", "1mm"),
        *("\u00b2m", "\u0663m"),
    ],
)
def test_malformed_timeout_is_refused(protocol: GrpcFamily, value: str) -> None:
    with pytest.raises(ConnectError, match="grpc-timeout must be at most 8 digits and one of") as caught:
        protocol.read_request(Headers.from_wire([("grpc-timeout", value)]), NONE)
    assert caught.value.code is Code.INVALID_ARGUMENT


@FAMILY
@pytest.mark.parametrize("name", ["connect-timeout-ms", "connect-protocol-version"])
def test_header_of_connect_is_not_read_by_grpc(protocol: GrpcFamily, name: str) -> None:
    assert protocol.read_request(Headers({name: "x"}), NONE) == (None, None, None)


@FAMILY
def test_protocol_without_a_version_requires_none(protocol: GrpcFamily) -> None:
    assert protocol.read_request(Headers(), NONE, require_version=True) == (None, None, None)


@FAMILY
@pytest.mark.parametrize(
    ("timeout_ms", "value"),
    [
        (0, "1m"),
        (0.2, "1m"),
        (1, "1m"),
        (1500.9, "1500m"),
        (99_999_999, "99999999m"),
        (99_999_999.9, "99999999m"),
        (100_000_000, "100000S"),
        (100_000_999, "100000S"),
        (100_001_000, "100001S"),
        (9_999_999_999, "9999999S"),
    ],
)
def test_timeout_is_written_in_milliseconds_as_long_as_they_fit(
    protocol: GrpcFamily, timeout_ms: float, value: str
) -> None:
    headers = Headers()
    protocol.write_request(headers, timeout_ms)

    assert headers.get_all("grpc-timeout") == [value]


@FAMILY
def test_no_timeout_is_written_without_one(protocol: GrpcFamily) -> None:
    headers = Headers()
    protocol.write_request(headers, None)

    assert "grpc-timeout" not in headers


@FAMILY
def test_any_timeout_comes_back_as_no_longer_one(protocol: GrpcFamily) -> None:
    random = Random(20)
    for _ in range(300):
        timeout_ms = random.randrange(1, 10 ** random.randrange(1, 11))
        headers = Headers()
        protocol.write_request(headers, timeout_ms)
        read = protocol.parse_timeout(headers["grpc-timeout"])

        assert timeout_ms - 1000 < read <= timeout_ms


# The compression


@FAMILY
@pytest.mark.parametrize(
    ("encoding", "accept", "received", "accepted"),
    [
        (None, None, None, None),
        ("gzip", None, GZIP, GZIP),
        ("identity", None, None, None),
        (None, "gzip", None, GZIP),
        ("gzip", "identity", GZIP, None),
        ("gzip", "", GZIP, None),
        ("identity", "br,gzip", None, GZIP),
        (None, "identity, deflate, gzip", None, GZIP),
        ("gzip", "identity, deflate, gzip", GZIP, GZIP),
    ],
)
def test_answer_is_compressed_as_the_client_accepts_or_as_its_request_was(
    protocol: GrpcFamily,
    encoding: str | None,
    accept: str | None,
    received: Compression | None,
    accepted: Compression | None,
) -> None:
    headers = Headers({"content-encoding": "br", "accept-encoding": "gzip", "connect-content-encoding": "br"})
    if encoding is not None:
        headers["grpc-encoding"] = encoding
    if accept is not None:
        headers["grpc-accept-encoding"] = accept

    assert protocol.read_request(headers, Compressions([GZIP])) == (None, received, accepted)


# The status is written


def test_end_of_grpc_is_its_trailers() -> None:
    metadata = Headers([("a", "1"), ("a", "2")])
    data, trailers = GRPC.end_response(ConnectError(Code.ABORTED, "m"), metadata)

    assert (data, trailers) == (b"", encode_status(ConnectError(Code.ABORTED, "m"), metadata))
    assert GRPC.end_response(None, None) == (b"", Headers({"grpc-status": "0"}))


def test_status_of_success_is_zero_and_nothing_else() -> None:
    assert list(encode_status(None, None).multi_items()) == [("grpc-status", "0")]


@pytest.mark.parametrize("code", Code, ids=lambda code: code.value)
def test_status_of_an_error_is_the_number_of_its_code(code: Code) -> None:
    assert list(encode_status(ConnectError(code), None).multi_items()) == [("grpc-status", str(code.number))]


@pytest.mark.parametrize(
    ("message", "written"),
    [
        ("no such pet", "no such pet"),
        ("\u00e9", "%C3%A9"),
        ("\U0001f600", "%F0%9F%98%80"),
        ("100%", "100%25"),
        ("%41", "%2541"),
        ("a\r\nb\t\x00\x1f\x7f", "a%0D%0Ab%09%00%1F%7F"),
        ("a\ud800b", "a?b"),
        (" !\"#$&'()*+,-./09:;<=>?@AZ[\\]^_`az{|}~", "%20!\"#$&'()*+,-./09:;<=>?@AZ[\\]^_`az{|}~"),
        # HTTP does not keep the spaces around a value.
        ("  a b  ", "%20%20a b%20%20"),
        (" ", "%20"),
    ],
)
def test_message_is_percent_encoded(message: str, written: str) -> None:
    assert encode_status(ConnectError(Code.ABORTED, message), None)["grpc-message"] == written


def test_details_are_unpadded_base64_of_a_status_of_their_own() -> None:
    error = ConnectError(Code.NOT_FOUND, "\u00e9", [StringValue(value="a"), ErrorDetail("a.B", b"\x00\xff")])
    details = (
        ("type.googleapis.com/google.protobuf.StringValue", b"\x0a\x01a"),
        (
            "type.googleapis.com/a.B",
            b"\x00\xff",
        ),
    )
    written = encode_status(error, None)["grpc-status-details-bin"]

    assert written == b64encode(rpc_status(5, "\u00e9", *details)).decode().rstrip("=")


def test_message_with_a_lone_surrogate_is_written_beside_details() -> None:
    error = ConnectError(Code.NOT_FOUND, "a\ud800b", [ErrorDetail("a.B", b"")])
    written = encode_status(error, None)["grpc-status-details-bin"]

    assert b64decode(written + "==") == rpc_status(5, "a?b", ("type.googleapis.com/a.B", b""))


@pytest.mark.parametrize("error", [None, ConnectError(Code.ABORTED, "m")], ids=["success", "error"])
def test_trailing_metadata_is_written_with_the_status(error: ConnectError | None) -> None:
    metadata = Headers([("a", "1"), ("a", "2"), ("b-bin", "AP8")])
    status = encode_status(error, metadata)

    assert (status.get_all("a"), status.get_all("b-bin")) == (["1", "2"], ["AP8"])
    assert status["grpc-status"] == ("0" if error is None else "10")


@pytest.mark.parametrize(
    "name",
    [
        *("grpc-status", "Grpc-Message", "grpc-status-details-bin", "grpc-encoding", "connect-a"),
        *("content-type", "Content-Length", "te", "trailer", "transfer-encoding"),
    ],
)
@pytest.mark.parametrize("error", [None, ConnectError(Code.ABORTED, "m")], ids=["success", "error"])
def test_reserved_name_is_not_trailing_metadata(error: ConnectError | None, name: str) -> None:
    status = encode_status(error, Headers({name: "mine", "a": "1"}))

    assert "mine" not in dict(status).values()
    assert status["a"] == "1"


def test_trailing_metadata_stays_as_it_was() -> None:
    metadata = Headers({"grpc-status": "mine", "a": "1"})
    encode_status(None, metadata)

    assert dict(metadata) == {"grpc-status": "mine", "a": "1"}


# The status is read


def read(**status: str) -> ConnectError:
    """Return the error of a status; the names without ``grpc-``, and with underscores."""
    error, _ = decode_status(
        Headers.from_wire((f"grpc-{name.replace('_', '-')}", value) for name, value in status.items())
    )
    assert error is not None
    return error


@pytest.mark.parametrize("value", ["0", " 0 "])
def test_status_zero_is_success(value: str) -> None:
    error, metadata = decode_status(Headers({"grpc-status": value, "grpc-message": "fine"}))

    assert (error, len(metadata)) == (None, 0)


@pytest.mark.parametrize("code", Code, ids=lambda code: code.value)
def test_number_of_a_status_is_that_of_its_code(code: Code) -> None:
    error = read(status=str(code.number), message="m")

    assert (error.code, error.message, error.details) == (code, "m", ())


@pytest.mark.parametrize("value", ["17", "99", "999999999"])
def test_unknown_number_is_an_unknown_error(value: str) -> None:
    error = read(status=value, message="m")

    assert (error.code, error.message) == (Code.UNKNOWN, "m")


@pytest.mark.parametrize(
    "value", ["", "x", "ok", "-1", "+5", "5.0", "1e1", "0x5", "1_0", "5, 5", "0, 0", "\u00b2", "9" * 5000]
)
def test_status_that_is_not_a_number_is_an_unknown_error_that_says_so(value: str) -> None:
    error = read(status=value)

    assert (error.code, error.message) == (Code.UNKNOWN, f"grpc-status must be a number, got {value!r}")


def test_message_of_a_status_that_is_not_a_number_is_kept() -> None:
    assert read(status="x", message="no pet").message == "grpc-status must be a number, got 'x': no pet"


def test_missing_status_is_an_unknown_error_that_says_so() -> None:
    assert str(read(message="no such pet")) == "unknown: missing grpc-status: no such pet"


def test_no_status_at_all_is_an_unknown_error() -> None:
    assert str(read()) == "unknown: missing grpc-status"


@pytest.mark.parametrize(
    ("written", "message"),
    [
        ("no such pet", "no such pet"),
        ("%C3%A9", "\u00e9"),
        ("%c3%a9", "\u00e9"),
        ("%F0%9F%98%80", "\U0001f600"),
        ("%41%20%25", "A %"),
        ("a+b", "a+b"),
    ],
)
def test_message_is_percent_decoded(written: str, message: str) -> None:
    assert read(status="5", message=written).message == message


@pytest.mark.parametrize(
    ("written", "message"),
    [
        ("%", "%"),
        ("a%", "a%"),
        ("%4", "%4"),
        ("%zz", "%zz"),
        ("%4x", "%4x"),
        ("%%41", "%A"),
        ("100% sure", "100% sure"),
        ("%u00e9", "%u00e9"),
    ],
)
def test_malformed_percent_encoding_is_taken_as_it_stands(written: str, message: str) -> None:
    assert read(status="5", message=written).message == message


@pytest.mark.parametrize("written", ["%FF", "a%C3", "%ED%A0%80"])
def test_message_that_is_not_utf_8_has_marks_in_its_place(written: str) -> None:
    assert "\ufffd" in read(status="5", message=written).message


def test_message_in_bare_utf_8_is_read() -> None:
    assert read(status="5", message="\u00e9".encode().decode("latin-1")).message == "\u00e9"


def test_message_comes_back_whatever_it_holds() -> None:
    random = Random(21)
    for _ in range(500):
        message = "".join(
            chr(random.choice([random.randrange(0x20, 0x7F), random.randrange(0xD800), 0x25, 0x20]))
            for _ in range(random.randrange(20))
        )
        # As HTTP hands it over, without the spaces around it.
        written = encode_status(ConnectError(Code.ABORTED, message), None).get("grpc-message", "").strip()

        assert read(status="10", message=written).message == message


def test_trailing_metadata_is_what_is_not_the_status() -> None:
    status = Headers.from_wire(
        [("a", "1"), ("grpc-status", "5"), ("a", "2"), ("grpc-message", "m"), ("grpc-status-details-bin", "")]
    )
    _, metadata = decode_status(status)

    assert list(metadata.multi_items()) == [("a", "1"), ("a", "2")]


# Details


def test_details_come_back() -> None:
    details = (ErrorDetail("a.Message", b"\x00\xff\xfe"), ErrorDetail.pack(StringValue(value="a")))
    error, _ = decode_status(encode_status(ConnectError(Code.ABORTED, "\u00e9", details), None))

    assert error is not None
    assert (error.code, error.message, error.details) == (Code.ABORTED, "\u00e9", details)


def encoded(data: bytes) -> str:
    return b64encode(data).decode()


@pytest.mark.parametrize(
    "url",
    ["type.googleapis.com/a.B", "a.B", "/a.B", "type.example.com/nested/a.B", "https://example.com/a.B"],
)
def test_type_of_a_detail_is_the_end_of_its_url(url: str) -> None:
    data = rpc_status(10, "m", (url, b"\x00\xff"), (url, b""))
    error = read(status="10", status_details_bin=encoded(data))

    assert error.details == (ErrorDetail("a.B", b"\x00\xff"), ErrorDetail("a.B", b""))


@pytest.mark.parametrize("message", ["m", "mm", "mmm"])
def test_details_are_read_padded_or_not(message: str) -> None:
    written = encoded(rpc_status(10, message))

    for value in (written, written.rstrip("=")):
        assert read(status="5", status_details_bin=value).message == message


def test_details_may_hold_what_is_unknown() -> None:
    data = rpc_status(10, "m", ("a.B", b"a")) + b"\x48\x01"

    assert read(status="5", status_details_bin=encoded(data)).details == (ErrorDetail("a.B", b"a"),)


def test_code_and_message_of_the_details_go_before_those_of_the_headers() -> None:
    error = read(status="5", message="short", status_details_bin=encoded(rpc_status(10, "in full\n")))

    assert (error.code, error.message) == (Code.ABORTED, "in full\n")


def test_unknown_number_in_the_details_is_an_unknown_error() -> None:
    assert read(status="5", status_details_bin=encoded(rpc_status(99))).code is Code.UNKNOWN


@pytest.mark.parametrize("written", ["", encoded(rpc_status(0, "other", ("a.B", b"")))])
def test_details_without_a_code_leave_code_and_message_of_the_headers(written: str) -> None:
    error = read(status="5", message="m", status_details_bin=written)

    assert (error.code, error.message) == (Code.NOT_FOUND, "m")
    assert error.details == ((ErrorDetail("a.B", b""),) if written else ())


@pytest.mark.parametrize(
    "written",
    [
        "*",
        "A",
        "AAAA=",
        "\u00e9",
        "\u20ac",
        encoded(b"\xff"),
        encoded(rpc_status(10, "other", ("a.B", b"a"))[:-1]),
        encoded(b"\x12\x01\xff"),
        encoded(rpc_status(10, "other")) + ", " + encoded(rpc_status(10, "other")),
    ],
    ids=["alphabet", "length", "padding", "latin", "unicode", "no message", "cut off", "no UTF-8", "two"],
)
def test_details_that_cannot_be_read_do_not_hide_the_error(written: str) -> None:
    error = read(status="5", message="m", status_details_bin=written)

    assert (error.code, error.message, error.details) == (Code.NOT_FOUND, "m", ())


def test_details_of_a_success_are_not_an_error() -> None:
    status = Headers({"grpc-status": "0", "grpc-status-details-bin": encoded(rpc_status(5, "m"))})

    assert decode_status(status)[0] is None


OWN_STATUS = """
from google.protobuf import descriptor_pb2, descriptor_pool

import connect_sync.protocols.grpc

file = descriptor_pb2.FileDescriptorProto(name="google/rpc/status.proto", package="google.rpc")
file.message_type.add(name="Status").field.add(name="code", number=1, type=5, label=1)
descriptor_pool.Default().AddSerializedFile(file.SerializeToString())
"""


def test_application_may_have_a_status_of_its_own_in_the_common_pool() -> None:
    # In a process of its own: what is in the common pool stays there.
    subprocess.run([sys.executable, "-c", OWN_STATUS], check=True)


def test_random_statuses_are_read() -> None:
    random = Random(22)
    names = ["grpc-status", "grpc-message", "grpc-status-details-bin", "a", ""]
    for _ in range(1500):
        pairs = [
            (random.choice(names), "".join(map(chr, random.choices(range(256), k=random.randrange(6)))))
            for _ in range(random.randrange(5))
        ]
        pairs.append(("grpc-status", random.choice(["", "5", "0", "17"])))
        if random.randrange(2):
            data = bytearray(rpc_status(5, "m", ("a.B", b"ab")))
            data[random.randrange(len(data))] = random.randrange(256)
            pairs.append(("grpc-status-details-bin", encoded(bytes(data))))
        error, _ = decode_status(Headers.from_wire(pairs))

        assert error is None or isinstance(error.code, Code)


def test_message_of_many_spaces_is_encoded_in_no_time() -> None:
    # Where the time grows by the square of their number, this takes longer than the test may.
    text = "a" + " " * (4 << 20) + "b"

    assert encode_status(ConnectError(Code.INTERNAL, text), None)["grpc-message"] == text
