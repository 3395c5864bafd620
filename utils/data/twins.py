"""Photos that a data set has more than once, told by their pixels, whatever their files are called."""

import itertools

import numpy as np

from utils.base.errors import UserError, counted
from utils.base.log import logger
from utils.data.attributes import PARTS, UNKNOWN

TITLES = {"train": "the training table", "val": "validation"}


def without_twins(tables, pixels, shares):
    """The same data set, where training has no photo of a part that is held out of its table, and a folder without labels
    has none of any table. Photos that tables apart have both, or that have different labels, stay, with a warning.

    Args: `tables`, `pixels` of `utils.data.dataset.load_pixels`; `shares` of `utils.data.attributes.Layout`.
    Returns: (dict part -> Table, dict part -> Pixels). Raises: UserError if nothing is left of a part.
    """
    tables, pixels = dict(tables), dict(pixels)

    def leave_out(name, twins, others):
        count = counted(twins.sum(), "photo has the pixels of another", "photos have the pixels of others")
        said = f"{TITLES.get(name, name)}: {count} {others}, such as {tables[name].names[twins.argmax()]}"
        if twins.all():
            raise UserError(f"{said}: none is left")
        logger.info(f"{said}: left out")
        left = np.flatnonzero(~twins)
        tables[name], pixels[name] = tables[name].rows(left), pixels[name].rows(left)

    seen = np.concatenate([pixels[name].hashes for name in PARTS if name in tables])
    for first, second in itertools.combinations([name for name in PARTS if name in tables], 2):
        twins = np.isin(pixels[first].hashes, pixels[second].hashes)
        if twins.any() and first == "train" and second in shares:
            leave_out(first, twins, f"of {second}, held out of it")
        elif twins.any():
            count = np.isin(pixels[second].hashes, pixels[first].hashes).sum()
            also = counted(count, f"photo of {second} is", f"photos of {second} are")
            problem = f"{also} in {TITLES[first]}, too, such as {tables[first].names[twins.argmax()]}"
            logger.warning(f"warning: {problem}: its figures are too good")
    for name in tables:
        twins = np.isin(pixels[name].hashes, seen)
        if name not in PARTS and twins.any():
            leave_out(name, twins, "of the tables")
    # Photos that have several rows, with different labels.
    table, photos, first, differ = tables["train"], pixels["train"].hashes.tolist(), {}, {}
    for key, values in table.labels.items():
        for row in np.flatnonzero(values != UNKNOWN).tolist():
            one = first.setdefault((key, photos[row]), row)
            if values[one] != values[row]:
                differ.setdefault(photos[row], (table.names[one], table.names[row]))
    if differ:
        example = " and ".join(next(iter(differ.values())))
        count = counted(len(differ), "photo has several rows", "photos have several rows")
        logger.warning(f"warning: {count} in training, with different labels, such as {example}")
    return tables, pixels
