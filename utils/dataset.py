"""CSV and photos -> labels, and one array of letterboxed pixels that is made once and memory-mapped."""

import contextlib
import csv
import functools
import hashlib
import os
import shutil
import warnings
from concurrent.futures import ThreadPoolExecutor
from typing import Dict, List, NamedTuple, Tuple

import numpy as np
import scipy.sparse
from PIL import Image
from tqdm import tqdm

from utils.attributes import ATTRIBUTES
from utils.errors import DiskFull, UserError, shortened
from utils.files import atomic, remove_leftovers

SIZE = 224  # side of the letterboxed image, pixels
LETTERBOX_VERSION = 1  # part of the cache's key: raise it when the pixels change
SPLITS = ("train", "val")

# Beyond these a file is refused before it is decoded or kept: it would fill the memory.
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")  # Pillow knows some that start other programs
MAX_PIXELS = 40_000_000  # of a photo
MAX_SIDE = 16_384  # of a photo, pixels
MAX_LINE = 65_536  # of a CSV, characters
MAX_PROBLEMS = 1000  # of a CSV, until the rest is not looked at


class Table(NamedTuple):
    """One part of the data set, as its CSV has it."""

    names: List[str]  # image_name of each row
    labels: Dict[str, np.ndarray]  # attribute -> int64 (N,)
    folder: str  # of the photos
    stamps: List[Tuple[int, int]]  # of each photo, size in bytes and time of change in ns

    def paths(self):
        return [os.path.join(self.folder, name) for name in self.names]


class Split(NamedTuple):
    """One part of the data set, with its photos."""

    names: List[str]  # image_name of each row
    pixels: np.ndarray  # uint8 (N, 224, 224, 3), memory-mapped, read-only
    labels: Dict[str, np.ndarray]  # attribute -> int64 (N,)


# --- one photo ---------------------------------------------------------------------------------------


def letterbox(image):
    """Scale the longer side to 224, centre on black.

    The published resize is scikit-image's `resize(mode="constant", anti_aliasing=True)`. Being linear
    and separable, it is two sparse matrices here, equal to it to 1e-4 of a grey level before rounding.

    Args:
        image: RGB uint8 `(h, w, 3)`, or float32 of the same range where a photo has finer values.
    Returns: uint8 `(224, 224, 3)`.
    """
    height, width = image.shape[:2]
    longer = max(height, width)
    new_height, new_width = (max(1, SIZE * side // longer) for side in (height, width))
    rows = _resize_matrix(height, new_height) @ image.reshape(height, width * 3).astype(
        np.float32, copy=False
    )
    # Columns become rows, with the three channels of a column one below the other.
    resized = _resize_matrix(width, new_width, channels=3) @ np.ascontiguousarray(rows.T)
    # scikit-image clips to the photo's own range, which shows where the black beyond the border is mixed in.
    resized = np.rint(resized.clip(image.min(), image.max())).astype(np.uint8)
    top, left = SIZE // 2 - new_height // 2, SIZE // 2 - new_width // 2
    canvas = np.zeros((SIZE, SIZE, 3), np.uint8)
    canvas[top : top + new_height, left : left + new_width] = resized.T.reshape(new_height, new_width, 3)
    return canvas


@functools.lru_cache(maxsize=1024)
def _resize_matrix(length, size, channels=1):
    """One axis of the resize, sparse float32 `(size * channels, length * channels)`.

    Gaussian blur, then linear interpolation, for each of the interleaved channels.
    """
    factor = length / size
    sigma = max(0.0, (factor - 1) / 2)
    radius = int(4 * sigma + 0.5)
    kernel = np.exp(-0.5 * (np.arange(-radius, radius + 1) / sigma) ** 2) if radius else np.ones(1)
    kernel /= kernel.sum()
    position = (np.arange(size) + 0.5) * factor - 0.5
    left = np.floor(position).astype(int)
    # Two neighbours, weighted by their distance, each with the blur around it; beyond the border all is black.
    near = (left + 1 - position) * ((left >= 0) & (left < length))
    far = (position - left) * ((left >= -1) & (left < length - 1))
    weights = np.outer(near, np.append(kernel, 0)) + np.outer(far, np.append(0, kernel))
    columns = left[:, None] + np.arange(-radius, radius + 2)
    inside = (weights != 0) & (columns >= 0) & (columns < length)
    # A row for each channel, in the order that scipy's format asks for.
    columns = columns[:, None] * channels + np.arange(channels)[:, None]
    shape = columns.shape
    inside, weights = (
        np.broadcast_to(values[:, None], shape) for values in (inside, weights.astype(np.float32))
    )
    starts = np.append(0, inside.sum(axis=2).cumsum())
    return scipy.sparse.csr_matrix(
        (weights[inside], columns[inside], starts), shape=(size * channels, length * channels)
    )


def read_rgb(path):
    """A photo as RGB `(h, w, 3)`: uint8, or float32 in 0..255 where alpha or 16 bits make finer values.

    Alpha is composited over white, as published. EXIF rotation is not applied, as published.
    Raises: whatever Pillow does at a file that is no photo; ValueError for one that is too large, before decoding it.
    """
    if not os.path.isfile(path):  # a pipe would be waited for
        raise FileNotFoundError("no such file")
    with Image.open(path, formats=FORMATS) as photo:
        if photo.width * photo.height > MAX_PIXELS or max(photo.size) > MAX_SIDE:
            raise ValueError(
                f"{photo.width} x {photo.height}: more than {MAX_PIXELS // 10**6} million pixels, or {MAX_SIDE} on a side"
            )
        # A JPEG takes a bit at least for each 8 x 8; Pillow would fill up with grey what is not there.
        if photo.format in ("JPEG", "MPO") and photo.width * photo.height > 512 * os.path.getsize(path):
            raise ValueError(f"{photo.width} x {photo.height} in {os.path.getsize(path)} bytes")
        if photo.mode.startswith("I"):  # 16-bit grey
            grey = np.asarray(photo).astype(np.float32) / 257
            if grey.max() > 255:
                raise ValueError(f"image mode {photo.mode} with values above 65535")
            return np.repeat(grey[:, :, None], 3, axis=2)
        if photo.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in photo.info:
            rgba = np.asarray(photo.convert("RGBA"))
            rgb, alpha = rgba[:, :, :3].astype(np.float32), rgba[:, :, 3:] / np.float32(255)
            rgb *= alpha  # in place: a photo may be large
            rgb += 255 * (1 - alpha)
            return rgb
        if photo.mode == "F":
            raise ValueError("image of floating-point numbers")
        return np.asarray(photo if photo.mode == "RGB" else photo.convert("RGB"))


@contextlib.contextmanager
def quiet_pillow():
    """No warnings of Pillow's about sizes and metadata: a photo is read or reported. For all threads at once."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module=r"PIL\.")
        yield


# --- the CSV -----------------------------------------------------------------------------------------


def read_csv(path, folder):
    """Rows of a data set's CSV.

    Args: `folder` of the photos, which the names must not leave; whether they are there is not looked at.
    Returns: (list of image names, dict attribute -> int64 array `(N,)`).
    Raises: UserError for a file, column or cell that is missing, for labels out of range and names that lead out.
    """
    columns = ["image_name"] + [attribute.column for attribute in ATTRIBUTES.values()]
    names, labels, problems = [], {key: [] for key in ATTRIBUTES}, []
    border = Border(folder)
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(short_lines(file))
            absent = [column for column in columns if column not in (reader.fieldnames or [])]
            if absent:
                raise UserError(f"{path}: no column {', '.join(absent)}; it needs {', '.join(columns)}")
            for row in reader:
                try:
                    name, values = _parse_row(row, border)
                except ValueError as error:
                    problems.append(f"line {reader.line_num}: {error}")
                    if len(problems) == MAX_PROBLEMS:
                        break
                    continue
                names.append(name)
                for key, value in values.items():
                    labels[key].append(value)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{path}: not a readable CSV file ({error})") from error
    if problems:
        count = f"{len(problems)} bad rows" + (" or more" if len(problems) == MAX_PROBLEMS else "")
        raise UserError(f"{path}: {count}, to be mended or removed:\n{shortened(problems)}")
    if not names:
        raise UserError(f"{path}: no rows")
    return names, {key: np.array(values, dtype=np.int64) for key, values in labels.items()}


def short_lines(file):
    """Lines of a text file, none of them longer than a line can reasonably be."""
    for number, line in enumerate(iter(lambda: file.readline(MAX_LINE + 1), ""), 1):
        if len(line) > MAX_LINE:
            raise csv.Error(f"line {number} is longer than {MAX_LINE} characters")
        yield line


class Border:
    """Around a folder of photos, which may be a link itself: no name may lead out of where it really lies."""

    def __init__(self, folder):
        self.folder = folder
        self.inside = os.path.join(os.path.realpath(folder), "")
        self.real = functools.lru_cache(maxsize=None)(os.path.realpath)  # few folders, many photos

    def check(self, name):
        """ValueError for a name that leads out, or is none."""
        if not name:
            raise ValueError("image_name is empty")
        if not name.isprintable():
            raise ValueError(f"image_name {_excerpt(ascii(name))} has characters that cannot be printed")
        path = os.path.join(self.folder, name)  # `name`, if that is absolute
        parent, last = os.path.split(path)
        real = os.path.realpath(path) if os.path.islink(path) else os.path.join(self.real(parent), last)
        if os.path.isabs(name) or ".." in name.split("/") or not real.startswith(self.inside):
            raise ValueError(f"image_name {_excerpt(name)} leads out of {self.inside}")


def _parse_row(row, border):
    border.check(row["image_name"])
    values = {}
    for key, attribute in ATTRIBUTES.items():
        cell = (row[attribute.column] or "").strip()
        if not cell:
            raise ValueError(f"{attribute.column} is empty")
        if not (cell.isascii() and cell.isdigit() and len(cell) < 9 and int(cell) < len(attribute.classes)):
            raise ValueError(
                f"{attribute.column} is {_excerpt(cell)}, not a label from 0 to {len(attribute.classes) - 1}"
            )
        values[key] = int(cell)
    return row["image_name"], values


def _excerpt(text, most=80):
    return text if len(text) <= most else f"{text[:most]}..."


# --- the array ---------------------------------------------------------------------------------------


def load_data(data_dir, cache_dir, splits=SPLITS):
    """`read_tables`, then `load_pixels`: dict split -> Split."""
    return load_pixels(read_tables(data_dir, splits), cache_dir)


def read_tables(data_dir, splits=SPLITS):
    """Read the CSVs of a data set, and look whether the photos are there: what takes no time.

    Args: `data_dir` holds `Fashion-How24_sub1_{split}.csv` and a folder of photos for each split.
    Returns: dict split -> Table.
    Raises: UserError for what is wrong with a CSV, and one that lists all missing photos of all splits.
    """
    if not os.path.isdir(data_dir):
        raise UserError(
            f"no data set at {data_dir}: link it with `ln -s {{dataset path}} ./Dataset`, or name it with --data-dir"
        )
    tables, missing = {}, []
    for split in splits:
        folder = os.path.join(data_dir, split)
        names, labels = read_csv(os.path.join(data_dir, f"Fashion-How24_sub1_{split}.csv"), folder)
        tables[split] = Table(names, labels, folder, [])
        for path in tables[split].paths():
            try:
                stat = os.stat(path)
                tables[split].stamps.append((stat.st_size, stat.st_mtime_ns))
            except OSError as error:
                missing.append(f"{path}: {error.strerror}")
    if missing:
        raise UserError(f"{len(missing)} photos named in the CSV are missing:\n{shortened(missing)}")
    return tables


def load_pixels(tables, cache_dir):
    """Add the letterboxed photos to the tables, decoding what the cache does not hold yet.

    Args: `tables` of `read_tables`; `cache_dir`, where the arrays are kept.
    Returns: dict split -> Split.
    Raises: UserError that lists all photos, of all splits, that cannot be read, or if there is no room.
    """
    files = {split: os.path.join(cache_dir, _cache_name(split, table)) for split, table in tables.items()}
    absent = [split for split in tables if not os.path.exists(files[split])]
    _check_room(cache_dir, sum(len(tables[split].names) for split in absent) * SIZE * SIZE * 3)
    problems = [problem for split in absent for problem in _build(files[split], tables[split].paths(), split)]
    if problems:
        raise UserError(f"{len(problems)} photos cannot be read:\n{shortened(problems)}")
    return {s: Split(t.names, _map(files[s], len(t.names)), t.labels) for s, t in tables.items()}


def _map(path, count):
    """An array of the cache, memory-mapped."""
    try:
        array = np.load(path, mmap_mode="r")
    except (OSError, ValueError, EOFError) as error:
        raise UserError(f"{path}: cannot be read ({error}); remove it, to have it made anew") from error
    if array.shape != (count, SIZE, SIZE, 3) or array.dtype != np.uint8:
        raise UserError(f"{path}: not the pixels of {count} photos; remove it, to have them made anew")
    return array


def _cache_name(split, table):
    """Named by what the pixels depend on: which photos in which order, each one's size and time stamp."""
    place = hashlib.sha256(os.path.realpath(table.folder).encode()).hexdigest()[:12]
    content = hashlib.sha256(f"letterbox {LETTERBOX_VERSION}, {SIZE}\n".encode())
    content.update(repr(list(zip(table.names, table.stamps))).encode())
    return f"pixels-{place}-{split}-{content.hexdigest()[:20]}.npy"


def _check_room(cache_dir, needed):
    try:
        os.makedirs(cache_dir, exist_ok=True)
        remove_leftovers(cache_dir)
        free = shutil.disk_usage(cache_dir).free
    except OSError as error:
        raise UserError(
            f"cache {cache_dir}: {error.strerror}; name another folder with --cache-dir"
        ) from error
    if needed > free:
        raise DiskFull(
            f"cache {cache_dir}: {needed / 1e9:.2f} GB are needed and {free / 1e9:.2f} GB are free; "
            "make room, or name another folder with --cache-dir"
        )


def _build(path, photos, split):
    """Decode all photos into the array `path`; returns a list of those that cannot be read (then there is none)."""

    def decode(photo):
        try:
            return letterbox(read_rgb(photo))
        except Exception as error:  # whatever a decoder raises: the photo is at fault, and is reported
            problems.append(f"{photo}: {error}")

    problems, bar = [], tqdm(desc=f"letterboxing {split}", total=len(photos), disable=None)
    header = {"descr": "|u1", "fortran_order": False, "shape": (len(photos), SIZE, SIZE, 3)}
    try:
        # Threads do: decoding and the sparse products release the interpreter's lock.
        with atomic(path, binary=True) as file, ThreadPoolExecutor(
            _processors()
        ) as pool, bar, quiet_pillow():
            np.lib.format.write_array_header_1_0(file, header)
            for first in range(0, len(photos), 256):  # at a time: memory, should the disk be slower
                for pixels in pool.map(decode, photos[first : first + 256]):
                    bar.update()
                    if not problems:
                        file.write(pixels)
            if problems:
                raise _Unreadable
    except _Unreadable:
        return sorted(problems)
    _remove_superseded(path)
    return []


class _Unreadable(Exception):
    """Photos that cannot be read: their array is given up."""


def _processors():
    """Those this process may use, where the system tells."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()


def _remove_superseded(path):
    """Remove the arrays of an earlier state of the same photos; runs that have them mapped keep them."""
    folder, name = os.path.split(path)
    same = name.rsplit("-", 1)[0] + "-"
    for other in os.listdir(folder):
        if other.startswith(same) and other.endswith(".npy") and other != name:
            os.remove(os.path.join(folder, other))
