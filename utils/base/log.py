"""One logger: lines on the terminal that leave progress bars whole, and the same lines in the run's file."""

import contextlib
import logging
import logging.handlers
import sys

from tqdm import tqdm

from utils.base.errors import visible_lines
from utils.base.files import failure

logger = logging.getLogger("fashion")


def _visible(record):
    """Whatever handler a line goes to, names in it cannot do anything there."""
    record.msg, record.args = visible_lines(record.getMessage()), ()
    return True


logger.addFilter(_visible)


class _Terminal(logging.Handler):
    def emit(self, record):
        stream = sys.stderr if record.levelno >= logging.WARNING else sys.stdout
        tqdm.write(self.format(record), file=stream)


_terminal = _Terminal()
logger.addHandler(_terminal)
logger.propagate = False
logger.setLevel(logging.WARNING)  # until `start`


class RunFile(logging.FileHandler):
    """The run's file. That it cannot be written ends the run with one line, instead of a traceback for each."""

    def handleError(self, record):
        error = sys.exc_info()[1]
        if not isinstance(error, OSError):
            raise error
        logger.removeHandler(self)
        with contextlib.suppress(OSError):  # the same again, of what is still to be written
            self.close()
        if record.levelno < logging.ERROR:  # with an error the run ends anyway, and the terminal has the line
            raise failure(self.baseFilename, error, len(self.format(record).encode())) from error


def start(process=0):
    """Log to the terminal; lines are also held back for the file that `to_file` names later.

    Of a run of several processes, those after the first (0) say nothing but their errors.
    """
    stop()
    logger.setLevel(logging.ERROR if process else logging.INFO)
    _terminal.setFormatter(logging.Formatter(f"[process {process}] %(message)s" if process else None))
    logger.addHandler(logging.handlers.MemoryHandler(capacity=10**6, flushLevel=logging.CRITICAL + 1))


def to_file(path, append=False):
    """Write what was held back to a new file or, with `append`, behind what is there; and every line to come."""
    file = RunFile(path, mode="a" if append else "w", encoding="utf-8")
    file.setFormatter(logging.Formatter("%(asctime)s %(levelname).1s %(message)s", "%Y-%m-%d %H:%M:%S"))
    for handler in [h for h in logger.handlers if isinstance(h, logging.handlers.MemoryHandler)]:
        logger.removeHandler(handler)
        handler.setTarget(file)
        handler.flush()
    logger.addHandler(file)


def stop():
    """Close the file; from here on, the terminal has warnings and errors only."""
    logger.setLevel(logging.WARNING)
    for handler in [one for one in logger.handlers if one is not _terminal]:
        logger.removeHandler(handler)
        handler.close()


def table(rows, header):
    """Rows of text in columns, the first aligned left, the others right; returns lines."""
    cells = [[str(cell) for cell in row] for row in [header, *rows]]
    widths = [max(len(row[column]) for row in cells) for column in range(len(header))]
    for row in cells:
        row[:] = [row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:]))]
    return ["  ".join(row) for row in cells]


def score(value, form=".4f"):
    """A figure of a table; a dash where there is none."""
    return "-" if value is None else format(value, form)
