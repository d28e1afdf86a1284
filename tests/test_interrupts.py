from __future__ import annotations

import os
import signal
import time

import pytest

from budgetnas.errors import Interrupted
from budgetnas.runs.interrupts import Stopper


def code_of(stopper: Stopper) -> int | None:
    try:
        stopper.check()
    except Interrupted as stop:
        return stop.exit_code
    return None


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_is_noted_and_obeyed_at_the_next_check(number: signal.Signals, code: int) -> None:
    stopper = Stopper()
    with stopper.listening():
        assert code_of(stopper) is None
        os.kill(os.getpid(), number)
        assert code_of(stopper) == code
        assert code_of(stopper) == code  # it stays told
    assert code_of(stopper) == code


def test_a_second_ctrl_c_ends_at_once() -> None:
    with Stopper().listening():
        os.kill(os.getpid(), signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)


def test_a_second_sigterm_waits_as_the_first() -> None:
    stopper = Stopper()
    with stopper.listening():
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGTERM)
    assert code_of(stopper) == 143


def test_signal_handlers_are_restored_also_after_an_error() -> None:
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    with pytest.raises(RuntimeError, match="stop"), Stopper().listening():
        assert signal.getsignal(signal.SIGINT) != before[0]
        raise RuntimeError("stop")
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before


def test_a_time_limit_ends_without_a_fault() -> None:
    assert code_of(Stopper(timeout_seconds=600)) is None
    stopper = Stopper(timeout_seconds=0.01)
    time.sleep(0.02)
    assert code_of(stopper) == 0


def test_a_signal_goes_before_the_time_limit() -> None:
    stopper = Stopper(timeout_seconds=-1)
    with stopper.listening():
        os.kill(os.getpid(), signal.SIGTERM)
    assert code_of(stopper) == 143
