"""Asked to stop: the first Ctrl-C, SIGTERM or SIGHUP lets the step finish and be saved; a second acts at once."""

import signal
from types import FrameType
from typing import Any

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class StoppedError(BaseException):
    """Training was asked to stop. `signal_number` says by what, `at_once` that the state was not saved before.

    It is no Exception, as KeyboardInterrupt is none: what catches errors must not catch it.
    """

    def __init__(self, signal_number: int, message: str, at_once: bool = False) -> None:
        super().__init__(message)
        self.signal_number, self.at_once = signal_number, at_once


def leave_to_parent(worker: int = 0) -> None:
    """In a process that reads data: whoever asks the whole group to stop is answered by the one that trains."""
    for number in _SIGNALS:
        signal.signal(number, signal.SIG_IGN)


class StopSignals:
    """While entered, remembers in `received` the first signal that asks to stop; 0 is none."""

    def __init__(self) -> None:
        self.received = 0
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> "StopSignals":
        self._before = {number: signal.getsignal(number) for number in _SIGNALS}
        self.install()
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def install(self) -> None:
        """Take the signals (again: Lightning takes SIGTERM for itself when it starts), but not what nohup ignores."""
        for number in _SIGNALS:
            if self._before.get(number) is not signal.SIG_IGN:
                signal.signal(number, self._receive)

    def _receive(self, number: int, frame: FrameType | None) -> None:
        if self.received and number == signal.SIGINT:
            message = "interrupted at once: the same command goes on from the last saved state"
            raise StoppedError(number, message, at_once=True)
        self.received = self.received or number
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
