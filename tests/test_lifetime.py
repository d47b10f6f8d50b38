"""Deadline and cancellation of a call, without a connection to wait for."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest

from connect_sync import Cancellation, Code, ConnectError
from connect_sync.client import Lifetime
from connect_sync.deadline import Deadline
from tests.support import Clock


class Aborts:
    """What is called when a call is canceled."""

    def __init__(self) -> None:
        self.count = 0

    def __call__(self) -> None:
        self.count += 1


@pytest.fixture
def cancellation() -> Cancellation:
    return Cancellation()


@pytest.fixture
def aborts() -> Aborts:
    return Aborts()


# Cancellation


def test_handle_that_was_not_used_lets_a_call_go_on(cancellation: Cancellation) -> None:
    cancellation.check()

    assert not cancellation.is_canceled()


def test_handle_that_was_used_ends_a_call(cancellation: Cancellation) -> None:
    cancellation.cancel()

    assert cancellation.is_canceled()
    with pytest.raises(ConnectError) as caught:
        cancellation.check()
    assert caught.value.code is Code.CANCELED


def test_canceling_aborts_what_is_attached(cancellation: Cancellation, aborts: Aborts) -> None:
    cancellation.attach(object(), aborts)
    assert aborts.count == 0
    cancellation.cancel()

    assert aborts.count == 1


def test_cancel_is_idempotent(cancellation: Cancellation, aborts: Aborts) -> None:
    cancellation.attach(object(), aborts)
    cancellation.cancel()
    cancellation.cancel()

    assert aborts.count == 1


def test_canceling_aborts_every_call_of_the_handle(cancellation: Cancellation, aborts: Aborts) -> None:
    for _ in range(3):
        cancellation.attach(object(), aborts)
    cancellation.cancel()

    assert aborts.count == 3


def test_what_is_attached_too_late_is_aborted_at_once(cancellation: Cancellation, aborts: Aborts) -> None:
    cancellation.cancel()
    cancellation.attach(object(), aborts)

    assert aborts.count == 1


def test_what_is_detached_is_not_aborted(cancellation: Cancellation, aborts: Aborts) -> None:
    owner = object()
    cancellation.attach(owner, aborts)
    cancellation.detach(owner)
    cancellation.cancel()

    assert aborts.count == 0


def test_detaching_leaves_what_others_have_attached(cancellation: Cancellation, aborts: Aborts) -> None:
    owner = object()
    cancellation.attach(owner, Aborts())
    cancellation.attach(object(), aborts)
    cancellation.detach(owner)
    cancellation.cancel()

    assert aborts.count == 1


def test_detaching_what_is_not_attached_does_nothing(cancellation: Cancellation) -> None:
    cancellation.detach(object())
    cancellation.cancel()
    cancellation.detach(object())


def test_owner_may_attach_something_else(cancellation: Cancellation, aborts: Aborts) -> None:
    owner = object()
    replaced = Aborts()
    cancellation.attach(owner, replaced)
    cancellation.attach(owner, aborts)
    cancellation.cancel()

    assert (replaced.count, aborts.count) == (0, 1)


def test_abort_may_detach_and_cancel(cancellation: Cancellation) -> None:
    owner = object()
    log = []

    def abort() -> None:
        log.append("aborted")
        cancellation.detach(owner)
        cancellation.cancel()

    cancellation.attach(owner, abort)
    cancellation.cancel()

    assert log == ["aborted"]


def test_handle_may_be_used_by_another_thread(cancellation: Cancellation, aborts: Aborts) -> None:
    cancellation.attach(object(), aborts)
    with ThreadPoolExecutor(1) as executor:
        executor.submit(cancellation.cancel).result()

    assert (cancellation.is_canceled(), aborts.count) == (True, 1)


# Lifetime


def test_lifetime_without_bounds_never_ends() -> None:
    lifetime = Lifetime()
    lifetime.check()

    assert (lifetime.is_bounded, lifetime.remaining()) == (False, None)


def test_lifetime_with_a_deadline_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    lifetime = Lifetime(Deadline(1500))
    clock.advance_ms(500)
    lifetime.check()

    assert lifetime.is_bounded
    assert lifetime.remaining() == pytest.approx(1.0)


def test_lifetime_with_a_cancellation_is_bounded(cancellation: Cancellation) -> None:
    lifetime = Lifetime(cancellation=cancellation)
    lifetime.check()

    assert (lifetime.is_bounded, lifetime.remaining()) == (True, None)


@pytest.mark.parametrize("ask", [Lifetime.check, Lifetime.remaining], ids=["check", "remaining"])
def test_lifetime_ends_by_its_deadline(ask: object, monkeypatch: pytest.MonkeyPatch) -> None:
    assert callable(ask)
    clock = Clock(monkeypatch)
    lifetime = Lifetime(Deadline(1500), Cancellation())
    clock.advance_ms(1501)

    with pytest.raises(ConnectError) as caught:
        ask(lifetime)
    assert caught.value.code is Code.DEADLINE_EXCEEDED


@pytest.mark.parametrize("ask", [Lifetime.check, Lifetime.remaining], ids=["check", "remaining"])
def test_cancellation_goes_before_the_deadline(ask: object, cancellation: Cancellation) -> None:
    assert callable(ask)
    cancellation.cancel()

    with pytest.raises(ConnectError) as caught:
        ask(Lifetime(Deadline(0), cancellation))
    assert caught.value.code is Code.CANCELED


def test_lifetime_attaches_to_its_cancellation(cancellation: Cancellation, aborts: Aborts) -> None:
    lifetime = Lifetime(cancellation=cancellation)
    lifetime.attach(object(), aborts)
    cancellation.cancel()

    assert aborts.count == 1


def test_lifetime_detaches_from_its_cancellation(cancellation: Cancellation, aborts: Aborts) -> None:
    lifetime = Lifetime(cancellation=cancellation)
    owner = object()
    lifetime.attach(owner, aborts)
    lifetime.detach(owner)
    cancellation.cancel()

    assert aborts.count == 0


def test_lifetime_attaches_for_a_block(cancellation: Cancellation, aborts: Aborts) -> None:
    lifetime = Lifetime(cancellation=cancellation)
    with pytest.raises(KeyError), lifetime.attached(object(), aborts):
        raise KeyError
    cancellation.cancel()

    assert aborts.count == 0


def test_lifetime_aborts_within_the_block(cancellation: Cancellation, aborts: Aborts) -> None:
    with Lifetime(cancellation=cancellation).attached(object(), aborts):
        cancellation.cancel()

        assert aborts.count == 1


def test_lifetime_without_a_cancellation_attaches_to_nothing(aborts: Aborts) -> None:
    lifetime = Lifetime()
    with lifetime.attached(object(), aborts):
        pass

    assert aborts.count == 0
