"""Photos: one read and letterboxed; many, with those that cannot be read."""

import contextlib
import errno
import functools
import itertools
import os
import warnings
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import scipy.sparse
from PIL import Image, PngImagePlugin, features

from utils.base.errors import UserError, first_line

SIZE = 224  # side of the letterboxed image, pixels
LETTERBOX_VERSION = 3  # part of the cache's key: raise it when the pixels change, or which photos can be read
AVIF = "avif" in features.modules and features.check("avif")  # a Pillow of Python 3.8 has none
SUFFIXES = (".jpg .jpeg .jpe .jfif .png .webp .bmp .tif .tiff .gif" + " .avif" * AVIF).split()
# Pillow knows some that start other programs.
FORMATS = ("JPEG PNG WEBP GIF BMP TIFF" + " AVIF" * AVIF).split()

PATH = (str, os.PathLike)  # of a photo; else it is an image of Pillow, or an array

# Beyond these a photo is refused before it is decoded: it would fill the memory.
MAX_PIXELS = 64_000_000
MAX_SIDE = 16_384
PART = 2**22  # values of a photo that are resized at a time
# EXIF's tag of how a photo is turned, its values for a quarter or three, and what undoes each, of Image.Transpose.
ORIENTATION, SIDEWAYS = 0x0112, (5, 6, 7, 8)
TURNS = {2: 0, 3: 3, 4: 1, 5: 5, 6: 4, 7: 6, 8: 2}
# Of an OSError that tells of the photo: Pillow's own have none, and EINVAL is that of a place that its header makes up.
PHOTOS_FAULT = (None, errno.ENOENT, errno.EACCES, errno.EPERM, errno.EINVAL)


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
    new_height, new_width, top, left = fit(height, width)
    flat = image.reshape(height, width * 3)
    # In parts, since in float32 the whole would be four times as large.
    parts = np.array_split(flat, -(-flat.size // PART), axis=1)
    shrink = _resize_matrix(height, new_height)
    rows = np.hstack([shrink @ part.astype(np.float32, copy=False) for part in parts])
    # Columns become rows, with the three channels of a column one below the other.
    resized = _resize_matrix(width, new_width, channels=3) @ np.ascontiguousarray(rows.T)
    # scikit-image clips to the photo's own range, which shows where the black beyond the border is mixed in.
    resized = np.rint(resized.clip(image.min(), image.max())).astype(np.uint8)
    canvas = np.zeros((SIZE, SIZE, 3), np.uint8)
    canvas[top : top + new_height, left : left + new_width] = resized.T.reshape(new_height, new_width, 3)
    return canvas


def fit(height, width):
    """Height, width, top and left of a photo in its letterbox, pixels."""
    longer = max(height, width)
    new_height, new_width = (max(1, SIZE * side // longer) for side in (height, width))
    return new_height, new_width, SIZE // 2 - new_height // 2, SIZE // 2 - new_width // 2


def letterboxed_box(box, height, width):
    """A box of a photo of this size in its letterbox. Args: [xmin, ymin, xmax, ymax] in pixels, as is what is returned.

    Raises: ValueError if it is empty, or leads out of the photo.
    """
    xmin, ymin, xmax, ymax = box
    if not (0 <= xmin < xmax <= width and 0 <= ymin < ymax <= height):
        said = ", ".join(f"{edge:g}" for edge in box)
        raise ValueError(f"box {said}: empty, or outside of the photo, {width} x {height}")
    new_height, new_width, top, left = fit(height, width)
    x, y = new_width / width, new_height / height
    return [left + x * xmin, top + y * ymin, left + x * xmax, top + y * ymax]


def photo_size(path, exif=False):
    """Height and width of a photo as `read_rgb` gives it, without its pixels. Raises: as that."""
    with _opened(path) as photo:
        return photo.size if exif and _orientation(photo) in SIDEWAYS else photo.size[::-1]


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
    parts = weights[inside].astype(np.float32), columns[inside], np.append(0, inside.sum(axis=1).cumsum())
    matrix = scipy.sparse.csr_matrix(parts, shape=(size, length))
    return matrix if channels == 1 else scipy.sparse.kron(matrix, np.eye(channels, dtype=np.float32), "csr")


def read_rgb(path, exif=False):
    """A photo as RGB `(h, w, 3)`: uint8, or float32 in 0..255 where alpha or 16 bits make finer values.

    Alpha is composited over white, as published.

    Args: `path`, also an image of Pillow, or an array, uint8 `(h, w, 3)`; `exif`, whether it is turned as its EXIF says (as
        published, it is not).
    Raises: whatever Pillow does at what is no photo; ValueError for a file that is too large, before decoding it, or another array.
    """
    if isinstance(path, PATH) and not os.path.isfile(path):  # a pipe would be waited for
        raise FileNotFoundError("no such file")
    with _opened(path) as photo:
        photo.load()  # first: a PNG's EXIF comes after its pixels, whose damage `_orientation` would pass over
        turn = TURNS.get(_orientation(photo)) if exif else None
        if turn is not None:  # not by ImageOps.exif_transpose, which fails if another tag has an odd value
            photo = photo.transpose(turn)
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
def _opened(path):
    """A photo of a permitted size. A TIFF is decoded: Pillow then turns it by its EXIF, whoever asks, and only then is its
    size that of all versions."""
    if not isinstance(path, PATH):
        yield path if isinstance(path, Image.Image) else _from_array(path)
        return
    # For the whole process: one text or colour profile of a PNG may unfold to what all of a photo's may, 64 MB.
    PngImagePlugin.MAX_TEXT_CHUNK = PngImagePlugin.MAX_TEXT_MEMORY
    with Image.open(path, formats=FORMATS) as photo:
        width, height = photo.size
        if width * height > MAX_PIXELS or max(width, height) > MAX_SIDE:
            most = f"{MAX_PIXELS // 10**6} million pixels, or {MAX_SIDE} on a side"
            raise ValueError(f"{width} x {height}: more than {most}; scale it down")
        # A JPEG takes a bit at least for each 8 x 8; Pillow would fill up with grey what is not there.
        size = os.path.getsize(path)
        if photo.format in ("JPEG", "MPO") and width * height > 512 * size:
            raise ValueError(f"{width} x {height} in {size} bytes")
        if photo.format == "TIFF":
            photo.load()
        yield photo


def _from_array(array):
    """Raises: ValueError for what is no uint8 `(h, w, 3)`, of which Pillow would make something: of floats black, of two channels grey."""
    is_array = isinstance(array, np.ndarray)
    if not (is_array and array.dtype == np.uint8 and array.shape[2:] == (3,) and array.size):
        found = f"{array.dtype} {array.shape}" if is_array else "no photo"
        raise ValueError(f"{found}; a path, an image of Pillow, or an RGB array, uint8 (H, W, 3), is needed")
    return Image.fromarray(array)


def _orientation(photo):
    """How a photo is turned, by its EXIF; None without."""
    try:
        return photo.getexif().get(ORIENTATION)
    except Exception:  # whatever Pillow raises at tags that are none: browsers show such a photo, too
        return None


# --- many photos -------------------------------------------------------------------------------------


def read_photos(paths, exif=False, prepare=lambda image, path: letterbox(image), lasting=False):
    """Read photos in order, with some threads that work ahead: decoding and the resize release the interpreter's lock.

    Args: `paths`, any number of them, and `exif` as of `read_rgb`; `prepare`, what is made of each RGB array and its path; `lasting`, whether only problems are
        wanted that the photo will have next time, too.
    Yields: for each path (what `prepare` returned, None), or (None, a line that names the photo and what is wrong).
    Raises: with `lasting`, UserError for another problem: no memory, or a disk or network that fails.
    """

    def read(path):
        try:
            return prepare(read_rgb(path, exif), path), None
        except Exception as error:  # whatever a decoder raises: the photo is at fault, and is reported
            named = path if isinstance(path, PATH) else type(path).__name__
            problem = f"{named}: {first_line(error)}"
            failed = isinstance(error, OSError) and error.errno not in PHOTOS_FAULT
            if lasting and (failed or isinstance(error, MemoryError)):
                raise UserError(f"photo {problem}; run it again, or take its row out of the table") from error
            return None, problem

    # Those this process may use, where the system tells.
    workers = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    ahead = 32 * workers  # as much memory as that, should the reader be slower
    with ThreadPoolExecutor(workers) as pool, warnings.catch_warnings():
        # Pillow's, about sizes and metadata: a photo is read or reported. For all threads at once.
        warnings.filterwarnings("ignore", module=r"PIL\.")
        for some in batches(paths, ahead):
            yield from pool.map(read, some)


def batches(items, size):
    """An iterator of lists of the next `size` items, the last one of what is left."""
    items = iter(items)
    return iter(lambda: list(itertools.islice(items, size)), [])
