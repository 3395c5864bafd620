"""Folders of photos: what is in them, and which photo a table's name means."""

import collections
import functools
import os
import re

from utils.attributes import plain_name
from utils.errors import UserError, excerpt, is_utf8
from utils.log import logger
from utils.photos import SUFFIXES


def find_photos(folder, follow_links=False):
    """Names of the photos in a folder and its sub-folders, relative to it, in order. What is not read is told.

    Args: `follow_links`, whether sub-folders that are links are read, too.
    Raises: UserError if there is none.
    """
    names, others = [], collections.Counter()
    for place, folders, files in _walk(folder, follow_links, _refuse_folder):
        links = [] if follow_links else [one for one in folders if os.path.islink(os.path.join(place, one))]
        hidden = [one for one in folders if one.startswith((".", "__MACOSX"))]
        folders[:] = [one for one in folders if one not in hidden]
        others.update({"hidden folders": len(hidden), "linked folders (--follow-links)": len(links)})
        for name in files:
            path = os.path.join(place, name)
            ending = os.path.splitext(name)[1].lower()
            if name.startswith("."):
                others["hidden files"] += 1
            elif ending in SUFFIXES:
                names.append(os.path.relpath(path, folder or ".").replace(os.sep, "/"))
            else:
                others[ascii(ending)[1:-1] or "without an ending"] += 1
    left_out = ", ".join(f"{count} {kind}" for kind, count in others.most_common() if count)
    left_out = f"; not read: {excerpt(left_out, 200)}" if left_out else ""
    if not names:
        raise UserError(f"{folder}: a folder without photos ({' '.join(SUFFIXES)}){left_out}")
    for name in names:
        if not is_utf8(name):
            raise UserError(f"{folder}: photo {excerpt(ascii(name))} is not in UTF-8; rename it")
    if left_out:
        logger.warning(f"warning: {folder}: {len(names)} photos{left_out}")
    return names


def _walk(folder, follow_links, onerror=None):
    """As os.walk, in order of names; with `follow_links` into linked folders, too, into each once."""
    seen = set()
    for place, folders, files in os.walk(folder or ".", onerror=onerror, followlinks=follow_links):
        real = os.path.realpath(place)
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        folders.sort()
        yield place, folders, sorted(files)


def _refuse_folder(error):
    raise UserError(f"{error.filename}: cannot be read ({error.strerror})") from error


class PhotoFolder:
    """A folder of photos, which may be a link itself: no name may lead out of where it really lies.

    Args: `follow_links`, whether links in it may.
    Attributes: `prefix` of the names; `found`, name in a table -> name on the disk, where the two differ.
    """

    def __init__(self, folder, follow_links=False):
        self.prefix = os.path.join(folder, "")  # empty for the working directory's own name, ""
        self.inside = os.path.join(os.path.realpath(folder), "")
        self.real = functools.lru_cache(maxsize=None)(os.path.realpath)  # few folders, many photos
        self.follow_links, self.found = follow_links, {}

    def path(self, name):
        """Where the photo is that a table's name means."""
        return self.prefix + self.found.get(name, name)

    def find(self, name, column="image_name"):
        """Name on the disk of the photo that a table's name means, the same if there is none.

        Args: `column`, where the name stands.
        Raises: ValueError for a name that leads out, or is none.
        """
        if not name.strip():
            raise ValueError(f"{column} is empty")
        file = self.same(name)
        if not file.isprintable():
            raise ValueError(f"{column} {excerpt(ascii(name))} has characters that cannot be printed")
        path = self.prefix + file
        folder, last = os.path.split(path)
        real = os.path.realpath(path) if os.path.islink(path) else os.path.join(self.real(folder), last)
        if file.startswith("/") or ".." in file.split("/"):
            hint = f"; names are relative to it{self.near(name)}"
            raise ValueError(f"{column} {excerpt(name)} leads out of {self.inside}{hint}")
        if not (self.follow_links or real.startswith(self.inside)):
            raise ValueError(
                f"{column} {excerpt(name)} leads out of {self.inside} by a link; --follow-links allows it"
            )
        if file != name:
            self.found[name] = file
        return file

    def same(self, name):
        """The name as the disk has it; the given one if there is no such photo, or if it could be several."""
        for start in (
            (os.path.join(os.path.abspath(self.prefix), ""), self.inside) if name.startswith("/") else ()
        ):
            name = name[len(start) :] if name.startswith(start) else name
        if os.path.lexists(self.prefix + name):
            return name
        same = self._names[0].get(_plain_path(name), ())
        return same[0] if len(same) == 1 else name

    def near(self, name):
        """For a message about a photo that is not there: those with nearly its name."""
        near = self._names[1].get(_trunk(name), ())
        return f"; there is {excerpt(', '.join(near[:3]))}" if near else ""

    @functools.cached_property
    def _names(self):
        """Names of all that is in the folder: (by plain path, by trunk). It is looked at once a photo is not there."""
        same, near = collections.defaultdict(list), collections.defaultdict(list)
        for place, _, files in _walk(self.prefix, self.follow_links):
            for file in files:
                name = os.path.relpath(os.path.join(place, file), self.prefix or ".").replace(os.sep, "/")
                same[_plain_path(name)].append(name)
                if name.isprintable():
                    near[_trunk(name)].append(name)
        return same, near


def _plain_path(name):
    """A path without what does not tell it from others, see `plain_name`."""
    return os.path.normpath("/".join(map(plain_name, name.replace("\\", "/").split("/"))))


def _trunk(name):
    """What is left of a path without folders, ending, signs and leading zeros."""
    trunk = os.path.splitext(_plain_path(name).rsplit("/", 1)[-1])[0]
    return re.sub(r"[\W_]+|(?<!\d)0+(?=\d)", "", trunk) or trunk
