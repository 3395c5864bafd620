"""What a teacher has said of photos, kept in the cache: a folder for the teacher and the photos, and in it a file a view."""

import contextlib
import fcntl
import hashlib
import os
import shutil
import weakref

import numpy as np

from utils.errors import UserError
from utils.files import atomic
from utils.photo_cache import ANEW, check_room


class Answers:
    """The logits of one teacher for the training photos, by view: float32 `(N, classes of all attributes)` in a file each.

    While this lives no program removes them; those of the same teacher and data set as it was before go.

    Args: `teacher`, plain values that tell it from others; `data`, a `utils.dataset.Split` with pixels on a device;
        `sizes`, attribute -> number of classes.
    """

    def __init__(self, cache_dir, teacher, data, sizes):
        self.sizes, self.shape = sizes, (len(data.names), sum(sizes.values()))
        self.above = os.path.join(cache_dir, f"logits-{_digest((data.place, teacher))}")
        self.folder = os.path.join(self.above, _digest(data.pixels.key[0]))
        while True:  # until no other program has removed it before it was locked
            check_room(self.folder, 0)
            with contextlib.suppress(FileNotFoundError):
                descriptor = os.open(self.folder, os.O_RDONLY)
                weakref.finalize(self, os.close, descriptor)
                with contextlib.suppress(
                    OSError
                ):  # a file system without locks, where none is removed, either
                    fcntl.flock(descriptor, fcntl.LOCK_SH)
                if os.path.samestat(os.fstat(descriptor), os.stat(self.folder)):
                    break

    def path(self, view):
        """Where the logits of a view are, or will be. Args: `view`, its key, see `utils.views.Views`."""
        return os.path.join(self.folder, f"{_digest(view)}.npy" if view else "photos.npy")

    def check(self, views):
        """UserError if the file of one of these views cannot be read, DiskFull if there is no room for the others."""
        paths = list(map(self.path, views))
        present = [self._open(path) for path in paths if os.path.exists(path)]
        check_room(self.folder, (len(paths) - len(present)) * 4 * self.shape[0] * self.shape[1])

    def read(self, path):
        """Dict attribute -> float32 array `(N, classes)`. Raises: UserError for a file that is damaged."""
        values = np.array(self._open(path))
        if not np.isfinite(values).all():
            raise UserError(f"{path}: cannot be read (not finite); {ANEW}")
        ends = np.cumsum(list(self.sizes.values()))
        return dict(zip(self.sizes, np.split(values, ends[:-1], axis=1)))

    def _open(self, path):
        try:
            values = np.load(path, mmap_mode="r")
            if values.shape != self.shape or values.dtype != np.float32:
                raise ValueError(f"{values.dtype} {values.shape} in place of {self.shape}")
            return values
        except (OSError, ValueError, EOFError) as error:
            raise UserError(f"{path}: cannot be read ({error}); {ANEW}") from error

    def save(self, path, logits):
        """Keep a view's logits, as `read` returns them."""
        values = np.concatenate([logits[key] for key in self.sizes], axis=1)
        with atomic(path, binary=True) as file:  # not np.save, which writes past a file that counts its bytes
            header = np.lib.format.header_data_from_array_1_0(values)
            np.lib.format.write_array_header_1_0(file, header)
            file.write(values.tobytes())
        for name in os.listdir(self.above):
            other = os.path.join(self.above, name)
            # The suppressed errors: a run learns from it, another program removes it, or there are no locks.
            with contextlib.suppress(OSError), contextlib.ExitStack() as at_end:
                descriptor = os.open(other, os.O_RDONLY)
                at_end.callback(os.close, descriptor)
                if other != self.folder:
                    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    shutil.rmtree(other)


def _digest(value):
    return hashlib.blake2b(repr(value).encode(), digest_size=10).hexdigest()
