"""Cells of a table that a person filled, and that networks doubt which have not learned from them."""

import glob
import os

import numpy as np

from utils.base.errors import UserError, listed
from utils.data.attributes import UNKNOWN
from utils.data.dataset import fold_of
from utils.data.prior import options_of
from utils.evaluation.fill import ask, for_products
from utils.evaluation.inference import load_classifier
from utils.nets.hub import BEST, find_checkpoint


def fold_networks(classifier, folders=None, **how):
    """The networks of `train.py --folds`, in their order.

    Args: `classifier` of the same labels; `folders` of the folds' versions, or else those beside its own, or of its name; `how`, options
        of `load_classifier`.
    Raises: UserError if they are not all folds of the same labels.
    """
    name = options_of(classifier.meta).get("version", "shop")
    versions = os.path.dirname(find_checkpoint(classifier.path)), os.path.join("model", name)
    beside = [glob.glob(f"{glob.escape(version)}-fold-*/{BEST}") for version in versions]
    paths = folders or beside[0] or beside[1]
    networks = [load_classifier(path, **how) for path in paths]
    networks.sort(key=lambda one: one.attributes.layout.fold or 0)
    for one in networks:
        if _labels_of(one) != _labels_of(classifier):
            raise UserError(
                f"--doubts: {one.path} has other attributes or another group than {classifier.path}"
            )
    folds = [(one.attributes.layout.fold, one.attributes.layout.shares.get("val")) for one in networks]
    if not folds or folds != [(number, 1 / len(folds)) for number in range(1, len(folds) + 1)]:
        found = f"all folds of networks that have not learned the labels, and found {listed(paths) or 'none'}"
        way_out = (
            f"bash train.sh own --folds 5 --version {name} …, with the options of its training, makes them"
        )
        raise UserError(f"--doubts needs {found}; {way_out}")
    return networks


def _labels_of(classifier):
    classes = [(key, one.column, one.classes) for key, one in classifier.attributes.items()]
    return classes, classifier.attributes.layout.group


def find_doubts(sheet, networks, rows, batch_size, sure):
    """Cells of a `Sheet` that are doubted.

    Args: `networks` of `fold_networks`; `rows` whose photos can be read; `sure`, a `utils.evaluation.confidence.Sure`.
    Returns: (list of pairs (row, attribute), the most surely wrong first; the answers to the photos, as of `Sheet.fill`).
    """
    answers, folds, found = sheet.no_answers(), fold_of(sheet.groups, max(len(networks), 1)), []
    for number, network in enumerate(networks, 1):
        ask(
            network,
            [(row, sheet.paths[row]) for row in sorted(rows) if folds[row] == number],
            batch_size,
            answers,
        )
    answers = sure.softened(answers)
    for_products(answers, sheet.labels, sheet.groups)
    for key, labels in sheet.labels.items():
        found += [(answers[key][row, labels[row]], row, key) for row in doubted(answers[key], labels)]
    return [(row, key) for _, row, key in sorted(found)], answers


def doubted(probabilities, labels):
    """Rows whose label is doubted, by confident learning (Northcutt et al., arXiv:1911.00068).

    They are as many as there are labels for which another class is at least as probable as on average where it is the label: of those
    that would get another class, the ones with the least probable label. In a table with changed labels, these were changed more often
    than the ones that were counted.

    Args: float `(N, classes)`, NaN where there is no answer; int `(N,)`.
    """
    rows = np.flatnonzero((labels != UNKNOWN) & np.isfinite(probabilities[:, 0]))
    values, said, classes = probabilities[rows], labels[rows], probabilities.shape[1]
    own, counts = values[np.arange(len(rows)), said], np.bincount(said, minlength=classes)
    least = np.where(counts, np.bincount(said, own, classes) / np.maximum(counts, 1), np.inf)
    likely = np.where(values >= least, values, -1)
    many = np.count_nonzero((likely.max(axis=1) >= 0) & (likely.argmax(axis=1) != said))
    contradicted = np.flatnonzero(values.argmax(axis=1) != said)
    return rows[contradicted[np.argsort(own[contradicted], kind="stable")][:many]]
