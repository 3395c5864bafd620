"""What every command shares: strict options, and errors of one line with an exit code."""

import argparse
import difflib
import io
import itertools
import logging
import math
import os
import re
import signal
import sys
import tempfile
import traceback

from utils.base.errors import DiskFull, LibraryError, UserError, cause_of, is_utf8, reason_of
from utils.base.files import NO_ROOM, is_device
from utils.base.log import RunFile, logger

BOOLEANS = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}
NO_MEMORY = re.compile("out of memory|can't allocate memory")  # in a RuntimeError of PyTorch


# --- options -----------------------------------------------------------------------------------------


def boolean(text):
    """True, False, 1, 0, yes or no, in any case."""
    if text.lower() in BOOLEANS:
        return BOOLEANS[text.lower()]
    raise argparse.ArgumentTypeError(f"{text!r} is none of True, False, 1, 0, yes, no")


def number(kind, low, high=math.inf, *, above=False, below=False):
    """A type for numbers from `low` to `high`; `above` and `below` leave out the bound itself."""
    description = "a whole number" if kind is int else "a number"
    description += f" above {low}" if above else f" of at least {low}"
    if high != math.inf:
        description += f" and below {high}" if below else f" and at most {high}"

    def parse(text):
        try:
            value = kind(text)
        except ValueError:
            value = math.nan
        if low < value < high or (value == low and not above) or (value == high != math.inf and not below):
            return value
        raise argparse.ArgumentTypeError(f"{text!r} is not {description}")

    return parse


def version_name(text):
    """A name for a folder under `logs/` and `model/`."""
    if text in ("", ".", "..") or set(text) & set('/\\:*?"<>|') or not text.isprintable():
        raise argparse.ArgumentTypeError(f"{text!r} is not a plain folder name")
    return text


def new_path(text):
    """A file or folder to write, into a folder that is there."""
    folder = os.path.dirname(os.path.normpath(text))
    if not text:
        raise argparse.ArgumentTypeError("an empty name; name a file or folder")
    if folder and not os.path.isdir(folder):
        raise argparse.ArgumentTypeError(f"there is no folder {folder}; make it first")
    if is_device(text):
        raise argparse.ArgumentTypeError(f"{text} is not a file; name another")
    return text


def new_file(text):
    """A file to write, into a folder that is there."""
    if os.path.isdir(text):
        raise argparse.ArgumentTypeError(f"{text} is a folder; name a file")
    return new_path(text)


def cache_folder():
    """This project's folder for caches, by the XDG rules."""
    base = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    return os.path.join(base, "fashion-attributes", "cache")


class Parser(argparse.ArgumentParser):
    """Strict: no shortened options, and what is wrong is a UserError of one line."""

    def __init__(self, **kwargs):
        super().__init__(allow_abbrev=False, formatter_class=argparse.ArgumentDefaultsHelpFormatter, **kwargs)

    def parse_known_args(self, args=None, namespace=None):
        words = sys.argv[1:] if args is None else args
        for word in words:
            if not is_utf8(word):
                self.error(f"{word!a} is not in UTF-8; rename that file or folder")
        # Options that are none, before others are missed. A word with a space is a value.
        known, words = self._option_string_actions, itertools.takewhile(lambda word: word != "--", words)
        names = [word.partition("=")[0] for word in words if word.startswith("--")]
        unknown = [name for name in names if name not in known and " " not in name]
        if unknown:
            near = [one for name in unknown for one in difflib.get_close_matches(name, known, 1, 0.75)]
            hint = f"; did you mean {', '.join(near)}?" if near else ""
            self.error(f"unrecognized arguments: {' '.join(unknown)}{hint}")
        return super().parse_known_args(args, namespace)

    def error(self, message):
        raise UserError(f"{message} (see {self.prog} --help)")

    def switch(self, group, name, help):
        """Add a boolean option, False by default; the bare flag means True."""
        values = {"type": boolean, "nargs": "?", "const": True, "default": False, "metavar": "True|False"}
        group.add_argument(name, help=help, **values)

    # fmt: off
    def data_options(self, group, cached=True):
        """Add the options that name a data set, the same in every command that reads one; `cached`, if it keeps pixels."""
        group.add_argument("--attributes", help="JSON file of the attributes, the tables and the photos", metavar="FILE")
        group.add_argument("--data-dir", default="./Dataset", help="folder of the data set", metavar="DIR")
        if cached:
            group.add_argument("--cache-dir", default=cache_folder(), help="folder for what is computed once: decoded pixels, teacher's logits", metavar="DIR")
        self.photo_options(group)

    def photo_options(self, group, skip=True):
        """Add the options that say which photos are read; with `skip`, what is done with those that cannot be."""
        if skip:
            self.switch(group, "--skip-unreadable", "leave out photos that cannot be read, instead of ending with a list of them")
        self.switch(group, "--follow-links", "read photos wherever links in their folder lead, out of it, too, and the sub-folders that are links")

    def encoding_option(self, group):
        group.add_argument("--encoding", choices=("utf-8", "utf-8-sig"), default="utf-8", help="of the table of predictions: utf-8-sig begins with a mark by which Excel knows it")

    def prior_option(self, group):
        group.add_argument("--prior", choices=("trained", "balanced"), default="trained", help="balanced: as if all classes were equally frequent, by taking off what is left of the training images' shares in the logits")

    def device_option(self, group, more="; an .onnx runs on the CPU, and a checkpoint's answers are computed in float32, not in TF32"):
        group.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto", help=f"auto: CUDA where there is one{more}")

    def unlabelled_option(self, group):
        group.add_argument("--unlabelled", nargs="+", action="extend", help="folders of photos without labels, from which the student learns what the teacher says", metavar="DIR")

    def view_options(self, group, count=None):
        """Add the options of `utils.data.views.Views`. Args: `count`, a type of their number besides whole ones."""
        group.add_argument("--views", type=count or number(int, 1), default=1, help="views of each photo, or 'epochs': as many as --epochs; epoch e trains on the next of them, the first of which is the photo itself", metavar="K")
        group.add_argument("--views-seed", type=number(int, 0, 2**63 - 1), default=0, help="of the views", metavar="N")
        group.add_argument("--flip", type=number(float, 0, 1), default=0.5, help="share of a photo's views that are mirrored, 0 to 1", metavar="X")
        group.add_argument("--crop-scale", type=number(float, 0, 1, above=True), default=0.7, help="smallest size of a crop, as a share of the letterboxed photo's side", metavar="X")
        group.add_argument("--crop-ratio", type=number(float, 1), default=1.0, help="a crop's width is up to this many times its height, or the other way round", metavar="X")
        self.switch(group, "--crop-to-box", "crop anywhere between a photo's box and the whole photo, where the table has a box")
        group.add_argument("--color-jitter", type=number(float, 0, 1), default=0.0, help="brightness, contrast and saturation change by up to this share", metavar="X")
    # fmt: on


# --- the end of a command ----------------------------------------------------------------------------


def exit_code(main):
    """Run a command's `main`: 0, or the exit code of an exception or of a signal, whose message is the last line."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # of a terminal that is not in UTF-8
    try:
        main()
        sys.stdout.flush()
        return 0
    except (Exception, KeyboardInterrupt) as error:
        level, message, code = _end(error)
    try:
        logger.log(level, message)
    except BrokenPipeError:  # stderr went there, too: the log may still have it
        _close(2)
        logger.log(level, message)
    return code


def _end(error):
    """(Level, message, exit code) of an exception that ends a command."""
    if isinstance(error, BrokenPipeError):
        _close(1)  # or Python complains when it flushes
        return logging.WARNING, "stopped: what read the output, such as head, has ended", 128 + signal.SIGPIPE
    if isinstance(error, KeyboardInterrupt):  # an Interrupted tells more
        code = getattr(error, "exit_code", 128 + signal.SIGINT)
        return logging.WARNING, str(error) or "SIGINT: stopped; no file is half written", code
    message, code = str(error), UserError.exit_code
    if isinstance(error, UserError):
        code = error.exit_code
        if isinstance(error, LibraryError):
            message += f"; the traceback is in {_kept_traceback(error)}"
    elif is_full_memory(error):
        way_out = "end other programs, or give a smaller --batch-size where there is one"
        message = f"the memory is full ({cause_of(error)}); {way_out}"
    elif isinstance(error, OSError):
        code = DiskFull.exit_code if error.errno in NO_ROOM else code
        message = f"{error.filename}: {reason_of(error)}" if error.filename else reason_of(error)
    else:
        way_out = "look whether the packages are those of requirements.txt, otherwise please report it"
        message = f"unexpected: {cause_of(error)}; {way_out}, with the traceback, which is in "
        message, code = message + _kept_traceback(error), 1  # as Python's own
    # Lines of a list are indented; other ends of lines came with a name.
    return logging.ERROR, re.sub(r"\n(?!  )", r"\\n", f"error: {message}"), code


def _close(descriptor):
    """Let what is still to be written there go nowhere."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), descriptor)


def is_full_memory(error):
    return isinstance(error, MemoryError) or bool(NO_MEMORY.search(str(error)))


def _kept_traceback(error):
    """The file that an exception's traceback was written to: beside the run's log, or else where temporary files are."""
    files = [one.baseFilename for one in logger.handlers if isinstance(one, RunFile)]
    folder = os.path.dirname(files[0]) if files else None
    about = {"prefix": "traceback-", "suffix": ".txt", "dir": folder, "delete": False}
    with tempfile.NamedTemporaryFile("w", encoding="utf-8", errors="backslashreplace", **about) as file:
        file.writelines(traceback.format_exception(type(error), error, error.__traceback__))
    return file.name
