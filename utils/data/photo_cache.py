"""The photos of a folder in the cache, letterboxed: each is decoded once, as long as its file stays as it is.

Arrays of rows, photos-<folder>-<number>.npy, never change once they are there. The folder's index, photos-<folder>.npz, says of each
photo how its file was, and where its pixels are. What is new gets a new array; an array that the index does not name goes.
"""

import contextlib
import fcntl
import hashlib
import itertools
import json
import os
import secrets
import shutil
from concurrent.futures import ThreadPoolExecutor
from glob import escape, glob

import numpy as np
from tqdm import tqdm

from utils.base.errors import DiskFull, UserError
from utils.base.files import atomic, failure, remove_leftovers
from utils.base.log import logger
from utils.data.photos import LETTERBOX_VERSION, SIZE, letterbox, read_photos

ROWS = 16_384  # that are decoded before the index is written: so much is lost if the run is killed
SHAPE, PHOTO_BYTES = (SIZE, SIZE, 3), SIZE * SIZE * 3
ANEW = "remove it, to have it made anew"
MISSING = (-1, -1, -1, -1)  # stamp of a photo that is not there
# Of a photo: its stamp; hashes of 4 KB of its file and of its pixels; its size, as it is turned; its array, 0 for none, and row.
PHOTO = np.dtype(
    [("stamp", "i8", 4), ("part", "u8"), ("pixels", "u8"), ("width", "u4"), ("height", "u4"), ("array", "u4"), ("row", "u4")]
)  # fmt: skip


def stamp(path):
    """What shows that a file has changed: size in bytes, time of change in ns, inode, the inode's own time. Raises: OSError."""
    found = os.stat(path)
    return found.st_size, found.st_mtime_ns, found.st_ino % 2**63, found.st_ctime_ns


class Pixels:
    """Letterboxed photos by index, uint8 `(224, 224, 3)` each, gathered from memory-mapped arrays.

    Args: `arrays`, a list; `photos`, PHOTO `(N,)`, whose "array" is the index of one.
    """

    def __init__(self, arrays, photos):
        self.arrays, self.photos = arrays, photos

    def __len__(self):
        return len(self.photos)

    def __getitem__(self, chosen):
        photos = self.photos[chosen]
        if not photos.ndim:
            return self.arrays[photos["array"]][photos["row"]]
        pixels = np.empty((len(photos), *SHAPE), np.uint8)
        for number in np.unique(photos["array"]):
            mine = photos["array"] == number
            pixels[mine] = self.arrays[number][photos["row"][mine]]
        return pixels

    def __array__(self, dtype=None, copy=None):
        return self[:]

    @property
    def nbytes(self):
        return len(self) * PHOTO_BYTES

    @property
    def hashes(self):
        """Of each photo's pixels, uint64 `(N,)`."""
        return self.photos["pixels"]

    @property
    def key(self):
        """Hash of all the pixels, in their order."""
        return hashlib.blake2b(self.hashes.tobytes(), digest_size=16).hexdigest()

    def rows(self, chosen):
        """These rows only, indices."""
        return Pixels(self.arrays, self.photos[chosen])


def joined(parts):
    """Several `Pixels` as one, in their order."""
    photos = [part.photos.copy() for part in parts]
    for number, its in enumerate(photos):
        its["array"] += sum(len(part.arrays) for part in parts[:number])
    return Pixels([array for part in parts for array in part.arrays], np.concatenate(photos))


def check_room(cache_dir, needed):
    """DiskFull unless so many bytes are free in the cache, which is made; UserError if it cannot be."""
    try:
        os.makedirs(cache_dir, exist_ok=True)
        free = shutil.disk_usage(cache_dir).free
    except OSError as error:
        raise UserError(f"cache {cache_dir}: {error.strerror}; name another with --cache-dir") from error
    if needed > free:
        raise DiskFull(
            f"cache {cache_dir}: {needed / 1e9:.2f} GB are needed and {free / 1e9:.2f} GB are free; "
            "make room, or name another folder with --cache-dir"
        )


def write_header(file, dtype, shape):
    """Begin a .npy file, whose values follow. Unlike np.save, it needs no file that can be sought in."""
    header = {"descr": np.dtype(dtype).str, "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(file, header)


def map_array(path, dtype, shape):
    """A .npy file, memory-mapped, which `remove_unmapped` leaves meanwhile; None if there is none.

    Args: `shape`, how that of the file ends. Raises: UserError if it is another, or no array.
    """
    try:
        with open(path, "rb") as file:
            with contextlib.suppress(
                OSError
            ):  # of a file system without locks, where none is removed, either
                fcntl.flock(file, fcntl.LOCK_SH)  # the map keeps it
            np.lib.format.read_magic(file)
            found, _, its_dtype = np.lib.format.read_array_header_1_0(file)
            array = np.memmap(file, its_dtype, "r", file.tell(), found)
        if its_dtype != dtype or found[-len(shape) :] != shape:
            raise ValueError(f"{its_dtype} {found}")
        return array
    except FileNotFoundError:
        return None
    except (OSError, ValueError, EOFError) as error:
        raise UserError(f"{path}: cannot be read ({error}); {ANEW}") from error


def remove_unmapped(paths):
    """Remove arrays that no run has mapped."""
    for path in paths:
        # The suppressed errors: it is mapped, another program removed it, or there are no locks.
        with contextlib.suppress(OSError), open(path, "rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.remove(path)


def map_photos(parts, cache_dir):
    """The letterboxed photos of a data set, those decoded that the cache does not hold yet.

    Args: `parts`, name -> `utils.data.dataset.Table`.
    Returns: name -> (Pixels of the rows that can be read, dict row -> what is wrong with a photo that cannot).
    Raises: DiskFull if there is no room; UserError for a cache that cannot be read or made.
    """
    check_room(cache_dir, 0)
    folders, found = {}, {}
    for name, table in parts.items():  # parts may share a folder
        key = table.photos.inside, table.exif
        folders.setdefault(key, {})[name] = table
    for key, tables in folders.items():
        stamps = {f: s for table in tables.values() for f, s in zip(table.files(), table.stamps)}
        folder = _Folder(cache_dir, *key)
        with folder.alone():
            folder.read()
            folder.update(stamps)
        found.update({name: folder.found(table) for name, table in tables.items()})
    return {name: found[name] for name in parts}


class _Folder:
    """What the cache holds of a folder of photos. Args: `folder`, where it really is; `exif` as of `utils.data.photos.read_rgb`."""

    def __init__(self, cache_dir, folder, exif):
        self.cache_dir, self.folder, self.exif = cache_dir, folder, exif
        own = hashlib.sha256(repr((LETTERBOX_VERSION, SIZE, folder, exif)).encode()).hexdigest()[:20]
        self.stem = os.path.join(cache_dir, f"photos-{own}")

    @contextlib.contextmanager
    def alone(self):
        """Lets no other program look at these photos meanwhile: it would decode them, too."""
        path = f"{self.stem}.lock"
        try:
            file = open(path, "a")  # noqa: SIM115
        except OSError as error:
            raise failure(path, error) from error
        with file:
            with contextlib.suppress(OSError):  # of a file system without locks: both decode them
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    logger.info(f"{self.folder}: another program is letterboxing its photos: waiting for it")
                    fcntl.flock(file, fcntl.LOCK_EX)
                remove_leftovers(self.stem)
            yield

    def read(self):
        """Read the index, and map the arrays; photos whose array is gone are to be decoded."""
        self.row, self.photos, self.problems = {}, np.zeros(0, PHOTO), {}
        path = f"{self.stem}.npz"
        if os.path.exists(path):
            try:
                with np.load(path) as file:
                    self.photos = file["photos"]
                    names, problems = (json.loads(file[key].tobytes()) for key in ("names", "problems"))
                self.row, self.problems = {name: row for row, name in enumerate(names)}, dict(problems)
                if len(self.row) != len(self.photos) or self.photos.dtype != PHOTO:
                    raise ValueError(f"{len(names)} names for {len(self.photos)} photos")
            except Exception as error:  # what a damaged one raises depends on where it is damaged
                raise UserError(f"{path}: cannot be read ({error}); {ANEW}") from error
        arrays = {
            n: map_array(self._path(n), np.uint8, SHAPE) for n in {*self.photos["array"].tolist()} - {0}
        }
        self.arrays = {number: array for number, array in arrays.items() if array is not None}
        gone = ~np.isin(self.photos["array"], [0, *self.arrays])
        self.photos[gone] = np.zeros((), PHOTO)

    def _path(self, number):
        return f"{self.stem}-{number:08x}.npy"

    def update(self, stamps):
        """Have these photos, name -> stamp; those that are new or have changed are decoded."""
        fresh = [name for name in stamps if name not in self.row]
        self.row.update(zip(fresh, itertools.count(len(self.row))))
        self.photos = np.concatenate([self.photos, np.zeros(len(fresh), PHOTO)])
        names, rows, now = list(stamps), [self.row[name] for name in stamps], np.array(list(stamps.values()))
        changed = np.flatnonzero((self.photos["stamp"][rows] != now).any(axis=1))
        before, same = self.photos[rows][changed], np.zeros(len(changed), bool)
        alike = np.flatnonzero(
            (before["array"] > 0) & (before["stamp"][:, :2] == now[changed, :2]).all(axis=1)
        )  # of the same size and time
        with ThreadPoolExecutor() as pool:
            same[alike] = list(pool.map(self._is_same, [names[i] for i in changed[alike]]))
        for i in changed[same]:
            self.photos["stamp"][rows[i]] = now[i]
        absent = [names[i] for i in changed[~same]]
        self.photos["array"][[self.row[name] for name in absent]] = 0
        check_room(self.cache_dir, len(absent) * PHOTO_BYTES)
        for start in range(0, len(absent), ROWS):
            self._decode(absent[start : start + ROWS], stamps)
            self._save(stamps)
        if same.any():
            self._save(stamps)
        self._clean()

    def _is_same(self, name):
        """Whether a photo is in 4 KB of its file what it was."""
        try:
            return _hash_of_part(os.path.join(self.folder, name)) == self.photos["part"][self.row[name]]
        except OSError:  # it is told of when it is decoded
            return False

    def _decode(self, names, stamps):
        """Decode photos into a new array. It takes in the rows of small arrays, and of those that are half out of use."""
        used = {number: np.flatnonzero(self.photos["array"] == number) for number in self.arrays}
        count, taken, number = len(names), [np.zeros(0, int)], 1 + secrets.randbelow(2**32 - 1)
        for other, rows in sorted(used.items(), key=lambda one: len(one[1])):
            if len(rows) <= max(min(count, ROWS // 2), len(self.arrays[other]) // 2):
                taken.append(rows)
                count += len(rows)
        taken = np.concatenate(taken)
        check_room(self.cache_dir, count * PHOTO_BYTES)
        with atomic(self._path(number), binary=True) as file:
            write_header(file, np.uint8, (count, *SHAPE))
            for photo in self.photos[taken]:
                file.write(self.arrays[int(photo["array"])][photo["row"]])
            self.photos["array"][taken], self.photos["row"][taken] = number, np.arange(len(taken))
            written = len(taken)
            for name, made, problem in self._read_photos(names, stamps):
                if problem:
                    self.problems[name], where = problem, (0, 0, 0, 0, 0, 0)
                else:
                    pixels, *about = made
                    file.write(np.ascontiguousarray(pixels))
                    self.problems.pop(name, None)
                    where = (*about, number, written)
                    written += 1
                self.photos[self.row[name]] = (stamps[name], *where)
            for _ in range(count - written):  # black ones: its length is written first
                file.write(bytes(PHOTO_BYTES))
        self.arrays[number] = map_array(self._path(number), np.uint8, SHAPE)

    def _read_photos(self, names, stamps):
        """Yields (name, (pixels, hash of 4 KB, hash of the pixels, width, height), None), or (name, None, what is wrong)."""
        paths = {os.path.join(self.folder, name): name for name in names}

        def prepare(image, path):
            pixels, (height, width) = letterbox(image), image.shape[:2]
            about = _hash_of_part(path), _hash(pixels), width, height
            if stamp(path) != stamps[paths[path]]:
                raise ValueError("it was changed while it was read")
            return (pixels, *about)

        photos = read_photos(list(paths), self.exif, prepare, lasting=True)
        progress = tqdm(
            photos, f"letterboxing {os.path.basename(self.folder[:-1])}", len(names), disable=None
        )
        for path, (made, problem) in zip(paths, progress):
            yield paths[path], made, problem and problem[len(path) + 2 :]

    def _save(self, stamps):
        """Photos that are not asked for stay known while they are there."""
        kept = [name for name in self.row if name in stamps or os.path.exists(self.folder + name)]
        texts = {
            "names": kept,
            "problems": [[name, self.problems[name]] for name in kept if name in self.problems],
        }
        # As bytes: numpy's texts have the width of the longest.
        texts = {key: np.frombuffer(json.dumps(value).encode(), np.uint8) for key, value in texts.items()}
        with atomic(f"{self.stem}.npz", binary=True) as file:
            np.savez(file, photos=self.photos[[self.row[name] for name in kept]], **texts)

    def _clean(self):
        """Remove the arrays that no photo needs any more, unless a run has them mapped."""
        self.arrays = {number: self.arrays[number] for number in {*self.photos["array"].tolist()} - {0}}
        remove_unmapped({*glob(f"{escape(self.stem)}-*.npy")} - {*map(self._path, self.arrays)})

    def found(self, table):
        """(Pixels of the rows of a part that can be read, dict row -> what is wrong with another)."""
        files, paths = table.files(), table.paths()
        photos = self.photos[[self.row[file] for file in files]]
        good = photos["array"] > 0
        numbers = sorted(self.arrays)
        problems = {
            row: f"{paths[row]}: {self.problems[files[row]]}" for row in np.flatnonzero(~good).tolist()
        }
        photos["array"] = np.searchsorted(numbers, photos["array"])
        return Pixels([self.arrays[number] for number in numbers], photos[good]), problems


def _hash(content):
    return int.from_bytes(hashlib.blake2b(content, digest_size=8).digest(), "little")


def _hash_of_part(path):
    """Hash of a file's size and of 4 KB of it, from four places. Raises: OSError."""
    with open(path, "rb") as file:
        size = os.fstat(file.fileno()).st_size
        parts = [b"%d" % size]
        for quarter in range(4):
            file.seek(max(0, size - 1024) * quarter // 3)
            parts.append(file.read(1024))
    return _hash(b"".join(parts))
