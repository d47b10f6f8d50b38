"""connect-web and Google's grpc-web in a browser, on a page of another origin than the service's."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import pytest
import urllib3

from tests.integration.certificates import Certificates
from tests.integration.servers import Gunicorn, Http2Gunicorn
from tests.interop.scenarios import EXPECTED, Variant, each_cell
from tests.system.browser import Browsers, Site, Task

# Browsers send a request as a whole, and neither client puts more than one message into it.
_NEVER = (
    "client_stream",
    "client_stream_empty",
    "client_stream_error",
    "client_stream_metadata",
    "client_stream_timeout",
    "client_stream_cancel",
    "bidi",
)
# Only Connect has GET.
_NOT_CONNECT = (*_NEVER, "unary_get")
_SERVER_STREAMS = (
    "server_stream",
    "server_stream_empty",
    "server_stream_error",
    "server_stream_metadata",
    "server_stream_timeout",
    "cancel",
)

_CONNECT_WEB = {"connect": _NEVER, "grpc-web": _NOT_CONNECT}
# In binary mode the client hands over a stream when that has ended: too late to give it up.
_GRPC_WEB = {"grpc-web": (*_NOT_CONNECT, "cancel"), "grpc-web-text": _NOT_CONNECT}
# The two clients of the package differ in unary calls alone.
_GRPC_WEB_PROMISE = dict.fromkeys(_GRPC_WEB, (*_NOT_CONNECT, *_SERVER_STREAMS))

_APPLICATION = "tests.interop.cors_service:application"
# Chromium's store of certificates is not for tests.
_TRUSTING = "--ignore-certificate-errors"

_CONNECT = Variant("connect", "proto")
_GRPC_WEB_BINARY = Variant("grpc-web", "proto")
_GRPC_WEB_TEXT = Variant("grpc-web-text", "proto")

_EACH_CLIENT = pytest.mark.parametrize(
    ("client", "variant"),
    [
        ("connect-web", _CONNECT),
        ("connect-web", _GRPC_WEB_BINARY),
        ("grpc-web", _GRPC_WEB_BINARY),
        ("grpc-web", _GRPC_WEB_TEXT),
    ],
    ids=str,
)
# connect-web calls fetch, grpc-web has an XMLHttpRequest.
_EACH_API = pytest.mark.parametrize(
    ("client", "variant"), [("connect-web", _CONNECT), ("grpc-web", _GRPC_WEB_BINARY)], ids=str
)
_UNARY = "/interop.v1.InteropService/Unary"
_UNARY_SAFELY = "/interop.v1.InteropService/UnarySafely"


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    """The origin that the service allows."""
    site = Site()
    yield site
    site.close()


@pytest.fixture
def stranger() -> Iterator[Site]:
    """An origin that the service does not allow."""
    site = Site()
    yield site
    site.close()


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory, site: Site) -> Iterator[Gunicorn]:
    """A service over HTTP/1.1."""
    output = tmp_path_factory.mktemp("service") / "gunicorn.log"
    server = Gunicorn(output, "gthread", *_options(site), application=_APPLICATION)
    yield server
    server.stop()


@pytest.fixture(scope="module")
def http2_service(
    tmp_path_factory: pytest.TempPathFactory, site: Site, certificates: Certificates
) -> Iterator[Gunicorn]:
    """A service over HTTP/2, which browsers speak over TLS alone."""
    output = tmp_path_factory.mktemp("http2_service") / "gunicorn.log"
    server = Http2Gunicorn(
        output, "gthread", *_options(site), application=_APPLICATION, certificates=certificates
    )
    yield server
    server.stop()


def _options(site: Site) -> tuple[str, ...]:
    return ("--threads", "8", "--env", f"PAGE_ORIGIN={site.origin}")


# All scenarios


@pytest.fixture(scope="module")
def browsers(site: Site, service: Gunicorn) -> Browsers:
    return Browsers(site, service)


@each_cell(_CONNECT_WEB)
def test_connect_web(browsers: Browsers, variant: Variant, scenario: str) -> None:
    browsers.check("connect-web", variant, scenario, left_out=_CONNECT_WEB)


@each_cell(_GRPC_WEB, ["proto"])
def test_grpc_web(browsers: Browsers, variant: Variant, scenario: str) -> None:
    browsers.check("grpc-web", variant, scenario, left_out=_GRPC_WEB)


@each_cell(_GRPC_WEB_PROMISE, ["proto"])
def test_grpc_web_with_promises(browsers: Browsers, variant: Variant, scenario: str) -> None:
    browsers.check("grpc-web-promise", variant, scenario, left_out=_GRPC_WEB_PROMISE)


@pytest.fixture(scope="module")
def http2_browsers(site: Site, http2_service: Gunicorn) -> Browsers:
    return Browsers(site, http2_service, _TRUSTING)


@each_cell(_CONNECT_WEB, ["proto"])
def test_connect_web_over_http2(http2_browsers: Browsers, variant: Variant, scenario: str) -> None:
    http2_browsers.check("connect-web", variant, scenario, left_out=_CONNECT_WEB)


@each_cell(_GRPC_WEB, ["proto"])
def test_grpc_web_over_http2(http2_browsers: Browsers, variant: Variant, scenario: str) -> None:
    http2_browsers.check("grpc-web", variant, scenario, left_out=_GRPC_WEB)


# What is allowed, and what is not


def _visit(
    site: Site,
    service: Gunicorn,
    client: str,
    variant: Variant,
    *scenarios: str,
    mount: str = "full",
    with_credentials: bool = False,
) -> tuple[dict[str, Any], list[_Request]]:
    """Return what came of scenarios, and the requests that arrived."""
    _tell_requests(service)
    task = Task(client, service, variant, scenarios, mount, with_credentials)
    outcomes, console = site.visit(task, _TRUSTING)
    print(console, service.new_output(), sep="\n")
    return outcomes, _tell_requests(service)


class _Request(NamedTuple):
    method: str
    path: str
    protocol: str
    has_cookie: bool


def _tell_requests(service: Gunicorn) -> list[_Request]:
    with urllib3.PoolManager(ssl_context=service.tls) as manager:
        return [_Request(*request) for request in manager.request("GET", f"{service.url}/requests").json()]


def _methods(requests: list[_Request]) -> list[tuple[str, str]]:
    return [(request.method, request.path) for request in requests]


def _done(*scenarios: str) -> dict[str, Any]:
    return {scenario: {"result": EXPECTED[scenario]} for scenario in scenarios}


def _is_blocked(outcome: dict[str, Any]) -> bool:
    """Tell whether a page learnt of its call nothing but that it failed."""
    # In the words of connect-web and of grpc-web.
    return any(words in outcome["crash"] for words in ("Failed to fetch", "Http response at 400"))


@_EACH_CLIENT
def test_calls_are_allowed_by_one_preflight(
    site: Site, service: Gunicorn, client: str, variant: Variant
) -> None:
    outcomes, requests = _visit(site, service, client, variant, "unary", "unary_error")

    assert outcomes == _done("unary", "unary_error")
    assert _methods(requests) == [("OPTIONS", _UNARY), ("POST", _UNARY), ("POST", _UNARY)]
    assert not any(request.has_cookie for request in requests)


def test_preflight_and_call_go_over_http2(site: Site, http2_service: Gunicorn) -> None:
    outcomes, requests = _visit(site, http2_service, "connect-web", _CONNECT, "unary")

    assert outcomes == _done("unary")
    assert _methods(requests) == [("OPTIONS", _UNARY), ("POST", _UNARY)]
    assert {request.protocol for request in requests} == {"HTTP/2.0"}


def test_get_needs_no_preflight(site: Site, service: Gunicorn) -> None:
    outcomes, requests = _visit(site, service, "connect-web", _CONNECT, "unary_get")

    assert outcomes == _done("unary_get")
    assert _methods(requests) == [("GET", _UNARY_SAFELY)]


@_EACH_API
def test_page_of_another_origin_cannot_call(
    stranger: Site, service: Gunicorn, client: str, variant: Variant
) -> None:
    outcomes, requests = _visit(stranger, service, client, variant, "unary")

    assert _is_blocked(outcomes["unary"])
    assert _methods(requests) == [("OPTIONS", _UNARY)]


def test_page_of_another_origin_cannot_read_what_it_gets(stranger: Site, service: Gunicorn) -> None:
    outcomes, requests = _visit(stranger, service, "connect-web", _CONNECT, "unary_get")

    assert _is_blocked(outcomes["unary_get"])
    assert _methods(requests) == [("GET", _UNARY_SAFELY)]


@_EACH_API
def test_metadata_has_to_be_allowed(site: Site, service: Gunicorn, client: str, variant: Variant) -> None:
    outcomes, requests = _visit(site, service, client, variant, "unary_metadata", mount="bare")

    assert _is_blocked(outcomes["unary_metadata"])
    assert _methods(requests) == [("OPTIONS", _UNARY)]


@_EACH_API
def test_credentials_are_sent_where_allowed(
    site: Site, service: Gunicorn, client: str, variant: Variant
) -> None:
    outcomes, requests = _visit(
        site, service, client, variant, "unary", mount="credentials", with_credentials=True
    )

    assert outcomes == _done("unary")
    assert [(request.method, request.has_cookie) for request in requests] == [
        ("OPTIONS", False),
        ("POST", True),
    ]


@_EACH_API
def test_credentials_have_to_be_allowed(site: Site, service: Gunicorn, client: str, variant: Variant) -> None:
    outcomes, requests = _visit(site, service, client, variant, "unary", mount="bare", with_credentials=True)

    assert _is_blocked(outcomes["unary"])
    assert _methods(requests) == [("OPTIONS", _UNARY)]
