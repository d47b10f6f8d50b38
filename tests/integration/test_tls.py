"""Certificates of servers and of clients, with gunicorn."""

from __future__ import annotations

from typing import Literal

import pytest
import urllib3
from echo.v1.echo_connect import EchoServiceClient

from connect_sync import Code
from tests.integration.calls import Kind, idle_connections
from tests.integration.certificates import Certificates
from tests.integration.servers import Gunicorn
from tests.integration.wire import PATIENCE

all_kinds = pytest.mark.parametrize("kind", Kind, ids=lambda kind: kind.value)


@all_kinds
def test_server_with_a_known_certificate_is_called(
    kind: Kind, tls_server: Gunicorn, certificates: Certificates
) -> None:
    with urllib3.PoolManager(ssl_context=certificates.client_context()) as manager:
        assert kind.call(EchoServiceClient(tls_server.url, pool_manager=manager)) == [b"request"]


@all_kinds
def test_server_with_an_unknown_certificate_is_unavailable(
    kind: Kind, tls_server: Gunicorn, certificates: Certificates
) -> None:
    with urllib3.PoolManager(ssl_context=certificates.client_context(is_server_known=False)) as manager:
        assert_unavailable(kind, tls_server.url, manager)


@all_kinds
def test_server_with_a_certificate_of_another_name_is_unavailable(
    kind: Kind, tls_server: Gunicorn, certificates: Certificates
) -> None:
    with urllib3.PoolManager(
        ssl_context=certificates.client_context(), server_hostname="other.example"
    ) as manager:
        assert_unavailable(kind, tls_server.url, manager)


@all_kinds
def test_server_without_tls_is_unavailable_over_tls(
    kind: Kind, server: Gunicorn, certificates: Certificates
) -> None:
    with urllib3.PoolManager(ssl_context=certificates.client_context()) as manager:
        assert_unavailable(kind, server.url.replace("http", "https"), manager)


@all_kinds
def test_client_with_a_known_certificate_is_served(
    kind: Kind, mutual_tls_server: Gunicorn, certificates: Certificates
) -> None:
    with urllib3.PoolManager(ssl_context=certificates.client_context(certificate="known")) as manager:
        assert kind.call(EchoServiceClient(mutual_tls_server.url, pool_manager=manager)) == [b"request"]


@all_kinds
@pytest.mark.parametrize("certificate", ["none", "unknown"])
def test_client_without_a_known_certificate_finds_server_unavailable(
    kind: Kind,
    certificate: Literal["none", "unknown"],
    mutual_tls_server: Gunicorn,
    certificates: Certificates,
) -> None:
    with urllib3.PoolManager(ssl_context=certificates.client_context(certificate=certificate)) as manager:
        assert_unavailable(kind, mutual_tls_server.url, manager)


def assert_unavailable(kind: Kind, url: str, manager: urllib3.PoolManager) -> None:
    client = EchoServiceClient(url, pool_manager=manager)
    for timeout_ms in (None, PATIENCE * 1000):
        error = kind.failure(client, timeout_ms=timeout_ms)
        assert error.code is Code.UNAVAILABLE
        assert error.__cause__ is not None
        assert idle_connections(manager, url) == []
