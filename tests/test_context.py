from __future__ import annotations

import pytest

from connect_sync import Headers, RequestContext
from connect_sync.deadline import Deadline
from connect_sync.http import Body, Request, as_body
from tests.support import UNARY, Clock


def post(body: Body | tuple[bytes, ...] = ()) -> Request:
    return Request("POST", UNARY.path, Headers(), body)


def test_context_gives_what_it_was_made_of() -> None:
    headers = Headers({"a": "1"})
    ctx = RequestContext(UNARY, Request("GET", UNARY.path, headers, peer="127.0.0.1:5000"))

    assert ctx.method() is UNARY
    assert ctx.http_method() == "GET"
    assert ctx.request_headers() is headers
    assert ctx.peer() == "127.0.0.1:5000"


def test_peer_may_be_unknown() -> None:
    assert RequestContext(UNARY, post()).peer() is None


def test_call_without_deadline_has_no_timeout() -> None:
    assert RequestContext(UNARY, post()).timeout_ms() is None


def test_timeout_is_what_remains_of_the_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    ctx = RequestContext(UNARY, post(), Deadline(2000))
    clock.advance_ms(500)

    assert ctx.timeout_ms() == pytest.approx(1500)


def test_timeout_is_zero_once_the_deadline_has_passed(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    ctx = RequestContext(UNARY, post(), Deadline(2000))
    clock.advance_ms(2001)

    assert ctx.timeout_ms() == 0


def test_response_metadata_is_kept_from_one_look_to_the_next() -> None:
    ctx = RequestContext(UNARY, post())
    ctx.response_headers()["a"] = "1"
    ctx.response_trailers()["b"] = "2"

    assert (ctx.response_headers()["a"], ctx.response_trailers()["b"]) == ("1", "2")


def test_response_metadata_is_not_made_before_it_is_asked_for() -> None:
    assert RequestContext(UNARY, post()).response_metadata() == (None, None)


class Left(Body):
    """A body whose sender has left."""

    def read(self, size: int) -> bytes:
        return b""

    def is_disconnected(self) -> bool:
        return True


def test_call_is_active_while_its_client_is_there() -> None:
    assert RequestContext(UNARY, post()).is_active()
    assert RequestContext(UNARY, post(as_body((b"",)))).is_active()


def test_call_is_not_active_when_its_client_has_left() -> None:
    assert not RequestContext(UNARY, post(Left())).is_active()


def test_call_is_not_active_when_its_deadline_has_passed(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    ctx = RequestContext(UNARY, post(), Deadline(1000))
    assert ctx.is_active()
    clock.advance_ms(1000)

    assert not ctx.is_active()
