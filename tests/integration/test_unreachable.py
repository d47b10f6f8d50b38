"""Servers that cannot be reached, or not this way: one error, one cause, and what to do."""

from __future__ import annotations

import logging
import socket
import ssl
import traceback
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import grpc
import pytest
import urllib3
from echo.v1.echo_connect import EchoServiceClient
from echo.v1.echo_pb2 import EchoRequest
from urllib3.util.ssl_match_hostname import CertificateError

from connect_sync import Code, ConnectError
from connect_sync.client.failure import OtherProtocolError
from tests.integration.calls import Kind, answer, endless_requests
from tests.integration.certificates import Certificates
from tests.integration.listeners import closed_port, full_listener
from tests.integration.scripted import Peer, Serve, acts, say
from tests.integration.servers import Gunicorn
from tests.integration.wire import PATIENCE, head

# Without a timeout a connection is opened in the caller's thread, with one in another.
each_way = pytest.mark.parametrize("timeout_ms", [None, PATIENCE * 1000], ids=["unbounded", "bounded"])


def failure(
    url: str, manager: urllib3.PoolManager | None = None, timeout_ms: float | None = None
) -> ConnectError:
    """Make a call that cannot reach its server, and check that its error is one with one cause."""
    error = Kind.UNARY.failure(EchoServiceClient(url, pool_manager=manager), timeout_ms=timeout_ms)
    assert error.code is Code.UNAVAILABLE
    assert_single_cause(error)
    return error


def assert_single_cause(error: ConnectError) -> None:
    cause = error.__cause__
    assert cause is not None
    assert (cause.__cause__, cause.__context__) == (None, None)
    shown = "".join(traceback.format_exception(error))
    assert shown.count("Traceback (most recent call last):") == 2
    assert shown.count("The above exception was the direct cause of the following exception:") == 1
    assert "During handling of the above exception" not in shown
    assert "Max retries" not in shown


@pytest.fixture
def port() -> Iterator[int]:
    """A port on which nothing listens."""
    with closed_port() as port:
        yield port


@each_way
def test_refused_connection_asks_whether_the_server_is_running(port: int, timeout_ms: float | None) -> None:
    error = failure(f"http://127.0.0.1:{port}", timeout_ms=timeout_ms)

    assert type(error.__cause__) is ConnectionRefusedError
    assert error.message.startswith(f"cannot connect to 127.0.0.1:{port}: [Errno ")
    assert error.message.endswith("] Connection refused (is the server running?)")


@each_way
def test_unknown_name_points_at_the_host_name(timeout_ms: float | None) -> None:
    error = failure("https://greet.invalid", timeout_ms=timeout_ms)

    assert type(error.__cause__) is socket.gaierror
    assert error.message.startswith("cannot connect to greet.invalid:443: [Errno ")
    assert error.message.endswith(" (check the host name of the server)")


@each_way
def test_connect_timeout_of_the_pool_manager_is_unavailable(timeout_ms: float | None) -> None:
    with full_listener() as port, urllib3.PoolManager(timeout=urllib3.Timeout(connect=0.05)) as manager:
        error = failure(f"http://127.0.0.1:{port}", manager, timeout_ms)

    assert type(error.__cause__) is TimeoutError
    assert error.message == f"cannot connect to 127.0.0.1:{port}: timed out"


def test_error_that_the_caller_is_handling_is_not_part_of_the_chain(port: int) -> None:
    try:
        raise KeyError("other")
    except KeyError:
        error = failure(f"http://127.0.0.1:{port}")
    assert "KeyError" not in "".join(traceback.format_exception(error))


# TLS


@each_way
def test_untrusted_certificate_points_at_ca_certs(
    tls_server: Gunicorn, certificates: Certificates, timeout_ms: float | None
) -> None:
    with urllib3.PoolManager(ssl_context=certificates.client_context(is_server_known=False)) as manager:
        error = failure(tls_server.url, manager, timeout_ms)

    assert type(error.__cause__) is ssl.SSLCertVerificationError
    assert error.message == (
        f"cannot connect to 127.0.0.1:{tls_server.port}: certificate verification failed: "
        "unable to get local issuer certificate "
        "(pass the certificate of its authority: pool_manager=urllib3.PoolManager(ca_certs=…))"
    )
    with urllib3.PoolManager(ca_certs=str(certificates.authority)) as manager:
        assert Kind.UNARY.call(EchoServiceClient(tls_server.url, pool_manager=manager)) == [b"request"]


@each_way
def test_certificate_of_another_host_points_at_the_address(
    tls_server: Gunicorn, certificates: Certificates, timeout_ms: float | None
) -> None:
    with urllib3.PoolManager(
        ssl_context=certificates.client_context(), server_hostname="other.example"
    ) as manager:
        error = failure(tls_server.url, manager, timeout_ms)

    assert type(error.__cause__) is ssl.SSLCertVerificationError
    assert "certificate is not valid for 'other.example'" in error.message
    assert error.message.endswith(" (use a host name of the certificate in the address)")


@each_way
def test_certificate_of_another_host_than_asserted_points_at_the_address(
    tls_server: Gunicorn, certificates: Certificates, timeout_ms: float | None
) -> None:
    with urllib3.PoolManager(
        ssl_context=certificates.client_context(), assert_hostname="other.example"
    ) as manager:
        error = failure(tls_server.url, manager, timeout_ms)

    assert type(error.__cause__) is CertificateError
    assert "doesn't match" in error.message
    assert error.message.endswith(" (use a host name of the certificate in the address)")


@each_way
def test_missing_certificate_file_points_at_the_pool_manager(
    port: int, timeout_ms: float | None, serve: Serve
) -> None:
    server = serve(Peer.wait_for_hang_up)
    with urllib3.PoolManager(ca_certs="no-such-file.pem") as manager:
        error = failure(server.url.replace("http:", "https:"), manager, timeout_ms)

    assert type(error.__cause__) is FileNotFoundError
    assert error.message.endswith(" (check the certificate files of the pool_manager)")


@each_way
def test_https_address_of_a_server_without_tls_points_at_http(
    server: Gunicorn, timeout_ms: float | None
) -> None:
    error = failure(server.url.replace("http:", "https:"), timeout_ms=timeout_ms)

    assert type(error.__cause__) is ssl.SSLError
    assert error.message == f"the server at 127.0.0.1:{server.port} does not speak TLS: use http://"


def test_https_address_of_a_server_that_hangs_up_is_unavailable(serve: Serve) -> None:
    server = serve(lambda peer: peer.read(1))
    error = failure(server.url.replace("http:", "https:"))

    assert error.message.startswith(f"cannot connect to 127.0.0.1:{server.port}: ")
    assert type(error.__cause__) in (ssl.SSLEOFError, ConnectionResetError)


@each_way
def test_http_address_of_a_server_with_tls_points_at_https(
    tls_server: Gunicorn, timeout_ms: float | None
) -> None:
    error = failure(tls_server.url.replace("https:", "http:"), timeout_ms=timeout_ms)

    assert error.message.startswith(f"no valid answer from 127.0.0.1:{tls_server.port}: ")
    assert error.message.endswith(" (if it speaks TLS, use https://)")


ALERT = b"\x15\x03\x01\x00\x02\x02\x46"


@each_way
@pytest.mark.parametrize("rest", [b"", b"\n"])
def test_alert_of_tls_points_at_https(serve: Serve, rest: bytes, timeout_ms: float | None) -> None:
    def script(peer: Peer) -> None:
        peer.read_head()
        peer.send(ALERT + rest)
        peer.wait_for_hang_up()

    server = serve(script)
    error = failure(server.url, timeout_ms=timeout_ms)

    assert error.message == f"the server at 127.0.0.1:{server.port} speaks TLS: use https://"
    assert type(error.__cause__) is OtherProtocolError


def test_alert_of_tls_ends_a_call_that_is_still_sending(serve: Serve) -> None:
    def script(peer: Peer) -> None:
        peer.read_head()
        peer.send(ALERT)
        peer.reset()

    server = serve(script)
    with pytest.raises(ConnectError) as caught:
        EchoServiceClient(server.url).collect(endless_requests())
    assert caught.value.message == f"the server at 127.0.0.1:{server.port} speaks TLS: use https://"
    assert_single_cause(caught.value)


def test_bytes_of_an_alert_within_tls_are_not_taken_for_one(
    serve: Serve, manager: urllib3.PoolManager
) -> None:
    server = serve(acts(say(ALERT + b"\n")), is_tls=True)
    error = failure(server.url, manager)

    assert error.message.startswith(f"no valid answer from 127.0.0.1:{server.port}: ")


def test_connection_that_was_used_before_is_not_taken_for_one_that_wants_tls(serve: Serve) -> None:
    def script(peer: Peer) -> None:
        peer.read_request()
        peer.send(answer(Kind.UNARY))
        peer.read_request()

    server = serve(script)
    client = EchoServiceClient(server.url)
    assert client.echo(EchoRequest()).payload == b"message"
    error = Kind.UNARY.failure(client)
    assert error.message.startswith("no valid answer from")
    assert "TLS" not in error.message


@each_way
def test_server_that_speaks_only_http2_is_told_as_that(timeout_ms: float | None) -> None:
    server = grpc.server(ThreadPoolExecutor(1))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        error = failure(f"http://127.0.0.1:{port}", timeout_ms=timeout_ms)
    finally:
        server.stop(None).wait()

    assert error.message == (
        f"the server at 127.0.0.1:{port} speaks only HTTP/2, which this client does not: is it a gRPC server?"
    )


# Proxies

CREDENTIALS = "user:secret"


@contextmanager
def proxied(url: str, **options: Any) -> Iterator[urllib3.ProxyManager]:
    scheme, _, host = url.partition("://")
    headers = urllib3.make_headers(proxy_basic_auth=CREDENTIALS)
    with urllib3.ProxyManager(
        f"{scheme}://{CREDENTIALS}@{host}", proxy_headers=headers, **options
    ) as manager:
        yield manager


def assert_no_credentials(error: ConnectError) -> None:
    shown = "".join(traceback.format_exception(error)) + repr(error)
    assert "secret" not in shown
    assert "dXNlcjpzZWNyZXQ" not in shown


@each_way
@pytest.mark.parametrize("scheme", ["http", "https"])
def test_refused_connection_to_a_proxy_asks_whether_the_proxy_is_running(
    port: int, scheme: str, timeout_ms: float | None
) -> None:
    with proxied(f"http://127.0.0.1:{port}") as manager:
        error = failure(f"{scheme}://greet.example", manager, timeout_ms)

    assert type(error.__cause__) is ConnectionRefusedError
    server = f"greet.example:{80 if scheme == 'http' else 443}"
    assert error.message.startswith(f"cannot connect to {server} through the proxy 127.0.0.1:{port}: ")
    assert error.message.endswith("Connection refused (is the proxy running?)")
    assert_no_credentials(error)


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_log_has_no_credentials(port: int, scheme: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    with proxied(f"http://127.0.0.1:{port}") as manager:
        failure(f"{scheme}://greet.example", manager)

    assert caplog.records  # urllib3 logs each connection
    assert "secret" not in caplog.text


@each_way
@pytest.mark.parametrize("scheme", ["http", "https"])
def test_unknown_name_of_a_proxy_points_at_its_host_name(scheme: str, timeout_ms: float | None) -> None:
    with proxied("http://proxy.invalid:3128") as manager:
        error = failure(f"{scheme}://greet.example", manager, timeout_ms)

    assert type(error.__cause__) is socket.gaierror
    assert " through the proxy proxy.invalid:3128: " in error.message
    assert error.message.endswith(" (check the host name of the proxy)")
    assert_no_credentials(error)


@each_way
@pytest.mark.parametrize(
    ("status", "hint"),
    [
        (
            "407 Proxy Authentication Required",
            " (the proxy requires credentials: pass them with proxy_headers of urllib3.ProxyManager)",
        ),
        ("403 Forbidden", ""),
        ("502 \x1b[31mBad Gateway", ""),
    ],
)
def test_refused_tunnel_is_told_with_the_status_of_the_proxy(
    serve: Serve, status: str, hint: str, timeout_ms: float | None
) -> None:
    proxy = serve(acts(say(head(f"HTTP/1.1 {status}", {"content-length": 0}))))
    with proxied(proxy.url) as manager:
        error = failure("https://greet.example", manager, timeout_ms)

    assert type(error.__cause__) is OSError
    assert error.message.startswith(
        f"cannot connect to greet.example:443 through the proxy 127.0.0.1:{proxy.port}"
    )
    assert error.message.endswith(f": Tunnel connection failed: {status}{hint}".replace("\x1b", ""))
    assert_no_credentials(error)


def open_tunnel_to_nothing(peer: Peer) -> None:
    """Grant a tunnel, and answer the handshake in it with plain HTTP."""
    peer.read_head()
    peer.send(b"HTTP/1.1 200 Connection Established\r\n\r\n")
    peer.read(1)
    peer.send(head("HTTP/1.1 400 Bad Request"))
    peer.wait_for_hang_up()


@pytest.mark.parametrize(
    ("is_proxy_tls", "who"),
    [
        (False, "the server at greet.example:443"),
        (True, "the server at greet.example:443 or the proxy at {}"),
    ],
)
def test_plain_answer_in_a_tunnel_names_each_side_that_may_have_sent_it(
    serve: Serve, certificates: Certificates, is_proxy_tls: bool, who: str
) -> None:
    proxy = serve(open_tunnel_to_nothing, is_tls=is_proxy_tls)
    with proxied(proxy.url, proxy_ssl_context=certificates.client_context()) as manager:
        error = failure("https://greet.example", manager)

    name = f"127.0.0.1:{proxy.port}"
    assert error.message == f"{who.format(name)} does not speak TLS: use http://"
    assert_no_credentials(error)


def test_alert_of_a_proxy_names_the_proxy(serve: Serve) -> None:
    proxy = serve(acts(say(ALERT)))
    with proxied(proxy.url) as manager:
        error = failure("http://greet.example", manager)

    assert error.message == f"the proxy at 127.0.0.1:{proxy.port} speaks TLS: use https://"
    assert_no_credentials(error)


def test_plain_answer_of_an_https_proxy_names_the_proxy(server: Gunicorn, certificates: Certificates) -> None:
    with proxied(
        f"https://127.0.0.1:{server.port}", proxy_ssl_context=certificates.client_context()
    ) as manager:
        error = failure("http://greet.example", manager)

    assert error.message == f"the proxy at 127.0.0.1:{server.port} does not speak TLS: use http://"
    assert_no_credentials(error)
