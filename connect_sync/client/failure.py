"""What errors of sockets, TLS and urllib3 mean to a caller, and what to do about them.

Addresses are shown as host and port alone, since those of proxies may have credentials. Errors of urllib3 are
replaced by what caused them, which they only repeat.
"""

from __future__ import annotations

import socket
import ssl
from http.client import HTTPException

from urllib3.exceptions import HTTPError
from urllib3.util.ssl_match_hostname import CertificateError
from urllib3.util.url import Url

from connect_sync.client.foreign import PROXY_CREDENTIALS_HINT, printable

_PORTS = {"http": 80, "https": 443}

# As X509_verify_cert_error_string(3) numbers them.
_UNTRUSTED = {18, 19, 20, 21}
_OTHER_HOST = {62, 64}


class OtherProtocolError(HTTPException):
    """A server answered HTTP/1.1 with another protocol, whose name is ``protocol``."""

    def __init__(self, protocol: str, start: bytes) -> None:
        """Make the error for a response that begins with ``start``."""
        super().__init__(f"the response is {protocol}: {start!r}")
        self.protocol = protocol


def check_start(start: bytes, *, is_plain: bool) -> None:
    """Check that the first bytes of a response may be HTTP/1.1. ``is_plain``: they came without TLS.

    Raises:
        OtherProtocolError: They are of another known protocol.
    """
    # The type of an alert, and the first byte of its version (RFC 8446, section 5.1).
    if is_plain and start[:2] == b"\x15\x03":
        raise OtherProtocolError("TLS", start)
    # A short SETTINGS frame, the first that a server sends (RFC 9113, section 3.4).
    if start[:2] == b"\0\0" and start[3:4] == b"\4":
        raise OtherProtocolError("HTTP/2", start)


class Route:
    """The server that calls go to, and the proxy on the way if there is one, to be named in errors."""

    def __init__(self, server: Url, proxy: Url | None, *, has_tunnel: bool) -> None:
        """Name the way to ``server``, through a tunnel of ``proxy`` or as requests that it forwards."""
        self._proxy = proxy
        self._has_tunnel = has_tunnel
        self._server_name = _name(server)
        self._proxy_name = "" if proxy is None else _name(proxy)
        self.is_plain: bool = server.scheme == "http" and (proxy is None or proxy.scheme == "http")
        """Whether connections do without TLS."""

    def connect_message(self, error: Exception) -> str:
        """Return the message for an error of opening a connection."""
        if isinstance(error, ssl.SSLError) and _is_plain_answer(error):
            return f"{self._peer()} does not speak TLS: use http://"
        peer = "server" if self._proxy is None else "proxy"
        return f"cannot connect to {self}: {_describe(error)}{_connect_hint(error, peer)}"

    def response_message(self, error: Exception, *, is_silent: bool = False) -> str:
        """Return the message for an error of sending a request or of reading its response.

        ``is_silent``: the request was the first on its connection, and nothing came back.
        """
        if isinstance(error, OtherProtocolError):
            if error.protocol == "TLS":
                return f"{self._peer()} speaks TLS: use https://"
            return f"{self._peer()} speaks only HTTP/2, which this client does not: is it a gRPC server?"
        # Most servers that expect TLS hang up without a word.
        hint = " (if it speaks TLS, use https://)" if is_silent and self.is_plain else _response_hint(error)
        return f"no valid answer from {self}: {_describe(error)}{hint}"

    def _peer(self) -> str:
        """Name the other side of TLS, whether it speaks it or not."""
        server, proxy = f"the server at {self._server_name}", f"the proxy at {self._proxy_name}"
        if self._proxy is None:
            return server
        if not self._has_tunnel:
            return proxy
        return server if self._proxy.scheme == "http" else f"{server} or {proxy}"

    def __str__(self) -> str:
        """Name the server, and the proxy."""
        return self._server_name + (f" through the proxy {self._proxy_name}" if self._proxy else "")


def _name(url: Url) -> str:
    """Return host and port, and nothing else."""
    return f"{url.host}:{url.port or _PORTS.get(url.scheme or '', 80)}"


def root_cause(error: Exception) -> Exception:
    """Return the error that one of urllib3 stands for, without those that it was raised from or during."""
    cause = error.__cause__ if isinstance(error, HTTPError) else None
    root = cause if isinstance(cause, Exception) else error
    root.__cause__ = root.__context__ = None
    return root


def _is_plain_answer(error: ssl.SSLError) -> bool:
    """Tell whether a handshake was answered with data that is not TLS: releases of OpenSSL differ."""
    text = str(error)
    return any(words in text for words in ("wrong version number", "http request", "record layer failure"))


def _describe(error: Exception) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"certificate verification failed: {error.verify_message.rstrip('.')}"
    return printable(str(error)) or type(error).__name__


def _connect_hint(error: Exception, peer: str) -> str:
    """Return what to do about an error of opening a connection to ``peer``, a server or a proxy."""
    verify_code = getattr(error, "verify_code", 0)
    if isinstance(error, ConnectionRefusedError):
        hint = f"is the {peer} running?"
    elif isinstance(error, socket.gaierror):
        hint = f"check the host name of the {peer}"
    elif verify_code in _UNTRUSTED:
        hint = "pass the certificate of its authority: pool_manager=urllib3.PoolManager(ca_certs=…)"
    elif verify_code in _OTHER_HOST or isinstance(error, CertificateError):
        hint = "use a host name of the certificate in the address"
    elif isinstance(error, FileNotFoundError):
        hint = "check the certificate files of the pool_manager"
    elif isinstance(error, ssl.SSLEOFError):
        hint = "if it does not speak TLS, use http://"
    elif "Tunnel connection failed: 407" in str(error):
        hint = PROXY_CREDENTIALS_HINT
    else:
        return ""
    return f" ({hint})"


def _response_hint(error: Exception) -> str:
    # With TLS 1.3 a client hears that it is refused when it reads.
    if isinstance(error, ssl.SSLError) and "certificate required" in str(error):
        return " (pass a client certificate: pool_manager=urllib3.PoolManager(cert_file=…, key_file=…))"
    return ""
