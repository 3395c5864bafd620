"""Errors that a user can mend: one line, an exit code, no traceback."""

import logging


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
    """Another process of a run of several has ended."""

    exit_code = 5


class Interrupted(KeyboardInterrupt):
    """SIGINT or SIGTERM ends the run. Not an Exception, so that no handler of errors on the way takes it for one.

    Args: `signal`, a signal.Signals; `message`, what became of the run.
    """

    def __init__(self, signal, message):
        super().__init__(f"{signal.name}: {message}")
        self.exit_code = 128 + signal


class SkippedPhotos(UserError):
    """The work is done, except for photos that cannot be read."""

    exit_code = 3


def shortened(items, most=20):
    """Lines for a list of problems, cut after `most`, each after 300 characters."""
    items = list(items)
    lines = ["  " + " ".join(str(item)[:300].splitlines()) for item in items[:most]]
    if len(items) > most:
        lines.append(f"  ... and {len(items) - most} more")
    return "\n".join(lines)


def exit_code(main):
    """Run a command's `main`: 0, or the exit code of a UserError or of a signal, whose message is the last line."""
    try:
        main()
    except UserError as error:
        _say(logging.ERROR, f"error: {error}")
        return error.exit_code
    except Interrupted as stop:
        _say(logging.WARNING, str(stop))
        return stop.exit_code
    return 0


def _say(level, message):
    from utils.logging import last_words  # which needs more than an import of errors should

    last_words(level, message)
