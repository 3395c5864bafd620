"""Types of command-line options: strict, and each says what it takes."""

import argparse
import math
import os

from utils.errors import UserError

_TRUE, _FALSE = ("true", "1", "yes"), ("false", "0", "no")


def boolean(text):
    """True, False, 1, 0, yes or no, in any case."""
    if text.lower() in _TRUE:
        return True
    if text.lower() in _FALSE:
        return False
    raise argparse.ArgumentTypeError(f"{text!r} is none of True, False, 1, 0, yes, no")


def number(kind, low, high=math.inf, *, above=False, below=False):
    """A type for numbers from `low` to `high`; `above` and `below` leave out the bound itself."""

    def parse(text):
        try:
            value = kind(text)
        except ValueError:
            value = math.nan
        fits = (value > low if above else value >= low) and (value < high if below else value <= high)
        if not fits or value == math.inf:
            raise argparse.ArgumentTypeError(f"{text!r} is not {description}")
        return value

    description = "a whole number" if kind is int else "a number"
    description += f" above {low}" if above else f" of at least {low}"
    if high != math.inf:
        description += f" and below {high}" if below else f" and at most {high}"
    return parse


def version_name(text):
    """A name for a folder under `logs/` and `model/`."""
    if text in ("", ".", "..") or set(text) & set('/\\:*?"<>|') or not text.isprintable():
        raise argparse.ArgumentTypeError(f"{text!r} is not a plain folder name")
    return text


def cache_folder():
    """This project's folder for caches, by the XDG rules."""
    base = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    return os.path.join(base, "fashion-attributes", "cache")


class Parser(argparse.ArgumentParser):
    """Strict: no shortened options, and what is wrong is a UserError of one line."""

    def __init__(self, **kwargs):
        super().__init__(allow_abbrev=False, formatter_class=argparse.ArgumentDefaultsHelpFormatter, **kwargs)

    def error(self, message):
        raise UserError(f"{message} (see {self.prog} --help)")

    @staticmethod
    def switch(group, name, help):
        """Add a boolean option, False by default; the bare flag means True."""
        group.add_argument(
            name, type=boolean, nargs="?", const=True, default=False, metavar="True|False", help=help
        )
