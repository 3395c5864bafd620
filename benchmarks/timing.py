"""Two sides of a work in processes of their own, taking turns."""

import multiprocessing
import resource
import sys
import time
from typing import Dict, NamedTuple, Optional

from utils.errors import UserError

# More warm-ups for the project, which keeps its memory (utils.hardware): it grows in the first steps.
SETTLING = 2


class Turn(NamedTuple):
    """Of one side, which has done its work once."""

    seconds: float
    peak: int  # bytes, of its process until then, with what it has mapped of files
    losses: Optional[Dict[str, float]]


class Side:
    """A process in which one side of a work, a function of `benchmarks.works`, is prepared and warmed up."""

    def __init__(self, prepare, job):
        self.name = prepare.__name__
        context = multiprocessing.get_context("spawn")
        self.connection, theirs = context.Pipe()
        self.process = context.Process(target=_serve, args=(theirs, prepare, job), daemon=True)
        self.process.start()
        theirs.close()
        self.turns = []
        self.turn()

    def turn(self):
        """Do the work once. Raises: UserError if the process has ended."""
        try:
            self.connection.send("another")
            self.turns.append(Turn(*self.connection.recv()))
        except (EOFError, OSError):
            self.process.join()
            raise UserError(
                f"benchmark {self.name} ended with exit code {self.process.exitcode} (-9: out of memory?); "
                "its own message is above; a smaller --batch-size takes less"
            ) from None

    def stop(self):
        """End the process. Returns: list of its turns; the first is the warm-up."""
        self.process.terminate()
        self.process.join()
        return self.turns


def _serve(connection, prepare, job):
    run = prepare(job)
    while connection.recv():
        start = time.perf_counter()
        losses = run()
        seconds = time.perf_counter() - start
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        connection.send((seconds, peak if sys.platform == "darwin" else peak * 1024, losses))


def pair(reference, project, job, turns):
    """The two sides' turns, as two lists: after some to warm up, `turns` of each in alternation."""
    sides = [Side(reference, job), Side(project, job)]
    for _ in range(SETTLING):
        sides[1].turn()
    for _ in range(turns):
        for side in sides:
            side.turn()
    return [side.stop() for side in sides]
