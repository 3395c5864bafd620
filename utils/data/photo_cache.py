"""The photos of a folder in the cache, letterboxed: each is decoded once, as long as its file stays as it is.

Arrays of rows, photos-<folder>-<number>.npy, never change once they are there. The folder's index, photos-<folder>.npz, says of each
photo how its file was, and where its pixels are. What is new gets a new array; an array that the index does not name goes.
"""

import contextlib
import fcntl
import hashlib
import json
import os
import secrets
import shutil
from concurrent.futures import ThreadPoolExecutor
from glob import escape, glob

import numpy as np
from numpy.lib.recfunctions import require_fields

from utils.base.errors import DiskFull, UserError
from utils.base.files import atomic, remove_leftovers
from utils.base.log import logger, progress
from utils.data.photos import LETTERBOX_VERSION, SIZE, letterbox, photo_size, read_photos

ROWS = 16_384  # that are decoded before the index is written: so much is lost if the run is killed
SHAPE, PHOTO_BYTES = (SIZE, SIZE, 3), SIZE * SIZE * 3
ANEW = "remove it, to have it made anew"
MISSING = (-1, -1, -1, -1)  # stamp of a photo that is not there
# Of a photo: its stamp; hashes of its file, under an old name, and of its pixels; number of its array, 0 if it cannot be read, and its
# row; height and width, 0 in what an earlier version has written.
PHOTO = np.dtype(
    [("stamp", "i8", 4), ("part", "u8"), ("pixels", "u8"), ("array", "u4"), ("row", "u4"), ("size", "u2", 2)]
)


def stamp(path):
    """What shows that a file has changed: size in bytes, time of change in ns, inode, the inode's own time. Raises: OSError."""
    found = os.stat(path)
    return found.st_size, found.st_mtime_ns, found.st_ino % 2**63, found.st_ctime_ns


class Pixels:
    """Letterboxed photos by index, uint8 `(224, 224, 3)` each, gathered from memory-mapped arrays.

    Args: `arrays`, a list; `photos`, PHOTO `(N,)`, whose "array" is the index of one.
    Attributes: `hashes` of each photo's pixels, uint64 `(N,)`.
    """

    def __init__(self, arrays, photos):
        self.arrays, self.photos, self.hashes = arrays, photos, photos["pixels"]

    def __len__(self):
        return len(self.photos)

    def __getitem__(self, chosen):
        photos = self.photos[chosen]
        pixels = np.empty((*photos.shape, *SHAPE), np.uint8)
        for number in np.unique(photos["array"]):
            mine = photos["array"] == number
            pixels[mine] = self.arrays[number][photos["row"][mine]]
        return pixels

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
    """DiskFull unless so many bytes are free in the cache."""
    free = shutil.disk_usage(cache_dir).free
    if needed > free:
        problem = f"{needed / 1e9:.2f} GB are needed and {free / 1e9:.2f} GB are free"
        raise DiskFull(f"cache {cache_dir}: {problem}; make room, or name another folder with --cache-dir")


def write_header(file, dtype, shape):
    """Begin a .npy file, whose values follow. Unlike np.save, it needs no file that can be sought in."""
    header = {"descr": np.dtype(dtype).str, "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(file, header)


def map_photos(table, cache_dir):
    """The letterboxed photos of a `utils.data.dataset.Table`, those decoded that the cache does not hold yet.

    Returns: (Pixels of the rows that can be read, dict row -> what is wrong with a photo that cannot).
    Raises: DiskFull if there is no room; UserError for a cache that cannot be read or made.
    """
    paths = table.paths()
    files = [path[len(table.photos.prefix) :] for path in paths]
    folder = _Folder(cache_dir, table.photos.inside, table.exif)
    with folder.alone():
        folder.read()
        folder.update(dict(zip(files, table.stamps)))
    photos, numbers = np.array([folder.photos[file] for file in files], PHOTO), sorted(folder.arrays)
    bad = np.flatnonzero(photos["array"] == 0).tolist()
    problems = {row: f"{paths[row]}: {folder.problems[files[row]]}" for row in bad}
    photos = np.delete(photos, bad)
    photos["array"] = np.searchsorted(numbers, photos["array"])
    return Pixels([folder.arrays[number] for number in numbers], photos), problems


class _Folder:
    """What the cache holds of a folder of photos. Args: `folder`, where it really is; `exif` as of `utils.data.photos.read_rgb`.

    Attributes: `photos`, name -> PHOTO; `problems`, name -> what is wrong with one that cannot be read; `arrays` by number.
    """

    def __init__(self, cache_dir, folder, exif):
        self.cache_dir, self.folder, self.exif = cache_dir, folder, exif
        own = hashlib.sha256(repr((LETTERBOX_VERSION, SIZE, folder, exif)).encode()).hexdigest()[:20]
        self.stem = os.path.join(cache_dir, f"photos-{own}")
        self.photos, self.problems, self.arrays = {}, {}, {}

    @contextlib.contextmanager
    def alone(self):
        """Lets no other program look at these photos meanwhile: it would decode them, too."""
        try:
            os.makedirs(self.cache_dir, exist_ok=True)
            file = open(f"{self.stem}.lock", "a")  # noqa: SIM115
        except OSError as error:
            raise UserError(f"cache {self.cache_dir}: {error.strerror}; name another --cache-dir") from error
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
        """Read the index, and map the arrays; photos whose array is gone are not known."""
        path = f"{self.stem}.npz"
        if not os.path.exists(path):
            return
        try:
            with np.load(path) as file:
                photos = require_fields(file["photos"], PHOTO)  # a field that it lacks is 0
                names, problems = (json.loads(file[key].tobytes()) for key in ("names", "problems"))
            if len(names) != len(photos):
                raise ValueError(f"{len(names)} names for {len(photos)} photos")
            self.problems = dict(problems)
        except Exception as error:  # what a damaged one raises depends on where it is damaged
            raise UserError(f"{path}: cannot be read ({error}); {ANEW}") from error
        for number in {*photos["array"].tolist()} - {0}:
            if os.path.exists(self._path(number)):
                self._map(number)
        there = np.isin(photos["array"], [0, *self.arrays])
        self.photos = {name: photo for name, photo, is_there in zip(names, photos, there) if is_there}

    def _path(self, number):
        return f"{self.stem}-{number:08x}.npy"

    def _map(self, number):
        """Map an array; its shared lock tells `update` of other programs to leave it."""
        path = self._path(number)
        try:
            with open(path, "rb") as file:
                with contextlib.suppress(OSError):  # of a file system without locks, where none is removed
                    fcntl.flock(file, fcntl.LOCK_SH)  # the map keeps it
                np.lib.format.read_magic(file)
                shape, _, dtype = np.lib.format.read_array_header_1_0(file)
                array = np.memmap(file, dtype, "r", file.tell(), shape)
            if dtype != np.uint8 or shape[1:] != SHAPE:
                raise ValueError(f"{dtype} {shape}")
            self.arrays[number] = array
        except (OSError, ValueError, EOFError) as error:
            raise UserError(f"{path}: cannot be read ({error}); {ANEW}") from error

    def update(self, stamps):
        """Have these photos, name -> stamp: those that are new or have changed are decoded. Arrays that none needs any more go."""
        changed = [name for name, now in stamps.items() if self._stamp(name) != now]
        with ThreadPoolExecutor() as pool:
            same = dict(zip(changed, pool.map(self._is_same, changed, map(stamps.get, changed))))
        absent = [name for name in changed if not same[name]]
        self.photos = {name: photo for name, photo in self.photos.items() if same.get(name, True)}
        for name in same.keys() - absent:
            self.photos[name]["stamp"] = stamps[name]
        check_room(self.cache_dir, len(absent) * PHOTO_BYTES)
        for start in range(0, len(absent), ROWS):
            self._decode({name: stamps[name] for name in absent[start : start + ROWS]})
            self._save(stamps)
        unsized = [
            name for name in stamps if self.photos[name]["array"] and not self.photos[name]["size"].any()
        ]
        for name in unsized:  # an earlier version wrote the index
            self.photos[name]["size"] = photo_size(self.folder + name, self.exif)
        if unsized or any(same.values()):
            self._save(stamps)
        needed = {int(photo["array"]) for photo in self.photos.values()} - {0}
        self.arrays = {number: self.arrays[number] for number in needed}
        for path in {*glob(f"{escape(self.stem)}-*.npy")} - {*map(self._path, needed)}:
            # The suppressed errors: a run has mapped it, another program removed it, or there are no locks.
            with contextlib.suppress(OSError), open(path, "rb") as file:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                os.remove(path)

    def _stamp(self, name):
        return tuple(self.photos[name]["stamp"].tolist()) if name in self.photos else None

    def _is_same(self, name, now):
        """Whether a photo with another inode is what it was: in size, time and content."""
        if name not in self.photos or self._stamp(name)[:2] != now[:2]:
            return False
        with contextlib.suppress(OSError):  # of one that cannot be read: it is told of when it is decoded
            return _hash_of_file(self.folder + name) == self.photos[name]["part"]

    def _decode(self, stamps):
        """Decode photos, name -> stamp, into a new array. It takes in the rows of smaller ones, so that these do not get many."""
        used = [[one for one in self.photos.values() if one["array"] == number] for number in self.arrays]
        taken, number = [], 1 + secrets.randbelow(2**32 - 1)
        for photos in sorted(used, key=len):
            if len(photos) <= min(len(taken) + len(stamps), ROWS // 2):
                taken += photos
        with atomic(self._path(number), binary=True) as file:
            write_header(file, np.uint8, (len(taken) + len(stamps), *SHAPE))
            for row, photo in enumerate(taken):
                file.write(self.arrays[int(photo["array"])][photo["row"]])
                photo["array"], photo["row"] = number, row
            photos = read_photos([self.folder + name for name in stamps], self.exif, _prepared, lasting=True)
            title = f"letterboxing {os.path.basename(self.folder[:-1])}"
            decoded = zip(stamps.items(), progress(photos, title, len(stamps), unit=" photos"))
            for row, ((name, now), (made, problem)) in enumerate(decoded, len(taken)):
                part, size, pixels = made or (0, (0, 0), np.zeros(SHAPE, np.uint8))
                file.write(pixels)
                about = (0, 0, 0, 0, size) if problem else (part, _hash(pixels), number, row, size)
                self.photos[name] = np.array([(now, *about)], PHOTO)[0]
                self.problems[name] = problem and problem[len(self.folder + name) + 2 :]
        self._map(number)

    def _save(self, stamps):
        """Write the index. Photos that are not asked for stay known while they are there."""
        kept = [name for name in self.photos if name in stamps or os.path.exists(self.folder + name)]
        self.photos = {name: self.photos[name] for name in kept}
        problems = [[name, self.problems[name]] for name in kept if self.problems.get(name)]
        # As bytes: numpy's texts have the width of the longest.
        texts = {"names": kept, "problems": problems}
        texts = {key: np.frombuffer(json.dumps(value).encode(), np.uint8) for key, value in texts.items()}
        with atomic(f"{self.stem}.npz", binary=True) as file:
            np.savez(file, photos=np.array(list(self.photos.values()), PHOTO), **texts)


def _prepared(image, path):
    return _hash_of_file(path), image.shape[:2], letterbox(image)


def _hash(content):
    return int.from_bytes(hashlib.blake2b(content, digest_size=8).digest(), "little")


def _hash_of_file(path):
    """Hash of a file, or of the beginning of a huge one. Raises: OSError."""
    with open(path, "rb") as file:
        return _hash(file.read(2**26))
