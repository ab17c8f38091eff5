"""The first signal is remembered, the second acts; afterwards all is as before."""

import os
import signal
from collections.abc import Iterator

import pytest

from contagg.training.signals import StoppedError, StopSignals


@pytest.fixture(autouse=True)
def as_in_a_terminal() -> Iterator[None]:
    """A shell's background job is started with SIGINT ignored, and one of nohup with SIGHUP."""
    handlers = {
        signal.SIGINT: signal.default_int_handler,
        signal.SIGTERM: signal.SIG_DFL,
        signal.SIGHUP: signal.SIG_DFL,
    }
    before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_first_is_remembered_second_interrupts(number: int) -> None:
    before = signal.getsignal(number)
    with StopSignals() as signals:
        assert signals.received == 0
        os.kill(os.getpid(), number)
        assert signals.received == number
        with pytest.raises(StoppedError, match="interrupted at once: the same command goes on") as stopped:
            os.kill(os.getpid(), signal.SIGINT)
        assert stopped.value.signal_number == signal.SIGINT
    assert signal.getsignal(number) == before


def test_what_nohup_ignores_stays_ignored() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with StopSignals() as signals:
            os.kill(os.getpid(), signal.SIGHUP)
            assert signals.received == 0
    finally:
        signal.signal(signal.SIGHUP, before)
