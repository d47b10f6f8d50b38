from __future__ import annotations

import pytest

from connect_sync import Code, ConnectError
from connect_sync.deadline import Deadline
from tests.support import Clock


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


def test_deadline_is_as_far_away_as_its_timeout(clock: Clock) -> None:
    assert Deadline(1500).remaining() == pytest.approx(1.5)


def test_deadline_comes_nearer(clock: Clock) -> None:
    deadline = Deadline(1500)
    clock.advance_ms(1000)

    assert deadline.remaining() == pytest.approx(0.5)


@pytest.mark.parametrize("late_ms", [0.001, 1e9])
def test_nothing_remains_once_the_deadline_has_passed(clock: Clock, late_ms: float) -> None:
    deadline = Deadline(1500)
    clock.advance_ms(1500 + late_ms)

    assert deadline.remaining() == 0.0


@pytest.mark.parametrize(
    ("remaining_ms", "is_due"), [(1000, False), (60, False), (40, True), (0, True), (-9, True)]
)
def test_deadline_is_due_a_moment_before_it(clock: Clock, remaining_ms: float, is_due: bool) -> None:
    deadline = Deadline(1000)
    clock.advance_ms(1000 - remaining_ms)

    assert deadline.is_due() is is_due


def test_check_does_nothing_before_the_deadline(clock: Clock) -> None:
    deadline = Deadline(1500)
    clock.advance_ms(1499)

    deadline.check()


@pytest.mark.parametrize("late_ms", [0.001, 1e9])
def test_check_raises_once_the_deadline_has_passed(clock: Clock, late_ms: float) -> None:
    deadline = Deadline(1500)
    clock.advance_ms(1500 + late_ms)

    with pytest.raises(ConnectError) as caught:
        deadline.check()
    assert caught.value.code is Code.DEADLINE_EXCEEDED


@pytest.mark.parametrize(("timeout_ms", "limit"), [(1500, 1.5), (0, 0.0), (9_999_999_999, 2_000_000.0)])
def test_wait_is_limited_to_what_remains_and_to_what_a_socket_can_wait(
    clock: Clock, timeout_ms: float, limit: float
) -> None:
    assert Deadline(timeout_ms).wait_limit() == pytest.approx(limit)


@pytest.mark.parametrize("timeout_ms", [0, -1])
def test_timeout_of_nothing_has_passed_at_once(clock: Clock, timeout_ms: float) -> None:
    deadline = Deadline(timeout_ms)

    with pytest.raises(ConnectError):
        deadline.check()
