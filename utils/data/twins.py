"""Photos that a data set has more than once, told by their pixels, whatever their files are called."""

import numpy as np

from utils.base.errors import UserError
from utils.base.log import logger
from utils.data.attributes import PARTS, UNKNOWN


def without_twins(tables, pixels, shares):
    """The same data set, where training has no photo of a part that is held out of its table, and a folder without labels
    has none of any table. Photos that tables apart have both, or that have different labels, stay, with a warning.

    Args: `tables`, `pixels` of `utils.data.dataset.load_pixels`; `shares` of `utils.data.attributes.Layout`.
    Returns: (dict part -> Table, dict part -> Pixels). Raises: UserError if nothing is left of a part.
    """
    tables, pixels = dict(tables), dict(pixels)
    hashes = {name: its.hashes for name, its in pixels.items()}

    def leave_out(name, twins, where, of):
        """Of a part those of its rows, bool `(N,)`."""
        if not twins.any():
            return
        example = tables[name].names[twins.argmax()]
        said = f"{where}: {twins.sum()} photos have the pixels of others {of}, such as {example}"
        if twins.all():
            raise UserError(f"{said}: none is left")
        logger.info(f"{said}: they are left out")
        left = np.flatnonzero(~twins)
        tables[name], pixels[name] = tables[name].rows(left), pixels[name].rows(left)

    for name in (one for one in tables if one in PARTS and one != "train"):
        both = np.isin(pixels["train"].hashes, hashes[name])
        if name in shares:
            leave_out("train", both, "the training table", f"of {name}, held out of it")
        elif both.any():
            count = np.isin(hashes[name], pixels["train"].hashes).sum()
            example = tables["train"].names[both.argmax()]
            problem = f"{count} photos of {name} are in the training table, too, such as {example}"
            logger.warning(f"warning: {problem}: its figures are too good")
    if {"val", "test"} <= tables.keys():
        count = np.isin(hashes["test"], hashes["val"]).sum()
        if count:
            logger.warning(
                f"warning: {count} photos of test are in validation, too: its figures are too good"
            )
    _warn_of_labels(tables["train"], pixels["train"].hashes)
    seen = np.concatenate([hashes[name] for name in tables if name in PARTS])
    for name in [one for one in tables if one not in PARTS]:
        leave_out(name, np.isin(hashes[name], seen), name, "of the tables")
    return tables, pixels


def _warn_of_labels(table, hashes):
    """Point out photos that have several rows, with different labels."""
    _, photo, counts = np.unique(hashes, return_inverse=True, return_counts=True)
    several, differ = np.flatnonzero(counts[photo] > 1), np.zeros(len(counts), bool)
    for labels in table.labels.values():
        rows = several[labels[several] != UNKNOWN]
        first = np.full(len(counts), UNKNOWN)
        first[photo[rows]] = labels[rows]
        differ[photo[rows[first[photo[rows]] != labels[rows]]]] = True
    if differ.any():
        one, other = np.flatnonzero(photo == photo[differ[photo].argmax()])[:2]
        example = f"such as {table.names[one]} and {table.names[other]}"
        problem = (
            f"{differ.sum()} photos have more than one row in training, with different labels, {example}"
        )
        logger.warning(f"warning: {problem}")
