"""Errors that a user can mend: one line, an exit code, no traceback."""

import logging


class UserError(Exception):
    """Bad input. The message names the file, row or option, and the way out."""

    exit_code = 2


class NonFiniteLoss(UserError):
    """Training diverged. The message names the epoch, the step and the attribute."""

    exit_code = 3


class SkippedPhotos(UserError):
    """The work is done, except for photos that cannot be read."""

    exit_code = 3


def shortened(items, most=20):
    """Lines for a list of problems, cut after `most`."""
    items = list(items)
    lines = [f"  {item}" for item in items[:most]]
    if len(items) > most:
        lines.append(f"  ... and {len(items) - most} more")
    return "\n".join(lines)


def exit_code(main):
    """Run a command's `main`: 0, or the exit code of a UserError, whose message is the last line."""
    try:
        main()
    except UserError as error:
        # To stderr, and to the run's log if there is one.
        logging.getLogger("fashion").error(f"error: {error}")
        return error.exit_code
    return 0
