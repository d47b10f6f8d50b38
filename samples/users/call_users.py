"""Logs in and calls the service in every way there is: `python call_users.py [address]`."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import urlencode

import urllib3

sys.path.append(str(Path(__file__).with_name("gen")))  # where the generated code is

from users.v1.users_connect import UserServiceClient
from users.v1.users_pb2 import ListUsersRequest, User, WhoAmIRequest

from connect_sync import Code, ConnectError, RequestContext

NEWCOMERS = ["grace", "ada", "alan"]


class Session:
    """Sends the cookie of a session with every call: a metadata interceptor, on the client's side."""

    def __init__(self, cookie: str) -> None:
        """Send ``cookie``, such as ``sessionid=…``."""
        self._cookie = cookie

    def on_start(self, ctx: RequestContext) -> None:
        """Add the cookie to the headers of the request."""
        ctx.request_headers()["cookie"] = self._cookie


def main(address: str) -> None:
    """Make the calls, one after the other."""
    with UserServiceClient(address) as stranger:
        report_failure(
            "WhoAmI without a session", Code.UNAUTHENTICATED, lambda: stranger.who_am_i(WhoAmIRequest())
        )

    session = Session(log_in(address, "admin", "let-me-in"))
    with UserServiceClient(address, interceptors=[session], timeout_ms=10_000) as client:
        print(f"WhoAmI: {client.who_am_i(WhoAmIRequest(), use_get=True).name}")

        # Each message leaves when it is yielded, and is written when it arrives.
        names = [name for name in NEWCOMERS if name not in existing(client)]
        imported = client.import_users(announced(names))
        print(f"ImportUsers: {imported.count} created")

        report_failure(
            "ImportUsers with a name that is there",
            Code.ALREADY_EXISTS,
            lambda: client.import_users(announced(["joan", "ada"])),
        )
        report_failure("CreateUser without a name", Code.INVALID_ARGUMENT, lambda: client.create_user(User()))

        for user in client.list_users(ListUsersRequest()):
            print(f"ListUsers: {user.name}")


def log_in(address: str, name: str, password: str) -> str:
    """Log in by the page for people, and return the cookie of the session."""
    with urllib3.PoolManager(retries=False) as manager:
        form = manager.request("GET", f"{address}/login/")
        token = cookie_of(form, "csrftoken")
        fields = {"username": name, "password": password, "csrfmiddlewaretoken": token.partition("=")[2]}
        answer = manager.request(
            "POST",
            f"{address}/login/",
            body=urlencode(fields),
            headers={"cookie": token, "content-type": "application/x-www-form-urlencoded"},
            redirect=False,
        )
    return cookie_of(answer, "sessionid")


def cookie_of(response: urllib3.BaseHTTPResponse, name: str) -> str:
    """Return a cookie that a response sets, as it is sent back."""
    for cookie in response.headers.getlist("set-cookie"):
        if cookie.startswith(f"{name}="):
            return cookie.partition(";")[0]
    sys.exit(f"the site has set no cookie {name}: HTTP {response.status}")


def existing(client: UserServiceClient) -> set[str]:
    """Return the names of all users."""
    return {user.name for user in client.list_users(ListUsersRequest())}


def announced(names: list[str]) -> Iterator[User]:
    """Yield users to import, and say so."""
    for name in names:
        print(f"ImportUsers: sending {name}")
        yield User(name=name, email=f"{name}@example.com")


def report_failure(title: str, code: Code, call: Callable[[], object]) -> None:
    """Make a call that the service has to refuse with ``code``, and print how it did."""
    try:
        call()
    except ConnectError as error:
        if error.code is not code:
            raise
        print(f"{title}: {error}")
    else:
        sys.exit(f"{title}: this should have failed")


if __name__ == "__main__":
    url = sys.argv[1] if len(sys.argv) > 1 else "http://127.0.0.1:8000"
    try:
        main(url)
    except (ConnectError, urllib3.exceptions.HTTPError) as failure:
        sys.exit(f"The site at {url} has failed, or is not there: {failure}")
