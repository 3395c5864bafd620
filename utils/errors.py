"""Errors that a user can mend: one line, an exit code, no traceback."""


class UserError(Exception):
    """Bad input. The message names the file, row or option, and the way out."""

    exit_code = 2


class NonFiniteLoss(UserError):
    """Training diverged. The message names the epoch, the step and the attribute."""

    exit_code = 3


def shortened(items, most=20):
    """Lines for a list of problems, cut after `most`."""
    items = list(items)
    lines = [f"  {item}" for item in items[:most]]
    if len(items) > most:
        lines.append(f"  ... and {len(items) - most} more")
    return "\n".join(lines)
