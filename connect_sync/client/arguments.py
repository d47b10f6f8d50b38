"""Checks of the arguments of clients and calls. Each error says what to pass instead."""

from __future__ import annotations

import re
from numbers import Real
from typing import cast

from urllib3.exceptions import HTTPError
from urllib3.util.url import Url, parse_url

from connect_sync.errors import describe
from connect_sync.protocol_type import ProtocolType
from connect_sync.protocols.connect import MAX_TIMEOUT_MS

_PROTOCOLS = (ProtocolType.CONNECT, ProtocolType.GRPC_WEB)

# No error may show a password. In a malformed address it is unknown where one ends: everything up to the last
# "@" is hidden.
_match_userinfo = re.compile(r"([a-z][a-z0-9+.\-]*:/+|/*).*@", re.IGNORECASE | re.DOTALL).match
_lacks_scheme = re.compile(r"(?!https?[:/])[a-z0-9.\-_]+(:[0-9]+)?(/[^@]*)?", re.IGNORECASE).fullmatch


def parse_address(address: object) -> Url:
    """Return the scheme, the host, the port and the path of an address, the latter two if it has them.

    Raises:
        TypeError: ``address`` is not a ``str``.
        ValueError: It is not an ``http`` or ``https`` URL, or has more than these parts.
    """
    if not isinstance(address, str):
        # Without its representation: that of a parsed URL may have a password.
        raise TypeError(f"address must be a str, got {type(address).__name__}")
    url = _parse(address)
    shown = _without_userinfo(address)
    if url is None:
        raise ValueError(f"address must be a URL such as 'http://localhost:8000', got {shown!r}")
    if url.scheme not in ("http", "https"):
        instead = f": write 'http://{address}'" if _lacks_scheme(address) else ""
        raise ValueError(f"address must start with http:// or https://, got {shown!r}{instead}")
    if not url.host:
        raise ValueError(f"address must have a host, got {shown!r}")
    if url.auth is not None:
        raise ValueError(
            f"address must not have a user name or a password, got {shown!r}: "
            "send them in a header of the calls, such as authorization"
        )
    if url.query is not None or url.fragment is not None:
        raise ValueError(f"address must end with its path, got {shown!r}: leave out what follows '?' or '#'")
    return url


def _parse(address: str) -> Url | None:
    try:
        return parse_url(address)
    except HTTPError:
        return None


def _without_userinfo(address: str) -> str:
    found = _match_userinfo(address)
    return f"{found[1]}***@{address[found.end() :]}" if found else address


def check_protocol(protocol: object) -> ProtocolType:
    """Return the protocol that a client speaks.

    Args:
        protocol: The protocol, or its name.

    Raises:
        TypeError: ``protocol`` is neither a `ProtocolType` nor a ``str``.
        ValueError: It is not a protocol of clients.
    """
    for known in _PROTOCOLS:
        if protocol in (known, known.value):
            return known
    expected = "protocol must be ProtocolType.CONNECT or ProtocolType.GRPC_WEB"
    if protocol in (ProtocolType.GRPC, ProtocolType.GRPC.value):
        raise ValueError(
            f"{expected}, got {_shown(protocol)}: gRPC needs HTTP/2, which this client does not speak"
        )
    if isinstance(protocol, str):
        raise ValueError(f"{expected}, got {_shown(protocol)}")
    raise TypeError(f"{expected}, got {describe(protocol)}")


def _shown(protocol: object) -> str:
    return str(protocol) if isinstance(protocol, ProtocolType) else repr(protocol)


def check_timeout_ms(timeout_ms: object) -> None:
    """Check a timeout in milliseconds. One of 0 or less is valid: the call ends at once.

    Raises:
        TypeError: ``timeout_ms`` is not a number.
        ValueError: It is NaN, or has more than ten digits (Connect reference, "Timeout").
    """
    if not isinstance(timeout_ms, Real) or isinstance(timeout_ms, bool):
        raise TypeError(f"timeout_ms must be a number of milliseconds, got {describe(timeout_ms)}")
    # Written so that it refuses NaN, too.
    if not cast(float, timeout_ms) <= MAX_TIMEOUT_MS:
        raise ValueError(f"timeout_ms must be a number up to {MAX_TIMEOUT_MS}, got {timeout_ms}")
