"""A data set: its parts, which rows they have, and the photos' pixels."""

import functools
import hashlib
import os
from typing import Dict, List, NamedTuple, Optional, Sequence, Tuple

import numpy as np

from utils.base.errors import UserError, counted, reason_of, shortened
from utils.base.files import atomic
from utils.base.log import logger
from utils.data.attributes import PARTS, UNKNOWN
from utils.data.folders import PhotoFolder, find_photos
from utils.data.photo_cache import MISSING, joined, map_photos, stamp
from utils.data.photos import letterboxed_box
from utils.data.tables import count_classes, read_table
from utils.data.twins import without_twins

SPLITS = ("train", "val")
FEW = 5  # photos of a class, of which some shall be held out
LEAVE_OUT = "with --skip-unreadable such are left out"
LISTS = ("names", "stamps", "groups")  # of a table, by row


class Table(NamedTuple):
    """The rows of one part of a data set; their pixels are `utils.data.photo_cache.Pixels`."""

    names: List[str]  # of the photos, one for each row
    labels: Dict[str, np.ndarray]  # attribute -> int64 (N,), -1 where it is not known
    photos: PhotoFolder  # in which the photos are
    stamps: List[Tuple[int, int, int, int]]  # of the photos' files, see `utils.data.photo_cache.stamp`
    exif: bool  # whether photos are turned as their EXIF says
    groups: Sequence[str]  # of each row, plain: those of one belong together; without a column its photo
    boxes: Optional[np.ndarray] = None  # (N, 4): the table's; once loaded float32, letterboxed, NaN for none
    unreadable: Sequence[str] = ()  # a line for each photo that was left out

    def paths(self):
        return list(map(self.photos.path, self.names))

    def rows(self, chosen):
        """The same with these rows only, indices."""
        lists = {key: [getattr(self, key)[i] for i in chosen] for key in LISTS}
        labels = {name: values[chosen] for name, values in self.labels.items()}
        return self._replace(labels=labels, boxes=None if self.boxes is None else self.boxes[chosen], **lists)


# --- tables ------------------------------------------------------------------------------------------


def read_tables(data_dir, attributes, splits=SPLITS, skip_unreadable=False, boxes=False, follow_links=False):
    """Read the tables of a data set, and look whether the photos are there: what takes no time.

    Args: `attributes` with the layout of `data_dir`; with `skip_unreadable`, photos may be missing; with
        `boxes`, those of the table are read, too; with `follow_links`, links may lead out of the photos' folder.
    Returns: dict part -> Table.
    Raises: UserError for what is wrong with a table, and one that lists all missing photos of all splits.
    """
    layout = attributes.layout
    if boxes and not layout.box:
        raise UserError('--crop-to-box: the attributes have no "box": [xmin, ymin, xmax, ymax], columns')

    @functools.lru_cache(maxsize=1)  # once for both parts, if one is held out of the other
    def read(part):
        path = os.path.join(data_dir, part.table)
        if not os.path.exists(path):
            raise UserError(f"{path}: no such table; name its folder with --data-dir, or it in --attributes")
        photos = PhotoFolder(os.path.join(data_dir, part.photos), follow_links)
        names, labels, groups, its_boxes = read_table(path, photos, attributes, boxes=boxes)
        return Table(names, labels, photos, [MISSING] * len(names), layout.exif, groups, its_boxes)

    tables, missing = {}, []
    for name in splits:
        table = read(layout.part(name))
        if name in layout.shares or (name == "train" and layout.shares):
            chosen = parts_of_rows(table.groups, table.labels.values(), layout.shares, layout.fold) == name
            if not chosen.any():
                raise UserError(f"{layout.part(name).table}: too few rows: the shares leave none for {name}")
            table = table.rows(np.flatnonzero(chosen))
        missing += _stamp(table)
        tables[name] = table
    if missing and not skip_unreadable:
        said = counted(len(missing), "photo of the table is missing", "photos of the table are missing")
        raise UserError(f"{said}; {LEAVE_OUT}:\n{shortened(missing)}")
    return tables


def _stamp(table):
    """Fill in the photos' stamps. Returns: a line for each photo that is not there."""
    missing = []
    for row, path in enumerate(table.paths()):
        try:
            table.stamps[row] = stamp(path)
        except OSError as error:
            missing.append(f"{path}: {reason_of(error)}{table.photos.near(table.names[row])}")
    return missing


def read_all_tables(args, attributes):
    """The tables of --data-dir and the folders of --unlabelled, as `read_tables` and `read_unlabelled` return them."""
    follow = args.follow_links
    # The third part is read, too: its photos could be among those of training.
    splits = PARTS if "test" in attributes.content else SPLITS
    tables = read_tables(args.data_dir, attributes, splits, args.skip_unreadable, args.crop_to_box, follow)
    return {**tables, **read_unlabelled(args.unlabelled or [], tables, follow)}


def read_unlabelled(folders, tables, follow_links=False):
    """The photos of some folders, without labels, but for those that are in the tables.

    Args: `folders`, paths; `tables` of `read_tables`; `follow_links` as of `find_photos`.
    Returns: dict "unlabelled FOLDER" -> Table; its names begin with the folder's own.
    Raises: UserError for a folder that has no photos for itself, or that is called like another.
    """
    train, found, real = tables["train"], {}, os.path.realpath
    seen = {real(path) for table in tables.values() for path in table.paths()}
    taken = set(train.names)
    for folder in folders:
        files = find_photos(folder, follow_links)
        above, own = os.path.split(real(folder))
        paths = {f"{own}/{file}": real(os.path.join(above, own, file)) for file in files}
        names = [name for name, path in paths.items() if not (path in seen or seen.add(path))]
        if not names:
            raise UserError(f"--unlabelled {folder}: all its photos are in the tables or other folders")
        twice = taken.intersection(names)
        if twice:
            raise UserError(f"--unlabelled {folder}: another photo is {min(twice)}, too; rename the folder")
        taken.update(names)
        others = len(files) - len(names)
        logger.info(f"{folder}: {len(names)} photos without labels; {others} in the tables are left out")
        labels = {key: np.full(len(names), UNKNOWN) for key in train.labels}
        table = Table(names, labels, PhotoFolder(above), [MISSING] * len(names), train.exif, names)
        _stamp(table)
        found[f"unlabelled {folder}"] = table
    return found


def fold_of(groups, count):
    """Which of `count` folds holds each row out, int `(N,)` from 1: by its group's hash alone. Args: `groups` as in `Table`."""
    return (_hashes(groups) // (1 / count)).astype(int) + 1


def _hashes(groups):
    """Of each group's name a number from 0 to below 1, float64 `(N,)`."""
    return np.array([int(hashlib.sha256(group.encode()).hexdigest()[:12], 16) / 16**12 for group in groups])


def parts_of_rows(groups, labels, shares, fold=None):
    """The part of a data set that each row of its training table belongs to, array `(N,)` of names.

    A hash of the row's group decides, so that a row stays where it is when others come. A class of 5 photos or more that
    would have none in a part gives it the group of the lowest hash, if others are left. With a `fold` the hash alone decides.

    Args: `groups` as in `Table`; `labels`, an int64 array `(N,)` for each attribute; `shares`, part -> its share; `fold`, which of the
        shares of val's size is val.
    """
    hashes = _hashes(groups)
    if fold is not None:  # as `fold_of` has it
        return np.where(hashes // shares["val"] + 1 == fold, "val", "train")
    parts, start = np.full(len(groups), "train", dtype="U5"), 0.0
    for name, share in shares.items():
        # From the part's own start on: a further share takes rows of the training part only.
        distance = np.where(parts == "train", (hashes - start) % 1, np.inf)
        chosen = distance < share
        for values in labels:
            for one in np.unique(values[values != UNKNOWN]):
                its = distance[values == one]
                left = np.unique(its[its < np.inf])
                if len(its) >= FEW and len(left) > 1:
                    chosen |= distance == left[0]
        parts[chosen] = name
        start += share
    return parts


def class_counts(tables, sizes):
    """Part -> attribute -> list of ints: how many of its known labels are of each class."""
    return {
        name: {key: count_classes(table.labels[key], size).tolist() for key, size in sizes.items()}
        for name, table in tables.items()
    }


# --- pixels ------------------------------------------------------------------------------------------


def load_pixels(tables, cache_dir, skip_unreadable=False):
    """The letterboxed photos of the tables, those decoded that the cache does not hold yet.

    Args: `tables` of `read_tables`; `cache_dir`, where the arrays are kept; with `skip_unreadable`, rows whose photo
        cannot be read are left out.
    Returns: (dict part -> Table, of the rows whose photo can be read; dict part -> Pixels of these).
    Raises: UserError that lists all photos, of all parts, that cannot be read, or for a part that is left without
        any label; DiskFull if there is no room.
    """
    tables, pixels = dict(tables), {}
    for name, table in tables.items():
        pixels[name], problems = map_photos(table, cache_dir)
        if problems:
            table = table.rows([row for row in range(len(table.names)) if row not in problems])
        tables[name] = table._replace(unreadable=tuple(problems.values()))
    problems = [line for table in tables.values() for line in table.unreadable]
    if problems and not skip_unreadable:
        said = counted(len(problems), "photo cannot be read", "photos cannot be read")
        raise UserError(f"{said}; {LEAVE_OUT}:\n{shortened(problems)}")
    for name, table in tables.items():
        if not table.names:
            raise UserError(f"none of the photos of {name} can be read:\n{shortened(table.unreadable)}")
        # A teacher can tell all of training's, if it tells those of folders.
        needed = name in ("val", "test") or set(tables) <= set(PARTS)
        if needed and all((labels == UNKNOWN).all() for labels in table.labels.values()):
            raise UserError(f"{table.photos.prefix}: none of the photos of {name} has a label that is known")
        if table.boxes is not None:
            tables[name] = table._replace(boxes=_letterboxed(table, pixels[name].photos["size"].tolist()))
    return tables, pixels


def _letterboxed(table, sizes):
    """A table's boxes in letterboxed pixels, float32 `(N, 4)`. Args: `sizes` of the photos as the cache has them.

    Raises: UserError that lists the boxes that do not fit their photos.
    """
    boxes, problems = [], []
    for path, box, size in zip(table.paths(), table.boxes.tolist(), sizes):
        try:
            boxes.append(letterboxed_box(box, *size))
        except ValueError as error:
            problems.append(f"{path}: {error}")
    if problems:
        said = counted(len(problems), "box does not fit its photo", "boxes do not fit their photos")
        raise UserError(f"--crop-to-box: {said}:\n{shortened(problems)}")
    return np.array(boxes, np.float32)


def load_training_data(tables, cache_dir, shares, skip_unreadable=False):
    """What is trained and validated on: the parts "train", the photos without labels behind those of the table, and "val",
    without twins.

    Args: `tables` of `read_all_tables`; `shares` of `utils.data.attributes.Layout`; the others as of `load_pixels`.
    Returns: (dict part -> Table, dict part -> Pixels). Raises: as `load_pixels` and `without_twins`.
    """
    tables, pixels = without_twins(*load_pixels(tables, cache_dir, skip_unreadable), shares)
    learned = [name for name in tables if name not in ("val", "test")]
    parts = [tables[name] for name in learned]
    lists = {key: [one for part in parts for one in getattr(part, key)] for key in (*LISTS, "unreadable")}
    labels = {key: np.concatenate([part.labels[key] for part in parts]) for key in parts[0].labels}
    train = parts[0]._replace(labels=labels, **lists)
    if train.boxes is not None:
        others = np.full((len(train.names) - len(train.boxes), 4), np.nan, np.float32)  # folders have none
        train = train._replace(boxes=np.concatenate([train.boxes, others]))
    pixels = {"train": joined([pixels[name] for name in learned]), "val": pixels["val"]}
    return {"train": train, "val": tables["val"]}, pixels


def unreadable(tables, path):
    """Say how many photos were left out, and list them in a file; with none, remove that of an earlier run."""
    lines = [line for table in tables.values() for line in table.unreadable]
    if os.path.exists(path):
        os.remove(path)
    if lines:
        said = counted(len(lines), "photo cannot be read and is", "photos cannot be read and are")
        logger.warning(f"warning: {said} left out, see {path}")
        with atomic(path) as file:
            file.writelines(f"{line}\n" for line in lines)
