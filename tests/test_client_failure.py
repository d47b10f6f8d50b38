"""What errors of connections mean. `integration/test_unreachable.py` has those of real servers."""

from __future__ import annotations

import ssl

import pytest
from urllib3.connection import HTTPConnection
from urllib3.exceptions import ConnectTimeoutError, NewConnectionError
from urllib3.util.url import parse_url

from connect_sync.client.failure import OtherProtocolError, Route, check_start, root_cause


def route(server: str = "http://greet.example", proxy: str | None = None) -> Route:
    return Route(
        parse_url(server),
        None if proxy is None else parse_url(proxy),
        has_tunnel=server.startswith("https:"),
    )


@pytest.mark.parametrize(
    ("server", "proxy", "name"),
    [
        ("http://greet.example", None, "greet.example:80"),
        ("https://greet.example/prefix", None, "greet.example:443"),
        ("http://[::1]:8000", None, "[::1]:8000"),
        (
            "https://greet.example",
            "http://user:secret@proxy.example:3128",
            "greet.example:443 through the proxy proxy.example:3128",
        ),
    ],
)
def test_route_is_named_by_hosts_and_ports(server: str, proxy: str | None, name: str) -> None:
    assert str(route(server, proxy)) == name


def ssl_error(text: str) -> ssl.SSLError:
    return ssl.SSLError(ssl.SSLErrorNumber.SSL_ERROR_SSL, text)


@pytest.mark.parametrize(
    "text",
    [
        "[SSL: WRONG_VERSION_NUMBER] wrong version number (_ssl.c:1006)",
        "[SSL: HTTP_REQUEST] http request (_ssl.c:1006)",
        "[SSL: RECORD_LAYER_FAILURE] record layer failure (_ssl.c:1028)",
        "[SSL] record layer failure (_ssl.c:1000)",
    ],
)
def test_answer_that_is_not_tls_is_told_by_each_release_of_openssl(text: str) -> None:
    told = route("https://greet.example").connect_message(ssl_error(text))

    assert told == "the server at greet.example:443 does not speak TLS: use http://"


@pytest.mark.parametrize(
    ("server", "proxy", "is_plain", "peer"),
    [
        ("http://greet.example", None, True, "the server at greet.example:80"),
        ("https://greet.example", None, False, "the server at greet.example:443"),
        ("http://greet.example", "http://proxy.example:3128", True, "the proxy at proxy.example:3128"),
        ("http://greet.example", "https://proxy.example:3128", False, "the proxy at proxy.example:3128"),
        ("https://greet.example", "http://proxy.example:3128", False, "the server at greet.example:443"),
        (
            "https://greet.example",
            "https://proxy.example:3128",
            False,
            "the server at greet.example:443 or the proxy at proxy.example:3128",
        ),
    ],
)
def test_other_side_of_tls_is_the_server_or_the_proxy(
    server: str, proxy: str | None, is_plain: bool, peer: str
) -> None:
    told = route(server, proxy).response_message(OtherProtocolError("TLS", b""))

    assert told == f"{peer} speaks TLS: use https://"
    assert route(server, proxy).is_plain is is_plain


@pytest.mark.parametrize(
    ("server", "has_hint"), [("http://greet.example", True), ("https://a.example", False)]
)
def test_silence_is_a_sign_of_tls_only_without_it(server: str, has_hint: bool) -> None:
    told = route(server).response_message(ConnectionResetError("reset"), is_silent=True)

    assert told.endswith(": reset (if it speaks TLS, use https://)" if has_hint else ": reset")


def test_response_that_is_broken_off_has_no_hint() -> None:
    told = route().response_message(ConnectionResetError("reset"))

    assert told == "no valid answer from greet.example:80: reset"


def test_server_that_asks_for_a_certificate_is_told_with_how_to_pass_one() -> None:
    error = ssl_error(
        "[SSL: TLSV13_ALERT_CERTIFICATE_REQUIRED] tlsv13 alert certificate required (_ssl.c:2580)"
    )

    assert (
        route("https://greet.example")
        .response_message(error)
        .endswith(" (pass a client certificate: pool_manager=urllib3.PoolManager(cert_file=…, key_file=…))")
    )


def test_certificate_that_has_expired_is_told_without_a_hint() -> None:
    error = ssl.SSLCertVerificationError(1, "certificate verify failed")
    error.verify_code, error.verify_message = 10, "certificate has expired"

    assert route("https://greet.example").connect_message(error) == (
        "cannot connect to greet.example:443: certificate verification failed: certificate has expired"
    )


@pytest.mark.parametrize(
    ("text", "shown"), [("", "OSError"), ("\x1b[31m\r\nred", "[31m red"), ("x" * 999, "xx…")]
)
def test_text_of_an_error_is_one_printable_line(text: str, shown: str) -> None:
    told = route().connect_message(OSError(text))

    assert told.startswith("cannot connect to greet.example:80: ")
    assert told.endswith(shown)
    assert len(told) < 300


@pytest.mark.parametrize(
    ("start", "protocol"),
    [
        (b"\x15\x03\x01\x00\x02\x02\x46", "TLS"),
        (b"\x15\x03", "TLS"),
        (b"\x00\x00\x18\x04\x00\x00\x00\x00\x00", "HTTP/2"),
        (b"\x00\x00\x00\x04\x00\x00\x00\x00\x00", "HTTP/2"),
    ],
)
def test_other_protocol_is_known_by_its_first_bytes(start: bytes, protocol: str) -> None:
    with pytest.raises(OtherProtocolError) as caught:
        check_start(start, is_plain=True)
    assert caught.value.protocol == protocol
    assert repr(start) in str(caught.value)


@pytest.mark.parametrize(
    "start", [b"", b"H", b"HTTP/1.1 ", b"\x15", b"\x15\x02", b"\0\0\0", b"\0\0\4\0", b"SSH"]
)
def test_other_first_bytes_are_left_to_the_parser(start: bytes) -> None:
    check_start(start, is_plain=True)


def test_alert_within_tls_is_not_one() -> None:
    check_start(b"\x15\x03\x01\x00\x02\x02\x46", is_plain=False)


# The cause


def chained(error: Exception, cause: BaseException | None = None) -> Exception:
    """Return ``error`` as if raised from ``cause`` while another exception was handled."""
    error.__cause__, error.__context__ = cause, KeyError("other")
    return error


def test_cause_is_beneath_the_error_of_urllib3() -> None:
    cause = chained(ConnectionRefusedError("refused"))
    error = NewConnectionError(HTTPConnection("greet.example"), "failed")

    assert root_cause(chained(error, cause)) is cause
    assert (cause.__cause__, cause.__context__) == (None, None)


@pytest.mark.parametrize(
    "error",
    [
        chained(OSError("x")),
        chained(OSError("x"), ValueError("y")),
        chained(ConnectTimeoutError("x")),
        chained(ConnectTimeoutError("x"), KeyboardInterrupt()),
    ],
    ids=repr,
)
def test_error_that_stands_for_no_other_is_the_cause(error: Exception) -> None:
    assert root_cause(error) is error
    assert (error.__cause__, error.__context__) == (None, None)
