"""SIGINT and SIGTERM: they end a command at once, or a run between two steps."""

import os
import signal

from utils.base.errors import Interrupted


class StopSignals:
    """While this context lasts, the first SIGINT or SIGTERM raises `Interrupted` wherever the program is.

    From `defer` on, when much is being changed step by step, it is only noted in `received`, for the loop to
    look at between two steps. A second signal ends the process at once, with the system's own action.
    """

    def __init__(self):
        self.received = None  # signal.Signals
        self._before = {}
        self._deferred = self._alone = self._speaks = False

    def __enter__(self):
        for number in (signal.SIGINT, signal.SIGTERM):
            self._before[number] = signal.signal(number, self._handle)
        return self

    def __exit__(self, *_):
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def defer(self, alone=True, speaks=True):
        """Only note signals. Args: whether this process is the run's only one; whether it says what it has noted.

        One of several processes ignores further signals: torchrun may repeat one, and kills after 30 s by itself.
        """
        self._deferred, self._alone, self._speaks = True, alone, speaks

    def _handle(self, number, _frame):
        self.received = signal.Signals(number)
        for each in self._before:
            signal.signal(each, signal.SIG_IGN if self._deferred and not self._alone else signal.SIG_DFL)
        if not self._deferred:
            raise Interrupted(self.received, "stopped before training began, nothing was to be saved")
        if self._speaks:  # not by the logger: the signal may have come while it was writing
            again = "; once more, and it ends at once" if self._alone else ""
            os.write(2, f"\n{self.received.name}: this step is finished and saved{again}\n".encode())
