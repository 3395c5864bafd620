"""Which photos are classified: those that paths, folders and lists name. A list is read row by row: it may have a million."""

import hashlib
import itertools
import os
import shlex
from collections import defaultdict
from functools import partial

from utils.base.errors import UserError, excerpt, shortened
from utils.base.log import logger
from utils.data.attributes import plain_name
from utils.data.folders import PhotoFolder, find_photos
from utils.data.photo_cache import stamp
from utils.data.tables import read_rows, warn_renamed
from utils.evaluation.predictions import table_text

MOST = 20  # of near names that are told


def photos_of(path, images, attributes, follow_links=False, by=None):
    """A function that yields (name in the output, path of the file) of every photo that `path` stands for, each time anew, folders in
    order of names.

    Args: `images`, folder that a list's names start from; `by`, column of a list that is the name in the output, but where a
        cell says nothing.
    Raises: UserError for a path that does not exist, a folder without photos, a CSV without their column, or none of whose photos
        is there.
    """
    if not os.path.exists(path):
        raise UserError(f"{path}: no such file or folder")
    is_list = path.lower().endswith(".csv")
    if by and not is_list:
        raise UserError(f"--by group: {path} is no CSV file, in which column {by} tells the product")
    if os.path.isdir(path):
        names = find_photos(path, follow_links)
        return [(table_text(name), os.path.join(path, name)) for name in names].__iter__
    if not is_list:
        return [(table_text(os.path.basename(path)), path)].__iter__
    there = list_folder(path, images, follow_links)
    layout, written = attributes.layout, {}  # a product's cell as it was first written
    unknown = {"", *map(plain_name, layout.unknown)}

    def read(row):
        name, group = row[layout.image], plain_name(row.get(by, ""))
        file = there.prefix + there.find(name, layout.image)
        return name, file, name if group in unknown else written.setdefault(group, row[by])

    rows = partial(read_rows, path, [layout.image, *filter(None, [by])], layout.encoding, read)
    check_photos(path, there, rows())
    warn_renamed(path, there.found)
    return lambda: ((shown, file) for _, file, shown in rows())


def list_folder(path, images, follow_links=False):
    """The `PhotoFolder` of a list's names: `images`, or else the list's own. Raises: UserError if it is not there."""
    folder = os.path.dirname(path) if images is None else images
    if not os.path.isdir(folder or "."):
        raise UserError(f"--images {folder}: no such folder")
    return PhotoFolder(folder, follow_links)


def check_photos(path, there, rows):
    """UserError if none of a list's photos is there; a warning about those that have nearly its name. With a photo that is not there, the
    `PhotoFolder` holds the names of all that are. Args: `rows`, that begin with a photo's name and the path of its file."""
    first, is_any, near = None, False, []
    for name, file, *_ in rows:
        first, is_there = first or (name, file), os.path.exists(file)
        is_any = is_any or is_there
        if not is_there and len(near) < MOST and there.near(name):
            near.append(f"{file}{there.near(name)}")
    if not is_any:
        fits = fitting_folder(there.prefix, first[0])
        example = near[0] if near and not fits else first[1]
        way_out = f"--images {shlex.quote(fits)} has them" if fits else "--images names their folder"
        raise UserError(f"{path}: none of its photos is there, such as {excerpt(example, 300)}; {way_out}")
    if near:
        logger.warning(f"warning: {path}: photos that are not there, and what is:\n{shortened(near)}")


def fitting_folder(folder, name):
    """The folder that has a photo of a list: the working directory, or one below `folder`; None without."""
    below = (os.path.join(above, one) for above, folders, _ in os.walk(folder or ".") for one in folders)
    fits = (one for one in itertools.chain(["."], below) if os.path.isfile(os.path.join(one, name)))
    return next(map(os.path.normpath, fits), None)


def told_apart(sources, by=None):
    """The same as one function, where a name that different photos have is the path of each, unless it is a product's. Since names of
    several paths may be alike, these are held. Args: functions of `photos_of`; `by` likewise."""
    if len(sources) == 1:
        return sources[0]
    photos, paths = [photo for source in sources for photo in source()], defaultdict(set)
    for name, path in photos:
        paths[name].add(by if by and not f"/{path}".endswith(f"/{name}") else path)
    return [(name if len(paths[name]) == 1 else table_text(path), path) for name, path in photos].__iter__


def fingerprint(said, photos):
    """(Hash of plain values, and of photos with the stamps of their files, as text; how many photos they are)."""
    count, digest = 0, hashlib.blake2b(repr(said).encode(), digest_size=8)
    for name, path in photos:
        digest.update(repr((name, path, os.path.exists(path) and stamp(path))).encode())
        count += 1
    return digest.hexdigest(), count
