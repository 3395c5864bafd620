"""The photos of a data set in the cache: which are there already, and the others decoded.

A photo is found by what its file holds, wherever that lies. So one that was copied, moved or touched is not decoded again,
and one that comes twice is there once.
"""

import contextlib
import fcntl
import hashlib
import itertools
import json
import os
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from tqdm import tqdm

from utils.arrays import (
    ANEW,
    PHOTO_BYTES,
    ROWS,
    Arrays,
    Pixels,
    check_room,
    hash_of,
    remove_old,
    write_arrays,
)
from utils.errors import UserError
from utils.files import atomic, failure
from utils.log import logger
from utils.photos import LETTERBOX_VERSION, SIZE, letterbox, read_photos

# Of a photo's file when it was last looked at; without a content it is to be decoded.
FILE = np.dtype([("stamp", "i8", 4), ("part", "u8"), ("content", "u8")])
MISSING = (-1, -1, -1, -1)  # stamp of a photo that is not there


def stamp(path):
    """What shows that a file has changed: size in bytes, time of change in ns, inode, the inode's own time. Raises: OSError."""
    found = os.stat(path)
    return found.st_size, found.st_mtime_ns, found.st_ino % 2**63, found.st_ctime_ns


def map_photos(parts, cache_dir):
    """The letterboxed photos of a data set, those decoded that the cache does not hold yet.

    Args: `parts`, name -> `utils.dataset.Split`.
    Returns: name -> (Pixels of the rows that can be read, dict row -> what is wrong with a photo that cannot).
    Raises: DiskFull if there is no room; UserError for a cache that cannot be read or made.
    """
    check_room(cache_dir, 0)
    folders = {}  # (where it really is, exif) -> stamps by name, since parts may share a folder
    for split in parts.values():
        folders.setdefault(_key(split), {}).update(zip(split.files(), split.stamps))
    with contextlib.ExitStack() as alone:
        for round_ in itertools.count():
            arrays = Arrays(cache_dir)
            looked = {key: _Folder(cache_dir, *key, stamps, arrays) for key, stamps in folders.items()}
            absent = [folder for folder in looked.values() if folder.is_changed or len(folder.absent)]
            if not absent:
                return {name: _found(split, looked[_key(split)], arrays) for name, split in parts.items()}
            for folder in absent:
                folder.save()  # first: no other program shall take its rows for old ones
            if round_ == 0:
                # A program that was here before may be making them: look again, once it has ended.
                for folder in sorted(absent, key=lambda one: one.path):
                    alone.enter_context(_locked(folder))
                continue
            _make(cache_dir, arrays, absent)
            for folder in absent:
                folder.save()
            arrays = looked = absent = folder = None  # what is mapped cannot be removed
            remove_old(cache_dir)


def _key(split):
    return split.photos.inside, split.exif


def _make(cache_dir, arrays, folders):
    """Decode what is absent in folders into new arrays. These take in the rows of small arrays, and of those that are half
    old, which are then of no use."""
    count, taken = sum(len(folder.absent) for folder in folders), [np.zeros(0, int)]
    for rows, array in sorted(zip(arrays.live(cache_dir), arrays.arrays), key=lambda both: len(both[0])):
        if len(rows) <= max(min(count, ROWS // 2), len(array) // 2):
            taken.append(rows)
            count += len(rows)
    copied = Pixels(arrays.arrays, arrays.records, np.concatenate(taken))
    check_room(cache_dir, count * PHOTO_BYTES)
    rows = itertools.chain(zip(copied, copied.records), *(folder.decoded() for folder in folders))
    write_arrays(cache_dir, rows, count)


def _found(split, folder, arrays):
    """(Pixels of the rows of a part that can be read, dict row -> what is wrong with another)."""
    files, paths = split.files(), split.paths()
    rows = arrays.rows(folder.files["content"][[folder.row[file] for file in files]])
    problems = {
        row: f"{paths[row]}: {folder.problems[files[row]]}" for row in np.flatnonzero(rows < 0).tolist()
    }
    return Pixels(arrays.arrays, arrays.records, rows[rows >= 0]), problems


@contextlib.contextmanager
def _locked(folder):
    """Lets no other program decode a folder's photos meanwhile."""
    path = f"{folder.path}.lock"
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT, 0o666)
    except OSError as error:
        raise failure(path, error) from error
    try:
        with contextlib.suppress(OSError):  # a file system without locks: both decode them
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                logger.info(f"{folder.folder}: another program is letterboxing its photos: waiting for it")
                fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


# --- photos' files -----------------------------------------------------------------------------------


class _Folder:
    """The photos of a folder as they were when they were last looked at, brought up to date.

    Args: `stamps`, name -> stamp, of the photos that are wanted; `arrays`, `Arrays`.
    Attributes: `row`, name -> its row in `files`, FILE; `problems`, name -> what is wrong; `absent`, the rows that are to
        be decoded; `is_changed`, whether a stamp has.
    """

    def __init__(self, cache_dir, folder, exif, stamps, arrays):
        self.folder, self.exif, self.stamps = folder, exif, stamps
        self.salt = repr((LETTERBOX_VERSION, SIZE, exif)).encode()
        own = hashlib.sha256(repr((self.salt, folder)).encode()).hexdigest()[:20]
        self.path = os.path.join(cache_dir, f"photos-{own}.npz")
        self._read()
        fresh = [name for name in stamps if name not in self.row]
        self.row.update(zip(fresh, itertools.count(len(self.row))))
        self.files = np.concatenate([self.files, np.zeros(len(fresh), FILE)])
        names, wanted = list(stamps), np.array([self.row[name] for name in stamps])
        now = np.array(list(stamps.values()))
        changed = (self.files["stamp"][wanted] != now).any(axis=1)
        self.is_changed = bool(changed.any())
        unknown = np.flatnonzero(changed | self._lacks(names, arrays))
        self._look([names[i] for i in unknown], now[unknown], arrays)
        self.absent = wanted[self._lacks(names, arrays)]

    def _read(self):
        self.row, self.files, self.problems = {}, np.zeros(0, FILE), {}
        if not os.path.exists(self.path):
            return
        try:
            with np.load(self.path) as file:
                self.files = file["files"]
                self.problems = json.loads(file["problems"].tobytes().decode())
                names = file["names"].tobytes().decode().split("\n")
            self.row = {name: row for row, name in enumerate(names)}
            if len(self.row) != len(self.files) or self.files.dtype != FILE:
                raise ValueError(f"{len(names)} names for {len(self.files)} photos")
        except Exception as error:  # what a damaged one raises depends on where it is damaged
            raise UserError(f"{self.path}: cannot be read ({error}); {ANEW}") from error

    def _lacks(self, names, arrays):
        """Which of these photos, bool `(N,)`, have neither a row in arrays nor a problem."""
        good = np.array([name not in self.problems for name in names])
        return good & (arrays.rows(self.files["content"][[self.row[name] for name in names]]) < 0)

    def file(self, name):
        return os.path.join(self.folder, name)

    def _look(self, names, stamps, arrays):
        """Take the stamps of photos; the content stays where size, time and 4 KB do, or is looked for in the arrays."""
        parts = set(arrays.records["part"].tolist())

        def look(name, now):
            before = self.files[self.row[name]]
            if not (parts or before["part"]):  # nothing is known that it could be
                return 0, 0, False
            try:
                part = _hash_of_part(self.file(name))
                is_known = before["content"] or name in self.problems
                if is_known and part == before["part"] and (now[:2] == before["stamp"][:2]).all():
                    return part, before["content"], True
                return part, self._hash(self.file(name)) if part in parts else 0, False
            except OSError:  # it is told of, should it be so when it is decoded
                return 0, 0, False

        with ThreadPoolExecutor() as pool:
            for name, now, (part, content, is_same) in zip(names, stamps, pool.map(look, names, stamps)):
                self.files[self.row[name]] = now, part, content
                if not is_same:
                    self.problems.pop(name, None)

    def _hash(self, path):
        digest = hashlib.blake2b(self.salt, digest_size=8)
        with open(path, "rb") as file:
            for block in iter(lambda: file.read(2**20), b""):
                digest.update(block)
        return int.from_bytes(digest.digest(), "little")

    def decoded(self):
        """Decode the photos that are absent. Yields: (pixels, ROW), or None for one that cannot be read."""
        names = list(self.row)
        names = [names[row] for row in self.absent]
        stamps = {self.file(name): self.stamps[name] for name in names}

        def prepare(image, path):
            height, width = image.shape[:2]
            pixels = letterbox(image)
            hashes = self._hash(path), _hash_of_part(path), hash_of(pixels)
            if stamp(path) != stamps[path]:
                raise ValueError("it was changed while it was read")
            return pixels, (*hashes, width, height)

        photos = read_photos(list(stamps), self.exif, prepare, lasting=True)
        progress = tqdm(photos, f"letterboxing {os.path.basename(self.folder)}", len(names), disable=None)
        for name, (made, problem) in zip(names, progress):
            if problem:
                self.problems[name] = problem[len(self.file(name)) + 2 :]
            else:
                self.files[self.row[name]] = stamps[self.file(name)], made[1][1], made[1][0]
            yield made

    def save(self):
        """Photos that are not asked for stay known while they are there."""
        kept = [name for name in self.row if name in self.stamps or os.path.exists(self.file(name))]
        problems = json.dumps({name: self.problems[name] for name in kept if name in self.problems})
        # As bytes: numpy's texts have the width of the longest.
        texts = {"names": "\n".join(kept), "problems": problems}
        texts = {key: np.frombuffer(text.encode(), np.uint8) for key, text in texts.items()}
        with atomic(self.path, binary=True) as file:
            np.savez(file, files=self.files[[self.row[name] for name in kept]], **texts)


def _hash_of_part(path):
    """Hash of a file's size and of 4 KB of it, from four places. Raises: OSError."""
    if not os.path.isfile(path):  # a pipe would be waited for
        raise FileNotFoundError(path)
    with open(path, "rb") as file:
        size = os.fstat(file.fileno()).st_size
        parts = [b"%d" % size]
        for quarter in range(4):
            file.seek(max(0, size - 1024) * quarter // 3)
            parts.append(file.read(1024))
    return hash_of(b"".join(parts))
