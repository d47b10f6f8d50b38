"""The same service for pages of the origin in the variable PAGE_ORIGIN, with three sorts of permission.

They are mounted at /full, /bare and /credentials. A GET of /requests tells what has been asked since that was
last told, preflights included: a list of lists of method, path, protocol, and whether there was a cookie.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from typing import TYPE_CHECKING
from wsgiref.util import shift_path_info

from tests.interop.service import application as service
from wsgi_adapters import CORSMiddleware

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIEnvironment

_ORIGINS = [os.environ["PAGE_ORIGIN"]]
_SENT = ["echo-ascii", "echo-bin"]
_RECEIVED = ["echo-ascii", "echo-bin", "echo-trailer", "echo-trailer-bin"]

_APPLICATIONS = {
    "full": CORSMiddleware(service, allow_origins=_ORIGINS, allow_headers=_SENT, expose_headers=_RECEIVED),
    "bare": CORSMiddleware(service, allow_origins=_ORIGINS),
    "credentials": CORSMiddleware(service, allow_origins=_ORIGINS, allow_credentials=True),
}
_requests: list[tuple[str, str, str, bool]] = []


def application(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    mount = shift_path_info(environ)
    if mount == "requests":
        body = json.dumps([_requests.pop(0) for _ in range(len(_requests))]).encode()
        start_response("200 OK", [("content-type", "application/json"), ("content-length", str(len(body)))])
        return (body,)
    _requests.append(
        (
            environ["REQUEST_METHOD"],
            environ["PATH_INFO"],
            environ["SERVER_PROTOCOL"],
            "HTTP_COOKIE" in environ,
        )
    )
    return _APPLICATIONS[mount or ""](environ, start_response)
