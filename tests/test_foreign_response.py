"""Responses that are not of the protocol, as servers, frameworks, proxies and clouds write them."""

from __future__ import annotations

import gzip
import json
from collections.abc import Mapping
from http.client import responses
from random import Random

import pytest

from connect_sync import Code, ConnectError, Headers
from connect_sync.client.foreign import foreign_response_error

URL = "http://greet.example:8000/greet.v1.GreetService/Greet"
HTML = "text/html; charset=utf-8"
JSON = "application/json"
PLAIN = "text/plain"

NGINX_404 = b"""<html>\r
<head><title>404 Not Found</title></head>\r
<body>\r
<center><h1>404 Not Found</h1></center>\r
<hr><center>nginx/1.26.3</center>\r
</body>\r
</html>\r
"""
NGINX_497 = b"""<html>\r
<head><title>400 The plain HTTP request was sent to HTTPS port</title></head>\r
<body>\r
<center><h1>400 Bad Request</h1></center>\r
<center>The plain HTTP request was sent to HTTPS port</center>\r
<hr><center>nginx</center>\r
</body>\r
</html>\r
"""
NGINX_WELCOME = b"""<!DOCTYPE html>
<html>
<head>
<title>Welcome to nginx!</title>
<style>
html { color-scheme: light dark; }
"""
APACHE_TLS = b"""<!DOCTYPE HTML PUBLIC "-//IETF//DTD HTML 2.0//EN">
<html><head>
<title>400 Bad Request</title>
</head><body>
<h1>Bad Request</h1>
<p>Your browser sent a request that this server could not understand.<br />
Reason: You're speaking plain HTTP to an SSL-enabled server port.<br />
 Instead use the HTTPS scheme to access this URL, please.<br />
</p>
</body></html>
"""
GUNICORN_403 = b"""<html>
  <head>
    <title>Forbidden</title>
  </head>
  <body>
    <h1><p>Forbidden</p></h1>
    &#x27;[SSL: HTTP_REQUEST] http request (_ssl.c:1006)&#x27;
  </body>
</html>
"""
TOMCAT_TLS = b"Bad Request\r\nThis combination of host and port requires TLS.\r\n"
DJANGO_404 = b"""
<!doctype html>
<html lang="en">
<head>
  <title>Not Found</title>
</head>
<body>
  <h1>Not Found</h1><p>The requested resource was not found on this server.</p>
</body>
</html>
"""
DJANGO_DEBUG_404 = b"""<!DOCTYPE html>
<html lang="en">
<head>
  <meta http-equiv="content-type" content="text/html; charset=utf-8">
  <title>Page not found at /greet.v1.GreetService/Greet</title>
"""
DJANGO_CSRF = b"""
<!DOCTYPE html>
<html lang="en">
<head>
  <meta http-equiv="content-type" content="text/html; charset=utf-8">
  <meta name="robots" content="NONE,NOARCHIVE">
  <title>403 Forbidden</title>
"""
FLASK_405 = b"""<!doctype html>
<html lang=en>
<title>405 Method Not Allowed</title>
<h1>Method Not Allowed</h1>
<p>The method is not allowed for the requested URL.</p>
"""
FASTAPI_422 = json.dumps(
    {"detail": [{"type": "json_invalid", "loc": ["body", 0], "msg": "JSON decode error", "input": {}}]}
).encode()
ALB_502 = b"<html>\r\n<head><title>502 Bad Gateway</title></head>\r\n<body>\r\n<center><h1>502 Bad Gateway"
CLOUDFLARE_522 = b"""<!DOCTYPE html>
<!--[if lt IE 7]> <html class="no-js ie6 oldie" lang="en-US"> <![endif]-->
<head>


<title>greet.example | 522: Connection timed out</title>
<meta charset="UTF-8" />
"""
S3_403 = b"""<?xml version="1.0" encoding="UTF-8"?>
<Error><Code>AccessDenied</Code><Message>Access Denied</Message><RequestId>4442587FB7D0A2F9</RequestId>"""
S3_405 = b"""<?xml version="1.0" encoding="UTF-8"?>
<Error><Code>MethodNotAllowed</Code>
<Message>The specified method is not allowed against this resource.</Message>
<Method>POST</Method><ResourceType>OBJECT</ResourceType></Error>"""
PROBLEM = json.dumps(
    {
        "type": "about:blank",
        "title": "Not Found",
        "status": 404,
        "detail": "No route for POST",
        "instance": "/",
    }
).encode()


def message(
    status: int,
    content_type: str = "",
    body: bytes = b"",
    *,
    headers: Mapping[str, str] | None = None,
    url: str = URL,
) -> str:
    """Return the message of the error."""
    pairs = {"content-type": content_type} if content_type else {}
    wire = Headers.from_wire([*pairs.items(), *(headers or {}).items()])
    return foreign_response_error(url, status, wire, body).message


def answered(status: int, rest: str = "") -> str:
    return f"{URL} was answered with HTTP {status} {responses.get(status, '')}".rstrip() + rest


PREFIX_HINT = " (is a prefix missing from the address?)"
SERVICE_HINT = " (does the address lead to a Connect service?)"
PROXY_HINT = " (a proxy answered in place of the service: is the service running?)"
PAGE_HINT = " (the address leads to a web page, not to a Connect service)"
LOGIN_HINT = " (a proxy or a login page answered in place of the service: does the call lack credentials?)"
TLS_HINT = " (the server speaks TLS: use https:// in the address)"
CODEC_HINT = " (the server may not support this protocol or codec)"


@pytest.mark.parametrize(
    ("status", "content_type", "body", "rest"),
    [
        pytest.param(404, "text/html", NGINX_404, PREFIX_HINT, id="nginx 404"),
        pytest.param(
            400,
            "text/html",
            NGINX_497,
            ": '400 The plain HTTP request was sent to HTTPS port'" + TLS_HINT,
            id="nginx 497",
        ),
        pytest.param(
            200,
            "text/html",
            NGINX_WELCOME,
            ", content type 'text/html': 'Welcome to nginx!'" + PAGE_HINT,
            id="nginx 200",
        ),
        pytest.param(400, "text/html; charset=iso-8859-1", APACHE_TLS, TLS_HINT, id="Apache TLS"),
        pytest.param(403, "text/html", GUNICORN_403, TLS_HINT, id="gunicorn TLS"),
        pytest.param(
            400,
            PLAIN,
            b"The client sent a plain HTTP request, but this server only speaks HTTPS on this port.",
            ": 'The client sent a plain HTTP request, but this server only speaks HTTPS on this port.'"
            + TLS_HINT,
            id="cheroot TLS",
        ),
        pytest.param(400, "text/plain;charset=UTF-8", TOMCAT_TLS, TLS_HINT, id="Tomcat TLS"),
        pytest.param(
            400,
            "",
            b"Client sent an HTTP request to an HTTPS server.\n",
            TLS_HINT,
            id="Go TLS",
        ),
        pytest.param(404, HTML, DJANGO_404, PREFIX_HINT, id="Django 404"),
        pytest.param(
            404,
            HTML,
            DJANGO_DEBUG_404,
            ": 'Page not found at /greet.v1.GreetService/Greet'" + PREFIX_HINT,
            id="Django 404, DEBUG",
        ),
        pytest.param(403, HTML, DJANGO_CSRF, LOGIN_HINT, id="Django CSRF"),
        pytest.param(
            415,
            JSON,
            b'{"detail":"Unsupported media type \\"application/proto\\" in request."}',
            ": 'Unsupported media type \"application/proto\" in request.'" + CODEC_HINT,
            id="Django REST Framework 415",
        ),
        pytest.param(
            401,
            JSON,
            b'{"detail":"Authentication credentials were not provided."}',
            ": 'Authentication credentials were not provided.'",
            id="Django REST Framework 401",
        ),
        pytest.param(405, HTML, FLASK_405, SERVICE_HINT, id="Flask 405"),
        pytest.param(404, JSON, b'{"detail":"Not Found"}', PREFIX_HINT, id="FastAPI 404"),
        pytest.param(422, JSON, FASTAPI_422, ": 'JSON decode error'", id="FastAPI 422"),
        pytest.param(
            404,
            "text/plain; charset=utf-8",
            b"404 page not found\n",
            ": '404 page not found'" + PREFIX_HINT,
            id="Go 404",
        ),
        pytest.param(
            503, PLAIN, b"no healthy upstream", ": 'no healthy upstream'" + PROXY_HINT, id="Envoy 503"
        ),
        pytest.param(
            503,
            PLAIN,
            b"upstream connect error or disconnect/reset before headers. reset reason: connection refused",
            ": 'upstream connect error or disconnect/reset before headers. reset reason: connection refused'"
            + PROXY_HINT,
            id="Envoy 503, refused",
        ),
        pytest.param(
            503,
            JSON,
            b'{"status":503,"message":"no healthy upstream"}',
            ": 'no healthy upstream'" + PROXY_HINT,
            id="Envoy 503 in JSON",
        ),
        pytest.param(403, PLAIN, b"RBAC: access denied", ": 'RBAC: access denied'", id="Envoy RBAC"),
        pytest.param(502, "text/html", ALB_502, PROXY_HINT, id="AWS ALB"),
        pytest.param(
            403,
            JSON,
            b'{"message":"Missing Authentication Token"}',
            ": 'Missing Authentication Token'",
            id="AWS API Gateway",
        ),
        pytest.param(
            403,
            "application/x-amz-json-1.1",
            b'{"Message":"User is not authorized to access this resource"}',
            ": 'User is not authorized to access this resource'",
            id="AWS IAM",
        ),
        pytest.param(403, "application/xml", S3_403, ": 'Access Denied'", id="S3 403"),
        pytest.param(
            405,
            "application/xml",
            S3_405,
            ": 'The specified method is not allowed against this resource.'" + SERVICE_HINT,
            id="S3 405",
        ),
        pytest.param(
            522,
            HTML,
            CLOUDFLARE_522,
            ": 'greet.example | 522: Connection timed out'",
            id="Cloudflare 522",
        ),
        pytest.param(
            404,
            "application/problem+json",
            PROBLEM,
            ": 'Not Found: No route for POST'" + PREFIX_HINT,
            id="RFC 9457",
        ),
        pytest.param(
            404,
            JSON,
            b'{"timestamp":"2030-01-01T00:00:00Z","status":404,"error":"Not Found","path":"/"}',
            PREFIX_HINT,
            id="Spring Boot",
        ),
        pytest.param(
            401,
            JSON,
            b'{"error":{"code":401,"message":"API key not valid.","status":"UNAUTHENTICATED"}}',
            ": 'API key not valid.'",
            id="Google",
        ),
        pytest.param(401, JSON, b'{"error":"invalid_token"}', ": 'invalid_token'", id="OAuth"),
        pytest.param(
            200,
            JSON,
            b'{"message":"hello"}',
            ", content type 'application/json': 'hello'"
            " (this is not a response of the client's protocol: check the address and the protocol)",
            id="JSON 200",
        ),
        pytest.param(
            200,
            "",
            b"",
            ", without a content type"
            " (this is not a response of the client's protocol: check the address and the protocol)",
            id="200 of nothing",
        ),
        pytest.param(204, "", b"", "", id="204"),
        pytest.param(500, "text/html", b"<html>", "", id="page without a title"),
        pytest.param(500, JSON, b'["message"]', "", id="JSON list"),
        pytest.param(500, JSON, b'{"message": 5, "error": [], "title": null}', "", id="JSON of other types"),
        pytest.param(500, "application/octet-stream", b"text", "", id="binary"),
        pytest.param(799, PLAIN, b"odd", ": 'odd'", id="unknown status"),
    ],
)
def test_response_is_told_in_its_words_with_what_is_usually_wrong(
    status: int, content_type: str, body: bytes, rest: str
) -> None:
    assert message(status, content_type, body) == answered(status, rest)


@pytest.mark.parametrize(
    ("status", "headers", "hint"),
    [
        (407, {}, "the proxy requires credentials: pass them with proxy_headers of urllib3.ProxyManager"),
        (413, {}, "the request is larger than the server or a proxy allows"),
        (415, {}, "the server may not support this protocol or codec"),
        (426, {}, "the server requires another version of HTTP"),
        (426, {"upgrade": "h2c"}, "the server requires h2c"),
        (429, {}, "too many calls"),
        (429, {"retry-after": "30"}, "too many calls; retry after 30 seconds"),
        (
            429,
            {"retry-after": "Wed, 21 Oct 2030 07:28:00 GMT"},
            "too many calls; retry after Wed, 21 Oct 2030 07:28:00 GMT",
        ),
        (
            431,
            {},
            "the request headers are larger than the server or a proxy allows: send less metadata",
        ),
        (
            503,
            {"retry-after": "5"},
            "a proxy answered in place of the service: is the service running?; retry after 5 seconds",
        ),
        (505, {}, "the server does not support HTTP/1.1"),
    ],
)
def test_status_that_has_a_usual_cause_is_told_with_it(
    status: int, headers: dict[str, str], hint: str
) -> None:
    assert message(status, headers=headers) == answered(status, f" ({hint})")


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
@pytest.mark.parametrize(
    ("location", "address"),
    [
        ("https://greet.example/greet.v1.GreetService/Greet", "https://greet.example"),
        ("https://greet.example/api/greet.v1.GreetService/Greet/?a=b#c", "https://greet.example/api"),
        ("/api/greet.v1.GreetService/Greet", "http://greet.example:8000/api"),
        ("//other.example/greet.v1.GreetService/Greet", "http://other.example"),
        ("https://[::1]:8443/greet.v1.GreetService/Greet", "https://[::1]:8443"),
    ],
)
def test_redirect_of_the_method_names_the_new_address(status: int, location: str, address: str) -> None:
    assert message(status, headers={"location": location}) == answered(
        status, f", Location '{location}' (redirects are not followed: use the address {address})"
    )


@pytest.mark.parametrize(
    "location",
    [
        "/login?next=/greet.v1.GreetService/Greet",
        "/greet.v1.GreetService/Greet/",
        "/greet.v1.GreetService/Greet?a=b",
        "greet.v2.GreetService/Greet",
        "ftp://greet.example/greet.v1.GreetService/Greet",
        "mailto:greet@greet.example",
        "http://[::1",
        "http:///greet.v1.GreetService/Greet",
    ],
)
def test_redirect_to_something_else_names_its_location(location: str) -> None:
    assert message(302, headers={"location": location}) == answered(
        302, f", Location '{location}' (redirects are not followed: check the address)"
    )


def test_redirect_without_a_location_is_not_followed_either() -> None:
    assert message(301) == answered(301, " (redirects are not followed: check the address)")


def test_new_address_keeps_its_prefix_and_the_prefix_of_the_old_is_not_the_method() -> None:
    told = message(
        308,
        url="http://greet.example/v1/greet.v1.GreetService/Greet",
        headers={"location": "https://greet.example/v1/greet.v1.GreetService/Greet"},
    )

    assert told.endswith("use the address https://greet.example/v1)")


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("http://user:secret@greet.example/a.B/C", "http://greet.example/a.B/C"),
        ("http://secret@greet.example/a.B/C", "http://greet.example/a.B/C"),
        ("http://greet.example/@a/a.B/C?message=secret", "http://greet.example/@a/a.B/C"),
    ],
)
def test_url_is_shown_without_credentials_and_without_the_message_of_a_get(url: str, shown: str) -> None:
    told = message(500, url=url)

    assert told == f"{shown} was answered with HTTP 500 Internal Server Error"


def test_location_is_shown_without_credentials() -> None:
    told = message(307, headers={"location": "https://user:secret@greet.example/greet.v1.GreetService/Greet"})

    assert "secret" not in told
    assert told.endswith("use the address https://greet.example)")


def test_hint_at_tls_is_for_addresses_without_it() -> None:
    told = message(400, "text/html", NGINX_497, url="https://greet.example/a.B/C")

    assert "https:// in the address" not in told


# The code


@pytest.mark.parametrize(
    ("status", "code"),
    [
        (200, Code.UNKNOWN),
        (302, Code.UNKNOWN),
        (400, Code.INTERNAL),
        (401, Code.UNAUTHENTICATED),
        (403, Code.PERMISSION_DENIED),
        (404, Code.UNIMPLEMENTED),
        (429, Code.UNAVAILABLE),
        (503, Code.UNAVAILABLE),
    ],
)
def test_code_is_that_of_the_status(status: int, code: Code) -> None:
    assert foreign_response_error(URL, status, Headers(), b"").code is code


def test_code_may_be_given() -> None:
    assert foreign_response_error(URL, 200, Headers(), b"", Code.INTERNAL).code is Code.INTERNAL


# Hostile responses


def test_only_printable_text_on_one_line_is_shown() -> None:
    body = b"\x1b[2J\x1b]0;title\x07 a\tb\x00\r \x9b31mc \xe2\x80\xae d\xff e\nsecond line"
    told = message(500, PLAIN, body)

    assert told == answered(500, ": '[2J ]0;title a b \ufffd31mc d\ufffd e'")


@pytest.mark.parametrize("name", ["location", "upgrade", "retry-after", "content-type"])
def test_only_printable_text_of_a_header_is_shown(name: str) -> None:
    for status in (200, 302, 426, 429):
        told = message(status, headers={name: "a\x1b[31m\r\nb"})
        assert told.isprintable()


@pytest.mark.parametrize(
    ("content_type", "body"),
    [
        (PLAIN, b"x" * (1 << 20)),
        (PLAIN, b"\n" * (1 << 20) + b"x"),
        (HTML, b"<title>" + b"x" * (1 << 20)),
        (HTML, b"<title" * (1 << 20)),
        (HTML, b"<title " * (1 << 20)),
        (HTML, b"<title>" + b"&#27;&amp;" * (1 << 20)),
        ("application/xml", b"<message>" * (1 << 20)),
        (JSON, b'{"message":"' + b"x" * (1 << 20) + b'"}'),
        (JSON, b"[" * (1 << 20)),
        (JSON, b'{"error":' * (1 << 20)),
        (JSON, b"9" * (1 << 20)),
        (JSON, gzip.compress(b'{"message":"x"}', mtime=0) * (1 << 16)),
        (JSON, b'{"message":"\\ud800\\u0000"}'),
        (JSON, '{"message":"x"}'.encode("utf-16")),
        ("text/plain; charset=punycode", b"a-" * (1 << 20)),
        ("x" * 100_000, b"x"),
    ],
    ids=lambda value: repr(value[:20]),
)
def test_long_or_malformed_response_makes_a_short_error(content_type: str, body: bytes) -> None:
    for status in (200, 400, 404):
        told = message(status, content_type, body)
        assert told == message(status, content_type, body[: 16 << 10])
        assert told.isprintable()
        assert len(told) < 800


def test_random_responses_make_an_error() -> None:
    random = Random(12)
    pieces = [
        *(NGINX_404, NGINX_497, APACHE_TLS, S3_405, PROBLEM, FASTAPI_422, CLOUDFLARE_522),
        *(
            b"<title",
            b">",
            b"<",
            b"&#x110000;",
            b"&",
            b"{",
            b"}",
            b"[",
            b'"message":',
            b'"detail":',
            b"\\ud800",
        ),
        *(
            b"://",
            b"@",
            b"/",
            b"?",
            b"[",
            b"]",
            b"%",
            b":99999",
            b"//",
            URL.encode(),
            b"\x1b",
            b"\xff",
            b"\r\n",
        ),
    ]
    types = [HTML, JSON, PLAIN, "application/xml", "application/problem+json", "", "text/html; charset=\x00"]
    statuses = [*responses, -1, 0, 99, 299, 399, 499, 599, 999, 10**30]

    def junk(most: int) -> bytes:
        return b"".join(
            random.choice(pieces) if random.random() < 0.7 else random.randbytes(random.randrange(20))
            for _ in range(random.randrange(most))
        )

    def text() -> str:
        return junk(6).decode("latin-1")

    for _ in range(3000):
        names = random.sample(["location", "retry-after", "upgrade", "x"], random.randrange(4))
        headers = Headers.from_wire(
            [("content-type", random.choice([*types, text()])), *((name, text()) for name in names)]
        )
        url = URL if random.random() < 0.8 else text()
        error = foreign_response_error(url, random.choice(statuses), headers, junk(40))
        assert isinstance(error, ConnectError)
        assert error.message.isprintable()
        assert len(error.message) < 10_000
