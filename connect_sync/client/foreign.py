"""The error for a response that is not of the protocol: a proxy's page, a redirect, another API's JSON.

Any server may have written it, so nothing in it can make this raise: only its start is looked at, and only
printable text of it is shown.
"""

from __future__ import annotations

import json
import re
from html import unescape
from http.client import responses
from typing import Any
from urllib.parse import urljoin, urlsplit

from connect_sync.code import Code
from connect_sync.errors import ConnectError, UnansweredError
from connect_sync.headers import Headers
from connect_sync.protocols.protocol import media_type

_MAX_BODY = 16 * 1024
"""How many bytes of a body are looked at."""
_MAX_TEXT = 200
"""How many characters of a text of the response the error shows."""
_MAX_URL = 2000

PROXY_CREDENTIALS_HINT = (
    "the proxy requires credentials: pass them with proxy_headers of urllib3.ProxyManager"
)
_HINTS = {
    404: "is a prefix missing from the address?",
    405: "does the address lead to a Connect service?",
    407: PROXY_CREDENTIALS_HINT,
    413: "the request is larger than the server or a proxy allows",
    415: "the server may not support this protocol or codec",
    429: "too many calls",
    431: "the request headers are larger than the server or a proxy allows: send less metadata",
    502: "a proxy answered in place of the service: is the service running?",
    503: "a proxy answered in place of the service: is the service running?",
    504: "a proxy answered in place of the service: is the service running?",
    505: "the server does not support HTTP/1.1",
}

# What nginx, Go, cheroot, Apache, gunicorn and Tomcat answer to plain HTTP on a port for TLS.
_expects_tls = re.compile(
    "plain HTTP request was sent to HTTPS port"
    "|sent an HTTP request to an HTTPS server"
    "|sent a plain HTTP request, but this server only speaks HTTPS"
    "|speaking plain HTTP to an SSL-enabled server port"
    r"|\[SSL: HTTP_REQUEST\]"
    "|host and port requires TLS",
    re.IGNORECASE,
).search

_userinfo = re.compile(r"(?<=//)[^/?#]*@")


def foreign_response_error(
    url: str, status: int, headers: Headers, body: bytes, code: Code | None = None
) -> ConnectError:
    """Return the error for a response that carries neither a message nor an error of the protocol.

    Its message has the URL, the status, what the response says in words, and what is usually wrong.

    Args:
        url: The URL of the request. Its query, which holds the message of a GET, is not shown.
        status: The HTTP status.
        headers: The headers of the response.
        body: The body, or its start, decompressed. The first 16 KiB of it are looked at.
        code: The error's code; None for that of the status (Connect reference, "HTTP to error code").
    """
    url = _shown_url(url.partition("?")[0])
    content_type = headers.get("content-type", "")
    media = media_type(content_type)
    body = body[:_MAX_BODY]
    phrase = responses.get(status, "")
    message = f"{url} was answered with HTTP {status} {phrase}".rstrip()
    if status == 200:
        message += f", content type {printable(content_type)!r}" if media else ", without a content type"
    location = headers.get("location", "") if 300 <= status < 400 else ""
    if location:
        message += f", Location {_shown_url(location)!r}"
    text = printable(_text(media, body))
    if text.rstrip(".").lower() not in ("", phrase.lower(), f"{status} {phrase}".lower()):
        message += f": {text!r}"
    hint = _hint(url, status, headers, media, body, location)
    if hint:
        message += f" ({hint})"
    return UnansweredError(Code.from_http_status(status) if code is None else code, message)


def printable(text: str, max_size: int = _MAX_TEXT) -> str:
    """Return text from another side as one short line, without characters that could control a terminal."""
    text = text[: 4 * max_size]  # white space and what is not printable may shrink it
    line = " ".join("".join(char if char.isprintable() else " " for char in text).split())
    return line if len(line) <= max_size else f"{line[:max_size]}…"


def _shown_url(url: str) -> str:
    return printable(_userinfo.sub("", url[: 4 * _MAX_URL], count=1), _MAX_URL)


# What a response says in words


def _text(media: str, body: bytes) -> str:
    if "json" in media:
        return _json_text(body)
    text = body.decode("utf-8", "replace")
    if "html" in media:
        return _element_text(text, "title")
    if "xml" in media:  # S3
        return _element_text(text, "message")
    if media == "text/plain":
        return text.strip().partition("\n")[0]
    return ""


def _json_text(body: bytes) -> str:
    """Return the message of an error in foreign JSON, as the usual frameworks and gateways write it."""
    try:
        value = json.loads(body)
    except (ValueError, RecursionError):
        return ""
    if not isinstance(value, dict):
        return ""
    error = value.get("error")
    nested = error.get("message") if isinstance(error, dict) else error
    for text in (value.get("message"), value.get("Message"), nested):
        if isinstance(text, str) and text:
            return text
    # RFC 9457, section 3.1; Django REST Framework and FastAPI have "detail" alone.
    parts = (value.get("title"), _first_detail(value.get("detail")))
    return ": ".join(part for part in parts if isinstance(part, str) and part)


def _first_detail(detail: Any) -> Any:
    """Return the first error, where FastAPI lists those of a request's fields."""
    first = detail[0] if isinstance(detail, list) and detail else None
    return first.get("msg") if isinstance(first, dict) else detail


def _element_text(text: str, name: str) -> str:
    """Return the text of the first element of that name in HTML or XML."""
    start = re.search(f"<{name}[ \t\r\n>]", text, re.IGNORECASE)
    if start is None:
        return ""
    rest = text[start.end() - 1 :].partition(">")[2]
    return unescape(rest.partition("<")[0])


# What is usually wrong


def _hint(url: str, status: int, headers: Headers, media: str, body: bytes, location: str) -> str:
    if status == 200:
        if "html" in media:
            return "the address leads to a web page, not to a Connect service"
        return "this is not a response of the client's protocol: check the address and the protocol"
    if url.startswith("http:") and _expects_tls(body.decode("latin-1")):
        return "the server speaks TLS: use https:// in the address"
    if 300 <= status < 400 and status != 304:
        address = _redirected_address(url, location)
        instead = f"use the address {address}" if address else "check the address"
        return f"redirects are not followed: {instead}"
    if status in (401, 403) and "html" in media:
        return "a proxy or a login page answered in place of the service: does the call lack credentials?"
    if status == 426:
        upgrade = printable(headers.get("upgrade", ""))
        return f"the server requires {upgrade or 'another version of HTTP'}"
    hint = _HINTS.get(status, "")
    retry_after = printable(headers.get("retry-after", ""))
    if hint and retry_after:
        unit = " seconds" if retry_after.isdecimal() else ""
        return f"{hint}; retry after {retry_after}{unit}"
    return hint


def _redirected_address(url: str, location: str) -> str:
    """Return the address with which the same call goes to ``location``; empty if there is none."""
    try:
        asked, target = urlsplit(url), urlsplit(urljoin(url, location[:_MAX_URL]))
    except ValueError:
        return ""
    # /service/method, after the prefix
    method = "/" + "/".join(asked.path.rsplit("/", 2)[1:])
    path = target.path.rstrip("/")
    if not path.endswith(method) or target.scheme not in ("http", "https") or not target.netloc:
        return ""
    address = f"{target.scheme}://{target.netloc}{path.removesuffix(method)}"
    return "" if url == address + method else _shown_url(address)
