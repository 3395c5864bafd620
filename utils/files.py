"""Files that a later step reads: there whole or not at all, whatever happens while they are written."""

import contextlib
import errno
import fcntl
import io
import os
import re
import secrets
import shutil

from utils.errors import DiskFull, UserError

NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)  # the disk, the user's quota, the largest file allowed


@contextlib.contextmanager
def atomic(path, binary=False):
    """A file to write, that takes the place of `path` once all of it is on the disk: `with atomic(path) as file`.

    It is written beside `path` under a name of its own, flushed to the disk, and renamed. If that fails, or the block
    raises, what was at `path` before is still there and nothing else is. What a process that was killed leaves behind
    is removed by the next one that writes the same path. The file can be written only from beginning to end.

    Args: `binary`, for bytes; otherwise text, in UTF-8 and with line ends as they are written.
    Raises: DiskFull, with the bytes that are needed; UserError if it cannot be written for another reason.
    """
    folder, name = os.path.split(os.path.abspath(path))
    temporary = os.path.join(folder, f"{name}.{secrets.token_hex(4)}.tmp")
    raw = None
    try:
        remove_leftovers(folder, name)
        with _CountingFile(temporary) as raw, io.BufferedWriter(raw) as buffered:
            try:
                file = buffered if binary else io.TextIOWrapper(buffered, encoding="utf-8", newline="")
                yield file
                file.flush()
                raw.finish()
                os.replace(temporary, path)
            finally:
                if os.path.exists(temporary):
                    os.remove(temporary)
        _sync_folder(folder)
    except OSError as error:
        raise failure(path, error, raw.needed if raw else 0) from error


def failure(path, error, needed=0):
    """The error to raise where a file or folder cannot be written because of an OSError; `needed` are its bytes."""
    if error.errno not in NO_ROOM:
        return UserError(f"{path}: cannot be written ({error.strerror})")
    free = shutil.disk_usage(os.path.dirname(os.path.abspath(path))).free
    return DiskFull(
        f"{path}: {needed:,} bytes are needed and {free:,} are free ({error.strerror}); "
        "what was there before is kept: make room, and run it again"
    )


class _CountingFile(io.RawIOBase):
    """A new file that counts the bytes that are written to it. Its first error is kept for `finish`, not raised.

    So the error can say how many bytes are needed; and torch 1.12 ends the whole process if a write in torch.save
    fails. While the file is open it is locked, which tells `remove_leftovers` that its writer lives.
    """

    def __init__(self, path):
        super().__init__()
        self.needed, self.error = 0, None
        self.descriptor = _create_locked(path)
        while (
            os.fstat(self.descriptor).st_nlink == 0
        ):  # removed by `remove_leftovers` before the lock was taken
            os.close(self.descriptor)
            self.descriptor = _create_locked(path)

    def writable(self):
        return True

    def write(self, data):
        rest = memoryview(data).cast("B")
        size = rest.nbytes
        self.needed += size
        try:
            while self.error is None and rest:
                rest = rest[os.write(self.descriptor, rest) :]
        except OSError as error:
            self.error = error
        return size

    def finish(self):
        """Flush to the disk. Raises: OSError if that fails or a write has failed."""
        if self.error:
            raise self.error
        os.fsync(self.descriptor)

    def close(self):
        if not self.closed:
            os.close(self.descriptor)
        super().close()


def _create_locked(path):
    """Descriptor of a new file; locked, where the file system has locks: elsewhere leftovers are not removed either."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
    with contextlib.suppress(OSError):
        fcntl.flock(descriptor, fcntl.LOCK_EX)
    return descriptor


def remove_leftovers(folder, name=None):
    """Remove the temporary files of processes that were killed while they wrote into a folder.

    Args: `name`, the file that they wrote; None for all files.
    """
    pattern = re.compile((re.escape(name) if name else r".+") + r"\.[0-9a-f]{8}\.tmp")
    for entry in filter(pattern.fullmatch, os.listdir(folder)):
        # The suppressed errors: its writer lives, another process removed it, or there are no locks.
        with contextlib.suppress(OSError), open(os.path.join(folder, entry), "rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.remove(file.name)


def _sync_folder(folder):
    """Flush the folder's list of names to the disk, without which a rename may be lost with the power."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno != errno.EINVAL:  # some network file systems cannot, and need not
            raise
    finally:
        os.close(descriptor)
