"""What a teacher has said of photos, kept in the cache: a file for each view, of its numbers only."""

import hashlib
import os
from glob import escape, glob

import numpy as np

from utils.base.errors import UserError
from utils.base.files import atomic
from utils.data.photo_cache import ANEW, check_room, map_array, remove_unmapped, write_header


class Answers:
    """The logits of one teacher for the training photos, by view: float32 `(N, classes of all attributes)` in a file each.

    What this has read or written stays while it lives. What the same teacher said of the data set as it was before goes.

    Args: `teacher`, plain values that tell it from others, and the data set's source; `images`, `utils.data.pixels.Images`;
        `sizes`, attribute -> number of classes.
    """

    def __init__(self, cache_dir, teacher, images, sizes):
        self.cache_dir, self.sizes, self.maps = cache_dir, sizes, {}
        self.shape = len(images), sum(sizes.values())
        self.teacher = os.path.join(cache_dir, f"logits-{_digest(teacher)}")
        self.stem = f"{self.teacher}-{_digest(images.key[0])}"

    def check(self, views):
        """UserError if the file of one of these views is damaged, DiskFull if there is no room for the others."""
        absent = [view for view in views if self.read(view) is None]
        check_room(self.cache_dir, len(absent) * 4 * self.shape[0] * self.shape[1])

    def read(self, view):
        """Dict attribute -> float32 array `(N, classes)`; None if it was not said yet. Raises: UserError for a damaged file.

        Args: `view`, its key, see `utils.data.views.Views`.
        """
        path = self.path(view)
        values = self.maps[path] = map_array(path, np.float32, self.shape)
        if values is None:
            return None
        if not np.isfinite(values).all():
            raise UserError(f"{path}: cannot be read (not finite); {ANEW}")
        ends = np.cumsum(list(self.sizes.values()))
        return dict(zip(self.sizes, np.split(np.array(values), ends[:-1], axis=1)))

    def save(self, view, logits):
        """Keep what `read` then returns."""
        with atomic(self.path(view), binary=True) as file:
            write_header(file, np.float32, self.shape)
            file.write(np.concatenate([logits[key] for key in self.sizes], axis=1).tobytes())
        self.read(view)
        remove_unmapped({*glob(f"{escape(self.teacher)}-*.npy")} - {*glob(f"{escape(self.stem)}-*.npy")})

    def path(self, view):
        return f"{self.stem}-{_digest(view)}.npy"


def _digest(value):
    return hashlib.blake2b(repr(value).encode(), digest_size=10).hexdigest()
