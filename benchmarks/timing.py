"""Two sides of a work in processes of their own, taking turns."""

import multiprocessing
import re
import time
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

from utils.base.errors import UserError

# More warm-ups for the project, which keeps its memory (utils.base.hardware): it grows in the first steps.
SETTLING = 2


def pair(reference, project, job, turns):
    """The two sides' turns, as two lists of (seconds, bytes): after some to warm up, `turns` of each in alternation.

    The bytes are the peak of the side's process until then, with what it has mapped of files.
    """
    spawn = multiprocessing.get_context("spawn")
    pools = [ProcessPoolExecutor(1, spawn, _prepare, (side, job)) for side in (reference, project)]
    with pools[0] as one, pools[1] as other:
        try:
            first, second = [], [other.submit(_turn).result() for _ in range(SETTLING)]
            for _ in range(1 + turns):
                first.append(one.submit(_turn).result())
                second.append(other.submit(_turn).result())
        except BrokenProcessPool as error:
            raise UserError("a process has ended (the memory is full? --quick takes less)") from error
    return first, second


def _prepare(side, job):
    global _work
    _work = side(job)


def _turn():
    start = time.perf_counter()
    _work()
    seconds = time.perf_counter() - start
    # Not getrusage's, which would tell the peak of the process that started this one, if that is more.
    return seconds, int(re.search(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())[1]) * 1024
