"""One logger: lines on the terminal that leave progress bars whole, and the same lines in the run's file, which has those
of level DEBUG besides."""

import contextlib
import logging
import logging.handlers
import os
import re
import sys
import unicodedata

from tqdm import tqdm

from utils.base.errors import visible
from utils.base.files import failure

logger = logging.getLogger("fashion")
GREEN, YELLOW, RED = "\x1b[32m", "\x1b[33m", "\x1b[31m"
PLAIN = "\x1b[0m"


def _visible(record):
    """Whatever handler a line goes to, names in it cannot do anything there."""
    record.msg, record.args = "\n".join(map(visible, record.getMessage().split("\n"))), ()
    return True


logger.addFilter(_visible)


class _Terminal(logging.Handler):
    def emit(self, record):
        stream = sys.stderr if record.levelno >= logging.WARNING else sys.stdout
        line = self.format(record)
        tqdm.write(_coloured(line, record) if _has_colours(stream) else line, file=stream)


def _has_colours(stream):
    """Whether a stream is a terminal whose user wants them, see https://no-color.org."""
    return stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def _coloured(line, record):
    """A line with one word coloured: of a warning or an error its first, otherwise the record's `mark`, with which it ends."""
    if record.levelno >= logging.WARNING:
        colour = RED if record.levelno >= logging.ERROR else YELLOW
        return re.sub(r"\w+:", rf"{colour}\g<0>{PLAIN}", line, count=1)
    mark = getattr(record, "mark", "")
    return f"{line[: len(line) - len(mark)]}{GREEN}{mark}{PLAIN}" if mark else line


def progress(items=None, title="", total=None, **kwargs):
    """A progress bar of tqdm, where both streams are a terminal, and not of a further process; it goes when it is done."""
    is_seen = sys.stdout.isatty() and sys.stderr.isatty() and logger.level < logging.ERROR
    return tqdm(items, title, total, leave=False, disable=not is_seen, dynamic_ncols=True, **kwargs)


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


def start(process=0, shown="INFO"):
    """Log to the terminal, from the level `shown` on; all lines are also held back for the file that `to_file` names later.

    Of a run of several processes, those after the first (0) say nothing but their errors.
    """
    stop()
    logger.setLevel(logging.ERROR if process else logging.DEBUG)
    _terminal.setLevel(shown)
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
    widths = [max(len(row[column]) + wide(row[column]) for row in cells) for column in range(len(header))]
    return ["  ".join([row[0].ljust(widths[0] - wide(row[0])), *right(row[1:], widths[1:])]) for row in cells]


def right(cells, widths):
    """Cells aligned right, each in so many columns of a terminal."""
    return [cell.rjust(columns - wide(cell)) for cell, columns in zip(cells, widths)]


def wide(text):
    """How many signs of a text take two columns of a terminal, as Korean ones do."""
    return sum(unicodedata.east_asian_width(sign) in "WF" for sign in text)


def score(value, form=".4f", none="-"):
    """A figure of a table; a dash where there is none."""
    return none if value is None else format(value, form)
