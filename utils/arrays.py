"""Arrays of letterboxed photos in the cache. An array never changes once it is there, and goes once nobody needs it."""

import contextlib
import fcntl
import hashlib
import itertools
import os
import secrets
import shutil
import time
from pathlib import Path

import numpy as np

from utils.errors import DiskFull, UserError
from utils.files import atomic, remove_leftovers
from utils.photos import SIZE

ROWS = 16_384  # of an array, at most
SHAPE = (SIZE, SIZE, 3)
PHOTO_BYTES = SIZE * SIZE * 3
# Of a row of an array: hashes of the photo's file, of 4 KB of it, and of the pixels; the photo's size, as it is turned.
# Of a million hashes two collide with a chance of 3e-8.
ROW = np.dtype([("content", "u8"), ("part", "u8"), ("pixels", "u8"), ("width", "u4"), ("height", "u4")])
ANEW = "remove it, to have it made anew"


class Pixels:
    """Letterboxed photos by index, uint8 `(224, 224, 3)` each, gathered from memory-mapped arrays.

    Args: `arrays`; `records`, ROW, of all their rows one after the other; `rows`, which of them these are.
    """

    def __init__(self, arrays, records, rows):
        self.records = records[rows]
        ends = np.cumsum([len(array) for array in arrays])
        self.number = np.searchsorted(ends, rows, side="right")
        self.row = rows - np.concatenate([[0], ends])[self.number]
        # The others are let go: an array that is mapped cannot be removed.
        self.arrays = {number: arrays[number] for number in np.unique(self.number)}

    def __len__(self):
        return len(self.row)

    def __getitem__(self, chosen):
        number, row = self.number[chosen], self.row[chosen]
        if np.ndim(row) == 0:
            return self.arrays[number][row]
        pixels = np.empty((len(row), *SHAPE), np.uint8)
        for one in np.unique(number):
            pixels[number == one] = self.arrays[one][row[number == one]]
        return pixels

    def __array__(self, dtype=None, copy=None):
        return self[:]

    @property
    def nbytes(self):
        return len(self) * PHOTO_BYTES

    @property
    def hashes(self):
        """Of each photo's pixels, uint64 `(N,)`."""
        return self.records["pixels"]

    @property
    def key(self):
        """Hash of all the pixels, in their order."""
        return hashlib.blake2b(self.hashes.tobytes(), digest_size=16).hexdigest()

    def rows(self, chosen):
        """These rows only, indices."""
        some = object.__new__(Pixels)
        some.records, some.number, some.row = self.records[chosen], self.number[chosen], self.row[chosen]
        some.arrays = {number: self.arrays[number] for number in np.unique(some.number)}
        return some


def check_room(cache_dir, needed):
    """DiskFull unless so many bytes are free in the cache, which is made; UserError if it cannot be."""
    try:
        os.makedirs(cache_dir, exist_ok=True)
        remove_leftovers(cache_dir)
        free = shutil.disk_usage(cache_dir).free
    except OSError as error:
        raise UserError(f"cache {cache_dir}: {error.strerror}; name another with --cache-dir") from error
    if needed > free:
        raise DiskFull(
            f"cache {cache_dir}: {needed / 1e9:.2f} GB are needed and {free / 1e9:.2f} GB are free; "
            "make room, or name another folder with --cache-dir"
        )


def hash_of(content):
    return int.from_bytes(hashlib.blake2b(content, digest_size=8).digest(), "little")


# --- arrays ------------------------------------------------------------------------------------------


class Arrays:
    """The arrays of a cache, the newest first, mapped; while they are, no program removes them."""

    def __init__(self, cache_dir):
        found = filter(None, map(_open, sorted(Path(cache_dir).glob("letterboxed-*.npy"), reverse=True)))
        self.paths, self.arrays, records = zip(*found) if (found := list(found)) else ((), (), ())
        self.records = np.concatenate([np.zeros(0, ROW), *records])
        self.contents, self.first = np.unique(self.records["content"], return_index=True)

    def rows(self, contents):
        """Which of all rows hold these contents, int64 `(N,)`; -1 where none does."""
        rows, found = np.full(len(contents), -1), (contents != 0) & np.isin(contents, self.contents)
        rows[found] = self.first[np.searchsorted(self.contents, contents[found])]
        return rows

    def live(self, cache_dir):
        """For each array its rows that a photo of some folder has: the first ones of their content."""
        known = []
        for path in Path(cache_dir).glob("photos-*.npz"):
            with contextlib.suppress(FileNotFoundError), np.load(path) as file:
                known.append(file["files"]["content"])
        rows = self.rows(np.unique(np.concatenate(known)))
        ends = np.cumsum([len(array) for array in self.arrays])
        rows = np.sort(rows[rows >= 0])
        return np.split(rows, np.searchsorted(rows, ends[:-1])) if self.arrays else []


def _open(path):
    """(Path, array, its records) of an array, locked; None if another program has just removed it."""
    try:
        with open(path, "rb") as file:
            with contextlib.suppress(OSError):  # a file system without locks, where none is removed, either
                fcntl.flock(file, fcntl.LOCK_SH)  # the map keeps the lock
            if not os.fstat(file.fileno()).st_nlink:
                return None
            np.lib.format.read_magic(file)
            shape, _, dtype = np.lib.format.read_array_header_1_0(file)
            array = np.memmap(file, dtype, "r", file.tell(), shape)
            file.seek(array.offset + array.nbytes)
            records = np.lib.format.read_array(file, allow_pickle=False)
        if (dtype, shape[1:], records.dtype, len(records)) != (np.uint8, SHAPE, ROW, len(array)):
            raise ValueError("not letterboxed photos")
        return path, array, records
    except FileNotFoundError:
        return None
    except (OSError, ValueError, EOFError, OverflowError) as error:
        raise UserError(f"{path}: cannot be read ({error}); {ANEW}") from error


def write_arrays(cache_dir, rows, count):
    """Write `count` rows, (pixels, ROW) or None, as arrays. Black rows at an array's end make up for each None, since its
    length is written first."""
    rows, write_header = iter(rows), np.lib.format.write_array_header_1_0
    for start in range(0, count, ROWS):
        number, written = min(ROWS, count - start), 0
        records = np.zeros(number, ROW)
        path = os.path.join(cache_dir, f"letterboxed-{time.time_ns():x}-{secrets.token_hex(4)}.npy")
        with atomic(path, binary=True) as file:
            write_header(file, {"descr": "|u1", "fortran_order": False, "shape": (number, *SHAPE)})
            for pixels, record in filter(None, itertools.islice(rows, number)):
                file.write(np.ascontiguousarray(pixels))
                records[written] = record
                written += 1
            for _ in range(number - written):
                file.write(bytes(PHOTO_BYTES))
            write_header(file, np.lib.format.header_data_from_array_1_0(records))
            file.write(records.tobytes())


def remove_old(cache_dir):
    """Remove the arrays that no folder's photos have a row of, unless a run has them mapped."""
    arrays = Arrays(cache_dir)
    old = [path for path, rows in zip(arrays.paths, arrays.live(cache_dir)) if not len(rows)]
    del arrays
    for path in old:
        # The suppressed errors: it is mapped, another program removed it, or there are no locks.
        with contextlib.suppress(OSError), open(path, "rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.remove(path)
