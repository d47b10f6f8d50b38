from __future__ import annotations

import threading
from collections.abc import Callable
from fractions import Fraction
from functools import partial
from typing import Any

import pytest
from urllib3.util.url import parse_url

from connect_sync import Code, ConnectClient, ProtocolType
from connect_sync.client.arguments import (
    check_protocol,
    check_timeout_ms,
    parse_address,
)
from connect_sync.client.transport import Urllib3Transport
from connect_sync.compression import GZIP, Deflate, Gzip
from tests.support import UNARY, error_of, in_memory, scripted, serve, text, unary_response


def message_of(error_class: type[Exception], function: Callable[..., object], *arguments: Any) -> str:
    with pytest.raises(error_class) as caught:
        function(*arguments)
    return str(caught.value)


# The address


@pytest.mark.parametrize(
    ("address", "parts"),
    [
        ("http://localhost", ("http", "localhost", None, None)),
        ("http://localhost:8000", ("http", "localhost", 8000, None)),
        ("https://localhost:8443/prefix/", ("https", "localhost", 8443, "/prefix/")),
        ("HTTPS://Localhost", ("https", "localhost", None, None)),
        ("http://[::1]:80/", ("http", "[::1]", 80, "/")),
        ("http://localhost/greet.v1.GreetService", ("http", "localhost", None, "/greet.v1.GreetService")),
        ("http://localhost/@a", ("http", "localhost", None, "/@a")),
    ],
)
def test_address_is_a_scheme_a_host_a_port_and_a_path(address: str, parts: tuple[Any, ...]) -> None:
    url = parse_address(address)

    assert (url.scheme, url.host, url.port, url.path) == parts


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("", "must start with http:// or https://, got ''"),
        ("/path", "must start with http:// or https://, got '/path'"),
        ("ftp://localhost", "must start with http:// or https://, got 'ftp://localhost'"),
        (
            "localhost:8000",
            "must start with http:// or https://, got 'localhost:8000': write 'http://localhost:8000'",
        ),
        (
            "greet.example/prefix",
            "must start with http:// or https://, got 'greet.example/prefix': "
            "write 'http://greet.example/prefix'",
        ),
        ("http://", "must have a host, got 'http://'"),
        ("http:///path", "must have a host, got 'http:///path'"),
        ("http:localhost", "must have a host, got 'http:localhost'"),
        (
            "http://localhost:port",
            "must be a URL such as 'http://localhost:8000', got 'http://localhost:port'",
        ),
        (
            "http://localhost?a=b",
            "must end with its path, got 'http://localhost?a=b': leave out what follows",
        ),
        ("http://localhost/#a", "must end with its path, got 'http://localhost/#a': leave out what follows"),
        (
            "http://user@localhost",
            "must not have a user name or a password, got 'http://***@localhost': "
            "send them in a header of the calls",
        ),
    ],
)
def test_address_of_another_form_is_refused(address: str, expected: str) -> None:
    assert message_of(ValueError, Urllib3Transport, address).startswith(f"address {expected}")


@pytest.mark.parametrize("address", [None, 5, b"http://localhost", parse_url("http://user:secret@localhost")])
def test_address_that_is_not_a_str_is_refused(address: Any) -> None:
    message = message_of(TypeError, Urllib3Transport, address)

    assert message == f"address must be a str, got {type(address).__name__}"


@pytest.mark.parametrize(
    "address",
    [
        "http://user:secret@localhost",
        "http://user:secret@localhost:port",
        "http://user:secret@localhost?a=b",
        "http://user:secret@",
        "http://user:se/secret@localhost",
        "http://user:a@secret@localhost",
        "http://secret\n@localhost",
        "http://user:secret@[::1",
        "http://user:secret@\u2100",
        "http:/user:secret@localhost",
        "//user:secret@localhost",
        "ftp://user:secret@localhost",
        "user:secret@localhost:8000",
        "secret@localhost",
        "localhost/secret@localhost",
    ],
)
def test_error_does_not_show_a_password_of_the_address(address: str) -> None:
    with pytest.raises(ValueError, match=r"^address must") as caught:
        Urllib3Transport(address)
    assert "secret" not in str(caught.value)
    assert "***@" in str(caught.value)
    # The library that parses addresses shows them in its own errors.
    assert (caught.value.__cause__, caught.value.__context__) == (None, None)


# The protocol


@pytest.mark.parametrize("protocol", [ProtocolType.CONNECT, ProtocolType.GRPC_WEB])
def test_protocol_may_be_given_by_its_name(protocol: ProtocolType) -> None:
    assert check_protocol(protocol) is protocol
    assert check_protocol(protocol.value) is protocol


@pytest.mark.parametrize(
    ("protocol", "error_class", "got"),
    [
        ("grpc", ValueError, "'grpc': gRPC needs HTTP/2, which this client does not speak"),
        (
            ProtocolType.GRPC,
            ValueError,
            "ProtocolType.GRPC: gRPC needs HTTP/2, which this client does not speak",
        ),
        ("grpcweb", ValueError, "'grpcweb'"),
        ("", ValueError, "''"),
        (None, TypeError, "None (NoneType)"),
        (1, TypeError, "1 (int)"),
    ],
)
def test_other_protocols_are_refused(protocol: object, error_class: type[Exception], got: str) -> None:
    expected = f"protocol must be ProtocolType.CONNECT or ProtocolType.GRPC_WEB, got {got}"

    assert message_of(error_class, check_protocol, protocol) == expected


# Timeouts


@pytest.mark.parametrize("timeout_ms", [1, 0.5, 0, -1, float("-inf"), 9_999_999_999, Fraction(1, 2)])
def test_number_is_a_timeout(timeout_ms: object) -> None:
    check_timeout_ms(timeout_ms)


@pytest.mark.parametrize(
    ("timeout_ms", "shown"),
    [
        ("5", "'5' (str)"),
        (True, "True (bool)"),
        (None, "None (NoneType)"),
        ([5], "[5] (list)"),
        (5j, "5j (c"),
    ],
)
def test_timeout_that_is_not_a_number_is_refused(timeout_ms: object, shown: str) -> None:
    message = message_of(TypeError, check_timeout_ms, timeout_ms)

    assert message.startswith(f"timeout_ms must be a number of milliseconds, got {shown}")


@pytest.mark.parametrize("timeout_ms", [float("nan"), float("inf"), 10_000_000_000])
def test_timeout_that_cannot_be_sent_is_refused(timeout_ms: float) -> None:
    message = message_of(ValueError, check_timeout_ms, timeout_ms)

    assert message == f"timeout_ms must be a number up to 9999999999, got {timeout_ms}"


@pytest.mark.parametrize("timeout_ms", [0, -1, -0.5, float("-inf")])
def test_timeout_of_nothing_ends_the_call_before_it_connects(timeout_ms: float) -> None:
    client = ConnectClient("http://unit.test")
    impatient = ConnectClient("http://unit.test", timeout_ms=timeout_ms)

    for error in (
        error_of(lambda: client.call_unary(UNARY, text(), timeout_ms=timeout_ms)),
        error_of(lambda: impatient.call_unary(UNARY, text())),
    ):
        assert error is not None
        assert (error.code, error.__cause__) == (Code.DEADLINE_EXCEEDED, None)


@pytest.mark.parametrize("timeout_ms", ["5", True])
def test_client_and_call_refuse_a_timeout_that_is_not_a_number(timeout_ms: Any) -> None:
    with pytest.raises(TypeError, match="timeout_ms must be a number of milliseconds"):
        scripted(timeout_ms=timeout_ms)
    client, transport = scripted(unary_response())
    with pytest.raises(TypeError, match="timeout_ms must be a number of milliseconds"):
        client.call_unary(UNARY, text(), timeout_ms=timeout_ms)
    assert transport.sent == []


# Sizes and compressions: the same checks on both sides

SIZES = ["read_max_bytes", "send_max_bytes", "compress_min_bytes"]


def options_error(error_class: type[Exception], side: str, **options: Any) -> str:
    """Return what is said of ``options`` when a side is made with them."""
    make = partial(serve, UNARY) if side == "server" else partial(in_memory, serve(UNARY))
    return message_of(error_class, partial(make, **options))


SIDES = pytest.mark.parametrize("side", ["server", "client"])


@SIDES
@pytest.mark.parametrize("option", SIZES)
@pytest.mark.parametrize(("size", "shown"), [("5", "'5' (str)"), (5.0, "5.0 (float)"), (True, "True (bool)")])
def test_size_that_is_not_an_int_is_refused(side: str, option: str, size: object, shown: str) -> None:
    message = options_error(TypeError, side, **{option: size})

    assert message == f"{option} must be a number of bytes, got {shown}"


@SIDES
@pytest.mark.parametrize("option", SIZES)
def test_size_that_is_negative_is_refused(side: str, option: str) -> None:
    least = 0 if option == "compress_min_bytes" else 1

    assert (
        options_error(ValueError, side, **{option: -1}) == f"{option} must be {least} or more bytes, got -1"
    )


@pytest.mark.parametrize("compression", [None, "gzip", GZIP])
def test_requests_are_compressed_with_a_compression_or_its_name(compression: Any) -> None:
    in_memory(serve(UNARY), send_compression=compression).call_unary(UNARY, text())


@pytest.mark.parametrize(
    ("compression", "shown"),
    [(["gzip"], "['gzip'] (list)"), (b"gzip", "b'gzip' (bytes)"), (True, "True (bool)")],
)
def test_requests_are_not_compressed_with_anything_else(compression: object, shown: str) -> None:
    message = options_error(TypeError, "client", send_compression=compression)

    assert message == f"send_compression must be a Compression or the name of one, got {shown}"


OPTIONS = {"server": "compressions", "client": "accept_compression"}


@SIDES
@pytest.mark.parametrize("compressions", [(), ["gzip"], (GZIP,), ["gzip", Deflate()], {"gzip"}])
def test_compressions_are_a_list_of_them_and_their_names(side: str, compressions: Any) -> None:
    options = {OPTIONS[side]: compressions}
    make = serve(UNARY, **options) if side == "server" else in_memory(serve(UNARY), **options)

    assert make is not None


@SIDES
@pytest.mark.parametrize(
    ("compressions", "got"),
    [
        ("gzip", "'gzip' (str): write ['gzip']"),
        (None, "None (NoneType)"),
        (5, "5 (int)"),
        (Gzip, f"{Gzip!r} (type)"),
    ],
)
def test_compressions_of_another_type_are_refused(side: str, compressions: object, got: str) -> None:
    option = OPTIONS[side]
    expected = f"{option} must be a list of Compressions and their names, got {got}"

    assert options_error(TypeError, side, **{option: compressions}) == expected


@SIDES
@pytest.mark.parametrize(("element", "got"), [(None, "None (NoneType)"), (Gzip, f"{Gzip!r} (type)")])
def test_compression_in_a_list_of_another_type_is_refused(side: str, element: object, got: str) -> None:
    option = OPTIONS[side]
    expected = f"each of {option} must be a Compression or the name of one, got {got}"

    assert options_error(TypeError, side, **{option: [element]}) == expected


@SIDES
def test_single_compression_is_not_a_list_of_them(side: str) -> None:
    assert options_error(TypeError, side, **{OPTIONS[side]: GZIP}).endswith("(Gzip): write […]")


# Cancellation


def test_cancellation_of_another_type_is_refused() -> None:
    cancellation: Any = threading.Event()
    client, transport = scripted(unary_response())
    with pytest.raises(TypeError, match="cancellation must be a Cancellation, got "):
        client.call_unary(UNARY, text(), cancellation=cancellation)
    assert transport.sent == []
