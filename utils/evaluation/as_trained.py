"""A data set as a network was trained on it."""

import numpy as np

from utils.base.errors import UserError, shortened
from utils.data.attributes import UNKNOWN, Attributes, places, read_attributes
from utils.data.dataset import read_tables
from utils.nets.hub import ZERO_SHOT


def read_as_trained(classifiers, split, data_dir, attributes=None, **how):
    """A part of a data set for each network: photos turned or not, labels in the order of its classes.

    The tables are read as the file `attributes` says; without one, as the first network was trained on them.
    An exported file does not tell where they were: the competition's classes mean the competition's tables.
    Zero-shot has been trained on none.

    Args: `classifiers` of `load_classifier`; `split`, "train", "val" or "test"; `how`, options of `read_tables`.
    Returns: for each network a `utils.data.dataset.Table`.
    Raises: UserError if a network has other attributes or classes, whose order may differ, and as `read_tables`.
    """
    first = next((one for one in classifiers if one.path != ZERO_SHOT), classifiers[0])
    given, source = first.attributes, first.path
    if attributes:
        given, source = read_attributes(attributes), attributes
    elif "export" in first.meta and not read_attributes().differences(given):
        given = read_attributes()
    tables = []
    for classifier in classifiers:
        own = classifier.attributes
        differences = given.differences(own)
        if differences:
            raise UserError(f"{source} and {classifier.path} differ in classes:\n{shortened(differences)}")
        turned = Attributes(dict(given.content, exif=own.layout.exif), classifier.path)
        table = read_tables(data_dir, turned, (split,), **how)[split]
        labels = {}
        for key, attribute in own.items():  # read first: a cell may be a number in the other order of classes
            numbers = places(given[key].classes, attribute.classes)
            labels[key] = np.array([*numbers, UNKNOWN])[table.labels[key]]  # -1, not known, is the last
        tables.append(table._replace(labels=labels))
    return tables
