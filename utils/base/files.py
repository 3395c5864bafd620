"""Files that a later step reads: there whole or not at all, whatever happens while they are written."""

import contextlib
import csv
import errno
import fcntl
import glob
import hashlib
import io
import json
import os
import secrets
import shutil
from pathlib import Path

from utils.base.errors import DiskFull, UserError, excerpt, not_readable

RECORD = ".fashion-attributes.json"  # of a folder that we write: what its files were then
MARK = b"fashion-attributes"  # at the beginning of files that we write, where their form has room for it
HEAD = 65_536  # bytes by which a file is known
MAX_CHARACTERS = 2_000_000  # of a JSON file
NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)  # the disk, the user's quota, the largest file allowed


@contextlib.contextmanager
def atomic(path, binary=False, encoding="utf-8"):
    """A file to write, that takes the place of `path` once all of it is on the disk: `with atomic(path) as file`.

    It is written beside `path` under a name of its own, flushed to the disk, and renamed. If that fails, or the block
    raises, what was at `path` before is still there and nothing else is. A process that is killed leaves its file behind,
    see `remove_leftovers`. The file can be written only from beginning to end.

    Args: `binary`, for bytes; otherwise text, in an `encoding` and with line ends as they are written.
    Raises: DiskFull, with the bytes that are needed; UserError if it cannot be written for another reason.
    """
    if os.path.isdir(path) or is_device(path):
        raise UserError(f"{path}: not a file; name another")
    temporary, raw = f"{path}.{secrets.token_hex(4)}.tmp", None
    try:
        with _CountingFile(temporary, "x") as raw, io.BufferedWriter(raw) as buffered:
            file = buffered if binary else io.TextIOWrapper(buffered, encoding=encoding, newline="")
            yield file
            file.flush()
            if raw.error:
                raise raw.error
            os.fsync(raw.fileno())
            os.replace(temporary, path)
    except OSError as error:
        raise failure(path, error, raw.needed if raw else 0) from error
    finally:
        if os.path.exists(temporary):
            os.remove(temporary)


def write_csv(path, header, rows, encoding="utf-8"):
    """Write a table as `atomic` writes a file, with the line ends of this system's programs, not of Excel's."""
    with atomic(path, encoding=encoding) as file:
        csv.writer(file, lineterminator="\n").writerows([header, *rows])


@contextlib.contextmanager
def continued(path, digest):
    """Like `atomic`, for bytes that take long: what was flushed of them when the program was interrupted is there again, to read and to
    go on, the next time that it is called with the same `digest` of what they are made from.

    They are kept beside `path` in a file that no other process may write meanwhile, each digest's in one of its own, which another
    process may be writing. An empty one is removed at once.

    Yields: the file; what is written goes to its end.
    Raises: UserError if another process has it, or as `atomic`; DiskFull.
    """
    part = f"{path}.{digest}.part"
    try:
        with open(part, "a+b") as file:
            lock(file, f"{part}: another process is writing it; wait for its end")
            try:
                yield file
                file.flush()
                os.fsync(file.fileno())
                os.replace(part, path)
            finally:
                if not os.fstat(file.fileno()).st_size:
                    os.remove(part)
    except OSError as error:
        raise failure(path, error, io.DEFAULT_BUFFER_SIZE) from error


def lock(file, problem):
    """Let no other process have an open file or folder meanwhile, where the file system has locks. Raises: UserError with the `problem`
    if another has it; OSError."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise UserError(problem) from error
    except OSError as error:
        if error.errno not in (errno.ENOLCK, errno.ENOTSUP):
            raise


def write_json(path, value):
    """Write plain values as `atomic` writes a file. Raises: ValueError for a number that is not finite, which JSON does not know."""
    with atomic(path) as file:
        file.write(json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False) + "\n")


def remove_leftovers(beginning):
    """Remove what processes that were killed have left of files whose paths begin so. For whoever is their only writer."""
    for path in glob.glob(f"{glob.escape(beginning)}*.{'[0-9a-f]' * 8}.tmp"):
        if os.path.isfile(path):
            os.remove(path)


def check_new(path, is_earlier, inputs=()):
    """UserError if a file to write would take the place of a user's: of one of the `inputs`, which the command reads, or of any
    that is no earlier output of its kind.

    Args: `is_earlier` tells such a one by its first bytes.
    """
    if not os.path.isfile(path):
        return
    for one in inputs:
        if os.path.exists(one) and os.path.samefile(one, path):
            raise UserError(f"{path}: the same file as {one}, which is read; name another to write")
    with open(path, "rb") as file:
        if not is_earlier(file.read(HEAD)):
            raise UserError(f"{path}: is there, and not from an earlier run of this command; name another")


def check_folder(folder, names, sign):
    """UserError if a file to write into a folder would take the place of one that is not as a command of ours has left it.

    Args: `names` of the files, relative to the folder; `sign`, (name, bytes) of a file that tells a folder of ours without
        `RECORD`, as earlier versions left them: a README.md in it may have been added to.
    """
    recorded, first = _recorded(folder), _content(folder, sign[0])

    def is_own(name):
        path = os.path.join(folder, name)
        if sign[0] in recorded:
            return os.path.isfile(path) and recorded.get(name) == digest_of(path)
        return sign[1] in first and name != "README.md"  # the record, if any, is another command's

    changed = [name for name in names if os.path.lexists(os.path.join(folder, name)) and not is_own(name)]
    if changed:
        problem = "not as an earlier run of this command left it; keep it elsewhere, or name a new folder"
        raise UserError(f"--output {folder}: {', '.join(changed)}: {problem}")


def record(folder, names):
    """Note in a folder how these of its files are, now that they are written, for `check_folder`."""
    written = {name: digest_of(os.path.join(folder, name)) for name in names}
    # Files that are not written this time stay known.
    write_json(os.path.join(folder, RECORD), {**_recorded(folder), **written})


def _recorded(folder):
    try:
        return dict(json.loads(_content(folder, RECORD)))
    except (ValueError, TypeError):  # none, or not ours
        return {}


def _content(folder, name):
    path = Path(folder, name)
    return path.read_bytes() if path.is_file() else b""


def digest_of(path):
    """Hash of a file's content, as text."""
    digest = hashlib.blake2b(digest_size=16)
    with open(path, "rb") as file:
        for block in iter(lambda: file.read(2**20), b""):
            digest.update(block)
    return digest.hexdigest()


def copy_file(source, path):
    """Copy a file to `path`, as `atomic` writes it."""
    with open(source, "rb") as content, atomic(path, binary=True) as file:
        shutil.copyfileobj(content, file)


def link(target, path):
    """Make `path` a symbolic link to `target`, a file in the same folder, in place of what it was; without links, a copy."""
    temporary = f"{path}.{secrets.token_hex(4)}.tmp"  # as of `atomic`
    try:
        os.symlink(os.path.basename(target), temporary)
        os.replace(temporary, path)
    except OSError:  # exFAT has no links, nor have some network shares
        copy_file(target, path)


def is_device(path):
    """Whether something is there that no file must take the place of: /dev/null, a pipe, /dev/stdout, which is a link."""
    is_stream = os.path.islink(path) and os.path.dirname(os.path.abspath(path)) == "/dev"
    return is_stream or (os.path.exists(path) and not (os.path.isfile(path) or os.path.isdir(path)))


def failure(path, error, needed=0):
    """The error to raise where a file or folder cannot be written because of an OSError; `needed` are its bytes."""
    if error.errno not in NO_ROOM:
        return UserError(f"{path}: cannot be written ({error.strerror})")
    free = shutil.disk_usage(os.path.dirname(os.path.abspath(path))).free
    problem = f"{needed:,} bytes are needed and {free:,} are free ({error.strerror})"
    return DiskFull(f"{path}: {problem}; what was there before is kept: make room, and run it again")


class _CountingFile(io.FileIO):
    """A file that counts the bytes that are written to it. Its first error is kept for the end, and not raised.

    So the error can say how many bytes are needed; and torch 1.12 ends the whole process if a write in torch.save
    fails.
    """

    needed, error = 0, None

    def write(self, data):
        written = memoryview(data).nbytes
        if self.error is None:
            try:
                written = super().write(data)
            except OSError as error:
                self.error = error
        self.needed += written
        return written


def read_json(path, what):
    """Content of a JSON file. Raises: UserError, also where an object has a name twice."""

    def unique(pairs):
        found = {}
        for name, value in pairs:
            if name in found:
                raise ValueError(f"{excerpt(name)!r} stands twice in one object")
            found[name] = value
        return found

    try:
        with open(path, encoding="utf-8-sig") as file:
            text = file.read(MAX_CHARACTERS + 1)
        if len(text) > MAX_CHARACTERS:
            raise ValueError(f"longer than {MAX_CHARACTERS:,} characters")
        return json.loads(text, object_pairs_hook=unique)
    except (OSError, ValueError, RecursionError) as error:
        raise not_readable(f"{what} {path}", "JSON file", error) from error
