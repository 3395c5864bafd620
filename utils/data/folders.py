"""Folders of photos: what is in them, and which photo a table's name means."""

import collections
import functools
import os
import re

from utils.base.errors import UserError, excerpt, is_utf8
from utils.base.log import logger
from utils.data.attributes import plain_name
from utils.data.photos import SUFFIXES

HIDDEN = re.compile(r"(^|/)(\.|__MACOSX/)")  # of a name: what programs leave beside photos


def find_photos(folder, follow_links=False):
    """Names of the photos in a folder and its sub-folders, relative to it, in order. What is not read is told.

    Args: `follow_links`, whether sub-folders that are links are read, too.
    Raises: UserError if there is none.
    """
    names, others = [], collections.Counter()
    for name in _files(folder, follow_links, _refuse_folder):
        kind = "linked folders (--follow-links)" if name.endswith("/") else os.path.splitext(name)[1].lower()
        kind = "hidden" if HIDDEN.search(name) else kind
        if kind not in SUFFIXES:
            others[ascii(kind)[1:-1] or "without an ending"] += 1
        elif is_utf8(name):
            names.append(name)
        else:
            raise UserError(f"{folder}: photo {excerpt(ascii(name))} is not in UTF-8; rename it")
    others = ", ".join(f"{count} {kind}" for kind, count in others.most_common())
    others = f"; not read: {excerpt(others, 200)}" if others else ""
    if not names:
        raise UserError(f"{folder}: a folder without photos ({' '.join(SUFFIXES)}){others}")
    if others:
        logger.warning(f"warning: {folder}: {len(names)} photos{others}")
    return names


def _files(folder, follow_links, onerror=None):
    """Names of all files in a folder and its sub-folders, relative to it, in order.

    Linked sub-folders are gone into with `follow_links`, each once. Otherwise their names are among the files', with a / at the end.
    """
    prefix, seen = os.path.join(folder or ".", ""), set()
    for above, folders, files in os.walk(prefix, onerror=onerror, followlinks=follow_links):
        real = os.path.realpath(above)
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        folders.sort()
        links = [name for name in folders if not follow_links and os.path.islink(os.path.join(above, name))]
        for name in [*sorted(files), *(os.path.join(link, "") for link in links)]:
            yield os.path.join(above, name)[len(prefix) :]


def _refuse_folder(error):
    raise UserError(f"{error.filename}: cannot be read ({error.strerror})") from error


class PhotoFolder:
    """A folder of photos, which may be a link itself: no name may lead out of where it really lies.

    Args: `follow_links`, whether links in it may.
    Attributes: `prefix` of the names; `found`, by `find`: name in a table -> name on the disk, where the two differ.
    """

    def __init__(self, folder, follow_links=False):
        self.prefix = os.path.join(folder, "")  # empty for the working directory's own name, ""
        self.inside = os.path.join(os.path.realpath(folder), "")
        self._real = {}  # of few folders, for many photos; a function's cache could not go to another process
        self.follow_links, self.found = follow_links, {}

    def path(self, name):
        """Where the photo is that a table's name means."""
        return self.prefix + self.found.get(name, name)

    def find(self, name, column="image_name"):
        """Name on the disk of the photo that a table's name means; the same if there is none, or if it could be several.

        Args: `column`, where the name stands.
        Raises: ValueError for a name that leads out, or is none.
        """
        if not name.strip():
            raise ValueError(f"{column} is empty")
        file = os.path.relpath(self._real_path(name), self.inside) if name.startswith("/") else name
        if not os.path.lexists(self.prefix + file):
            same = [one for one in self._by_trunk[_trunk(file)] if _plain_path(one) == _plain_path(file)]
            file = same[0] if len(same) == 1 else file
        if not file.isprintable():
            raise ValueError(f"{column} {excerpt(ascii(name))} has characters that cannot be printed")
        path = self.prefix + file
        real = os.path.realpath(path) if os.path.islink(path) else self._real_path(path)
        if ".." in file.split("/"):
            raise ValueError(f"{column} {excerpt(name)} leads out of {self.inside}{self.near(name)}")
        if not (self.follow_links or real.startswith(self.inside)):
            way_out = f"{self.inside} by a link; --follow-links allows it"
            raise ValueError(f"{column} {excerpt(name)} leads out of {way_out}")
        if file != name:
            self.found[name] = file
        return file

    def _real_path(self, path):
        folder, last = os.path.split(path)
        if folder not in self._real:
            self._real[folder] = os.path.realpath(folder)
        return os.path.join(self._real[folder], last)

    def near(self, name):
        """For a message about a photo that is not there: those with nearly its name, or with an ending that this lacks."""
        trunks = {_trunk(name), _trunk(f"{name}.jpg")}  # what stands behind a dot may be no ending
        near = [one for trunk in trunks for one in self._by_trunk[trunk] if one.isprintable()]
        whole = [one for one in near if os.path.splitext(_plain_path(one))[0] == _plain_path(name)]
        if len(whole) == 1:
            return f"; write {excerpt(whole[0], 150)}, with its ending"
        return f"; there is {excerpt(', '.join(near[:3]))}" if near else ""

    @functools.cached_property
    def _by_trunk(self):
        """Trunk -> names of all that is in the folder. It is looked at once a photo is not there."""
        names = collections.defaultdict(list)
        for name in _files(self.prefix, self.follow_links):
            names[_trunk(name)].append(name)
        return names


def _plain_path(name):
    """A path without what does not tell it from others, see `plain_name`."""
    return os.path.normpath("/".join(map(plain_name, name.replace("\\", "/").split("/"))))


def _trunk(name):
    """What is left of a path without folders, ending, signs and leading zeros."""
    trunk = os.path.splitext(os.path.basename(_plain_path(name)))[0]
    return re.sub(r"[\W_]+|(?<!\d)0+(?=\d)", "", trunk)
