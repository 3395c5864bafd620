"""What a teacher has said of photos, kept in the cache: a file for each view, of its numbers only."""

import contextlib
import hashlib
import os
import time
from glob import escape, glob

import numpy as np

from utils.base.errors import UserError
from utils.base.files import atomic
from utils.data.photo_cache import ANEW, check_room, write_header

KEPT = 60 * 24 * 3600  # seconds since a file was last read


class Answers:
    """The logits of one teacher for the training photos, by view: float32 `(N, classes of all attributes)` in a file each.

    Args: `teacher`, plain values that tell it from others; `images`, `utils.data.pixels.Images`; `sizes`, attribute -> number
        of classes.
    """

    def __init__(self, cache_dir, teacher, images, sizes):
        self.cache_dir, self.sizes = cache_dir, sizes
        self.shape = len(images), sum(sizes.values())
        self.stem = os.path.join(cache_dir, f"logits-{_digest((teacher, images.key[0]))}")

    def path(self, view):
        return f"{self.stem}-{_digest(view)}.npy"

    def check(self, views):
        """UserError if the file of one of these views is damaged, DiskFull if there is no room for the others."""
        absent = [view for view in views if self.read(view) is None]
        check_room(self.cache_dir, len(absent) * 4 * self.shape[0] * self.shape[1])

    def read(self, view):
        """Dict attribute -> float32 array `(N, classes)`; None if it was not said yet. Raises: UserError for a damaged file.

        Args: `view`, its key, see `utils.data.views.Views`.
        """
        path = self.path(view)
        try:
            values = np.load(path)
            with contextlib.suppress(OSError):  # of a cache that may only be read
                os.utime(path)
            if values.dtype != np.float32 or values.shape != self.shape or not np.isfinite(values).all():
                raise ValueError(f"it needs finite float32 {self.shape}")
        except FileNotFoundError:
            return None
        except (OSError, ValueError, EOFError) as error:
            raise UserError(f"{path}: cannot be read ({error}); {ANEW}") from error
        ends = np.cumsum(list(self.sizes.values()))
        return dict(zip(self.sizes, np.split(values, ends[:-1], axis=1)))

    def save(self, view, logits):
        """Keep what `read` then returns. What nobody has read for two months goes, of whatever teacher."""
        with atomic(self.path(view), binary=True) as file:
            write_header(file, np.float32, self.shape)
            file.write(np.concatenate([logits[key] for key in self.sizes], axis=1).tobytes())
        for path in glob(f"{escape(self.cache_dir)}/logits-*.npy"):
            with contextlib.suppress(OSError):  # another program removed it
                if time.time() - os.path.getmtime(path) > KEPT:
                    os.remove(path)


def _digest(value):
    return hashlib.blake2b(repr(value).encode(), digest_size=10).hexdigest()
