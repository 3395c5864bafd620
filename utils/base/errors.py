"""Errors that a user can mend: one line, an exit code, no traceback."""

import re

# What moves the cursor, colours, turns the direction of writing round, or cannot be encoded.
UNSEEN = re.compile("[\x00-\x1f\x7f-\x9f\u200b\u2028-\u202e\u2066-\u2069\ufeff\ud800-\udfff]")


class UserError(Exception):
    """Bad input. The message names the file, row or option, and the way out."""

    exit_code = 2


class NonFiniteLoss(UserError):
    """Training diverged. The message names the epoch, the step and the attribute."""

    exit_code = 3


class DiskFull(UserError):
    """No room for a file, or for those of a run to come. The message names path and bytes; what was there is kept."""

    exit_code = 4


class ProcessLost(UserError):
    """A run of several processes has lost one of them, or the connection to it."""

    exit_code = 5


class SkippedPhotos(UserError):
    """The work is done, except for photos that cannot be read."""

    exit_code = 6


class LibraryError(UserError):
    """A library cannot do what is asked of it; its traceback is kept in a file, see `utils.base.cli.exit_code`."""


class Interrupted(KeyboardInterrupt):
    """SIGINT or SIGTERM ends the run. Not an Exception, so that no handler of errors on the way takes it for one.

    Args: `signal`, a signal.Signals; `message`, what became of the run.
    """

    def __init__(self, signal, message):
        super().__init__(f"{signal.name}: {message}")
        self.exit_code = 128 + signal


def first_line(error):
    """What an exception of another library says, on one line; its type if it says nothing."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def reason_of(error):
    """What an exception says; one of the system without its number."""
    if isinstance(error, FileNotFoundError):
        return "no such file"
    return getattr(error, "strerror", None) or str(error)


def not_readable(path, kind, error):
    """The UserError of an exception that reading a file raised; `kind`, such as "CSV file", is what it should be."""
    problem = f"not a readable {kind} ({reason_of(error)})"
    return UserError(f"{path}: {reason_of(error) if isinstance(error, FileNotFoundError) else problem}")


def cause_of(error):
    """What an exception of a library says that began it all, on one line."""
    while error.__cause__ is not None:
        error = error.__cause__
    return excerpt(f"{type(error).__name__}: {first_line(error)}", 300)


def shortened(items, most=20):
    """Lines for a list of problems, cut after `most`, each after 300 characters."""
    items = list(items)
    lines = ["  " + visible(" ".join(str(item)[:300].splitlines())) for item in items[:most]]
    if len(items) > most:
        lines.append(f"  ... and {len(items) - most} more")
    return "\n".join(lines)


def counted(count, one, several):
    """A number with its noun, and the verb that belongs to it: counted(1, "photo is", "photos are")."""
    return f"{count:,} {one if count == 1 else several}"


def listed(names, most=10):
    """Names for one line, cut after `most`."""
    names = list(names)
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(excerpt(name, 40) for name in names[:most]) + more


def excerpt(text, most=80):
    """A text that may be long, for a message."""
    return text if len(text) <= most else f"{text[:most]}..."


def visible(text):
    """A text of others for the terminal and the log: what is no sign to be seen is written as an escape."""
    return UNSEEN.sub(lambda found: ascii(found[0])[1:-1], text)


def is_utf8(text):
    """Whether a name can be written: bytes of one that are not in UTF-8, Python holds as lone surrogates."""
    return not re.search("[\ud800-\udfff]", text)
