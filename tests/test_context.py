from __future__ import annotations

import pytest

from connect_sync import ContextKey, Headers, ProtocolType, RequestContext
from connect_sync.context import response_metadata
from connect_sync.deadline import Deadline
from connect_sync.http import Body, Request, as_body
from connect_sync.server.context import ServerContext
from tests.support import UNARY, Clock

USER: ContextKey[str] = ContextKey("user")


# A context that is made by hand, for the test of a handler


def test_context_for_a_test_needs_no_arguments() -> None:
    ctx = RequestContext()

    assert (ctx.http_method(), ctx.protocol(), ctx.peer()) == ("POST", ProtocolType.CONNECT, None)
    assert ctx.timeout_ms() is None
    assert ctx.is_active()
    assert len(ctx.request_headers()) == 0


def test_context_gives_what_it_was_made_of() -> None:
    ctx = RequestContext(
        UNARY,
        headers={"Authorization": "Bearer abc"},
        http_method="GET",
        protocol=ProtocolType.GRPC,
        peer="127.0.0.1:5000",
    )

    assert ctx.method() is UNARY
    assert ctx.http_method() == "GET"
    assert ctx.protocol() is ProtocolType.GRPC
    assert ctx.request_headers()["authorization"] == "Bearer abc"
    assert ctx.peer() == "127.0.0.1:5000"


def test_method_that_a_context_lacks_is_an_error_that_says_what_to_write() -> None:
    with pytest.raises(LookupError, match="has no method: make it with RequestContext"):
        RequestContext().method()


def test_timeout_is_what_remains_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    ctx = RequestContext(timeout_ms=2000)
    clock.advance_ms(500)

    assert ctx.timeout_ms() == pytest.approx(1500)
    assert ctx.is_active()


def test_timeout_is_zero_once_the_deadline_has_passed(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    ctx = RequestContext(timeout_ms=2000)
    clock.advance_ms(2001)

    assert ctx.timeout_ms() == 0
    assert not ctx.is_active()


# Metadata


def test_response_metadata_is_kept_from_one_look_to_the_next() -> None:
    ctx = RequestContext()
    ctx.response_headers()["a"] = "1"
    ctx.response_trailers()["b"] = "2"

    assert (ctx.response_headers()["a"], ctx.response_trailers()["b"]) == ("1", "2")


def test_response_metadata_is_not_made_before_it_is_asked_for() -> None:
    assert response_metadata(RequestContext()) == (None, None)


# Values


def test_value_is_that_which_was_set_last() -> None:
    ctx = RequestContext()
    ctx.set(USER, "Jane")
    ctx.set(USER, "John")

    assert ctx.get(USER) == "John"


def test_value_that_was_not_set_is_the_default() -> None:
    ctx = RequestContext()

    assert ctx.get(USER, None) is None
    ctx.set(ContextKey("other"), 1)
    assert ctx.get(USER, "nobody") == "nobody"


def test_value_that_was_not_set_is_an_error_that_names_the_key() -> None:
    ctx = RequestContext()

    with pytest.raises(LookupError, match="user is not set"):
        ctx.get(USER)


def test_none_is_a_value() -> None:
    ctx = RequestContext()
    key: ContextKey[str | None] = ContextKey("maybe")
    ctx.set(key, None)

    assert ctx.get(key, "default") is None


def test_keys_of_the_same_name_are_different() -> None:
    ctx = RequestContext()
    other: ContextKey[str] = ContextKey("user")
    ctx.set(USER, "Jane")

    assert ctx.get(other, None) is None


def test_key_shows_its_name() -> None:
    assert repr(USER) == "ContextKey('user')"


# The context of a call that came in


def serve(request: Request, deadline: Deadline | None = None) -> ServerContext:
    return ServerContext(UNARY, request, deadline, ProtocolType.GRPC_WEB)


def post(body: Body | tuple[bytes, ...] = ()) -> Request:
    return Request("POST", UNARY.path, Headers(), body)


def test_context_of_a_call_shows_its_request() -> None:
    headers = Headers({"a": "1"})
    ctx = serve(Request("GET", UNARY.path, headers, peer="127.0.0.1:5000"))

    assert ctx.method() is UNARY
    assert ctx.http_method() == "GET"
    assert ctx.protocol() is ProtocolType.GRPC_WEB
    assert ctx.request_headers() is headers
    assert ctx.peer() == "127.0.0.1:5000"


class Left(Body):
    """A body whose sender has disconnected."""

    def read(self, size: int) -> bytes:
        return b""

    def is_disconnected(self) -> bool:
        return True


def test_call_is_active_while_its_client_is_connected() -> None:
    assert serve(post()).is_active()
    assert serve(post(as_body((b"",)))).is_active()


def test_call_is_not_active_when_its_client_has_disconnected() -> None:
    assert not serve(post(Left())).is_active()


def test_call_is_not_active_when_its_deadline_has_passed(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    ctx = serve(post(), Deadline(1000))
    assert ctx.is_active()
    clock.advance_ms(1000)

    assert not ctx.is_active()
