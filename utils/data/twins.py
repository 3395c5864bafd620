"""Photos that a data set has more than once, told by their pixels, whatever their files are called."""

import numpy as np

from utils.base.errors import UserError
from utils.base.log import logger
from utils.data.attributes import PARTS, UNKNOWN


def without_twins(data, shares):
    """The same data set, where training has no photo of a part that is held out of its table, and a folder without labels
    has none of any table. Photos that tables apart have both, or that have different labels, stay, with a warning.

    Args: `data` of `utils.data.dataset.load_pixels`; `shares` of `utils.data.attributes.Layout`.
    Raises: UserError if nothing is left of a part.
    """
    tables = {name: split for name, split in data.items() if name in PARTS}
    seen = np.concatenate([split.pixels.hashes for split in tables.values()])
    data = dict(data)
    for name in (one for one in tables if one != "train"):
        both = np.isin(data["train"].pixels.hashes, tables[name].pixels.hashes)
        if name in shares:
            data["train"] = _left(data["train"], both, "the training table", f"of {name}, held out of it")
        elif both.any():
            count = np.isin(tables[name].pixels.hashes, data["train"].pixels.hashes).sum()
            example = data["train"].names[both.argmax()]
            problem = f"{count} photos of {name} are in the training table, too, such as {example}"
            logger.warning(f"warning: {problem}: its figures are too good")
    if {"val", "test"} <= tables.keys():
        count = np.isin(tables["test"].pixels.hashes, tables["val"].pixels.hashes).sum()
        if count:
            logger.warning(
                f"warning: {count} photos of test are in validation, too: its figures are too good"
            )
    _warn_of_labels(data["train"])
    for name in [one for one in data if one not in tables]:
        both = np.isin(data[name].pixels.hashes, seen)
        data[name] = _left(data[name], both, name, "of the tables")
    return data


def _left(split, twins, where, of):
    """The split without its twins, bool `(N,)`."""
    if not twins.any():
        return split
    said = (
        f"{where}: {twins.sum()} photos have the pixels of others {of}, such as {split.names[twins.argmax()]}"
    )
    if twins.all():
        raise UserError(f"{said}: none is left")
    logger.info(f"{said}: they are left out")
    return split.rows(np.flatnonzero(~twins))


def _warn_of_labels(split):
    """Point out photos that have several rows, with different labels."""
    _, photo, counts = np.unique(split.pixels.hashes, return_inverse=True, return_counts=True)
    several, differ = np.flatnonzero(counts[photo] > 1), np.zeros(len(counts), bool)
    for labels in split.labels.values():
        rows = several[labels[several] != UNKNOWN]
        first = np.full(len(counts), UNKNOWN)
        first[photo[rows]] = labels[rows]
        differ[photo[rows[first[photo[rows]] != labels[rows]]]] = True
    if differ.any():
        one, other = np.flatnonzero(photo == photo[differ[photo].argmax()])[:2]
        example = f"such as {split.names[one]} and {split.names[other]}"
        problem = (
            f"{differ.sum()} photos have more than one row in training, with different labels, {example}"
        )
        logger.warning(f"warning: {problem}")
