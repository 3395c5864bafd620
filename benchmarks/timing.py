"""Two sides of a work in processes of their own, taking turns. This module does not import torch."""

import math
import multiprocessing
import os
import resource
import statistics
import sys
import time
from typing import NamedTuple

from utils.errors import UserError

# More warm-ups for the project, which keeps its memory (utils.hardware): it grows in the first steps.
SETTLING = 2


class Result(NamedTuple):
    """Of one side: medians over its turns."""

    seconds: float
    peak: int  # bytes, of the process, with what it has mapped of files
    anonymous: int  # bytes at the end, without files; 0 where the system does not tell
    outputs: list  # of the warm-up and of each turn


class Side:
    """A process in which one side of a work, a function of `benchmarks.works`, is prepared and warmed up."""

    def __init__(self, name, job=None):
        self.name = name
        context = multiprocessing.get_context("spawn")
        self.connection, theirs = context.Pipe()
        self.process = context.Process(target=_serve, args=(theirs, name, job), daemon=True)
        self.process.start()
        theirs.close()
        self.turns, self.outputs = [], [self._receive()]

    def turn(self):
        """Do the work once; returns the seconds."""
        self.connection.send(True)
        *turn, output = self._receive()
        self.turns.append(turn)
        self.outputs.append(output)
        return turn[0]

    def _receive(self):
        try:
            return self.connection.recv()
        except EOFError:
            self.process.join()
            raise UserError(
                f"benchmark {self.name} ended with exit code {self.process.exitcode} (-9: out of memory?); "
                "its own message is above; a smaller --batch-size takes less"
            ) from None

    def stop(self):
        """End the process. Returns: Result."""
        self.connection.send(False)
        self.process.join()
        seconds, peaks, anonymous = zip(*self.turns) if self.turns else ([math.nan], [0], [0])
        return Result(statistics.median(seconds), peaks[-1], anonymous[-1], self.outputs)


def _serve(connection, name, job):
    from benchmarks import works

    run = getattr(works, name)(job)
    connection.send(run())
    while connection.recv():
        start = time.perf_counter()
        output = run()
        connection.send((time.perf_counter() - start, peak_memory(), anonymous_memory(), output))


def pair(first, second, job, turns):
    """A reference and the project in alternation. Returns: (Result, Result, median of the turns' ratios first / second)."""
    sides = [Side(first, job), Side(second, job)]
    for _ in range(SETTLING):
        sides[1].turn()
    sides[1].turns.clear()
    ratios = []
    for _ in range(turns):
        one, other = (side.turn() for side in sides)
        ratios.append(one / other)
    return (*(side.stop() for side in sides), statistics.median(ratios))


def peak_memory():
    """Of this process, so far, in bytes."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def anonymous_memory():
    """Of this process, now, in bytes: without the files that it has mapped. 0 where the system does not tell."""
    if not os.path.exists("/proc/self/status"):
        return 0
    with open("/proc/self/status") as file:
        return next((int(line.split()[1]) * 1024 for line in file if line.startswith("RssAnon")), 0)
