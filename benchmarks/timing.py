"""Two sides of a work in processes of their own, taking turns."""

import contextlib
import multiprocessing
import resource
import time
from typing import NamedTuple

from utils.base.errors import UserError

# More warm-ups for the project, which keeps its memory (utils.base.hardware): it grows in the first steps.
SETTLING = 2


class Turn(NamedTuple):
    """Of one side, which has done its work once."""

    seconds: float
    peak: int  # bytes, of its process until then, with what it has mapped of files


@contextlib.contextmanager
def process(prepare, job):
    """A process in which one side of a work, a function of `benchmarks.works`, is prepared: a function that has the
    work done once, and returns the Turn; UserError if the process has ended."""
    context = multiprocessing.get_context("spawn")
    connection, theirs = context.Pipe()
    child = context.Process(target=_serve, args=(theirs, prepare, job), daemon=True)
    child.start()
    theirs.close()

    def turn():
        try:
            connection.send("again")
            return Turn(*connection.recv())
        except (EOFError, OSError):
            child.join()
            raise UserError(
                f"{prepare.__name__} ended with exit code {child.exitcode} (-9: out of memory? "
                "A smaller --batch-size takes less); its own message is above"
            ) from None

    yield turn
    connection.send(None)
    child.join()


def _serve(connection, prepare, job):
    run = prepare(job)
    while connection.recv():
        start = time.perf_counter()
        run()
        connection.send((time.perf_counter() - start, _peak()))


def _peak():
    """Bytes of this process. On Linux getrusage would tell those of the process that started this one, if they are more."""
    with contextlib.suppress(OSError), open("/proc/self/status") as file:
        for line in file:
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # in bytes on macOS


def pair(reference, project, job, turns):
    """The two sides' turns, as two lists: after some to warm up, `turns` of each in alternation."""
    with process(reference, job) as one, process(project, job) as other:
        first, second = [one()], [other() for _ in range(1 + SETTLING)]
        for _ in range(turns):
            first.append(one())
            second.append(other())
    return first, second
