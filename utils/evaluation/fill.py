"""A table whose missing cells are filled where a network is sure; and which of the others are doubted."""

import csv
import glob
import os
import sys
from collections import Counter

import numpy as np
from tqdm import tqdm

from utils.base.errors import UserError, listed, visible
from utils.base.files import atomic
from utils.data.attributes import UNKNOWN, is_number, plain_name
from utils.data.prior import options_of
from utils.data.tables import BETWEEN, FILLED, raw_rows, read_table
from utils.evaluation.inference import answered, load_classifier
from utils.evaluation.metrics import product_answers
from utils.evaluation.photo_lists import check_photos
from utils.evaluation.predictions import table_text
from utils.nets.hub import BEST, find_checkpoint

LIST = "row photo attribute cell instead probability cell_probability".split()  # header of a list of cells
COUNTS = "empty", "filled", "left", "no class", "doubted"


class Sheet:
    """A table to be filled, with all that is in it. Its N rows are those that are not empty.

    Args: `path`; `photos`, the `PhotoFolder` of its names; `attributes`.
    Attributes: `names`, `groups` as of `read_table`, and `labels`, those that a person gave; `paths` of the photos; `missing`,
        attribute -> bool `(N,)`, which cells are empty, or say that they are not known; `filled`, of each row the set of attributes
        that were, also by an earlier run.
    Raises: UserError as `read_table`, if none of the photos is there, or a column has the name of one that is written.
    """

    def __init__(self, path, photos, attributes):
        self.attributes, self.missing = attributes, {}
        self.form, *self.content = raw_rows(path, attributes.layout.encoding)
        self.names, self.labels, self.groups, _ = read_table(path, photos, attributes, strict=False)
        self.lines, self.rows = zip(*(row for row in self.content if any(map(str.strip, row[1]))))
        self.paths = list(map(photos.path, self.names))
        check_photos(path, photos, ((one[len(photos.prefix) :], one) for one in self.paths))
        header = self.form.header
        self.titles = {key: table_text(f"{one.short}_confidence") for key, one in attributes.items()}
        there = [title for title in (FILLED, *self.titles.values()) if title in header]
        header += [title for title in (FILLED, *self.titles.values()) if title not in there]
        for cells in self.rows:
            cells[:] = (cells + [""] * len(header))[: len(header)]
        self.filled = [set(filter(None, cell.split(BETWEEN))) for cell in self.cells(FILLED)]
        told = [cell for title in there if title != FILLED for cell in self.cells(title) if cell]
        is_ours = FILLED in there and set().union(*self.filled) <= set(attributes)
        if there and not (is_ours and all(map(is_number, told))):
            raise UserError(f"{path}: {listed(there)}: a column of this name is to be written; rename it")
        unknown = {"", *map(plain_name, attributes.layout.unknown)}
        for key, one in attributes.items():
            silent = unknown.difference(map(plain_name, one.ignore))
            self.missing[key] = np.array([plain_name(cell) in silent for cell in self.cells(one.column)])
            for row in np.flatnonzero(self.missing[key]):  # somebody has emptied it again
                self.filled[row].discard(key)

    def cells(self, column):
        return [cells[self.form.header.index(column)] for cells in self.rows]

    def texts(self, key):
        """What stands for each class: what the table most often has; else its name, or its number in a table of numbers."""
        one = self.attributes[key]
        counts = Counter(zip(self.labels[key].tolist(), map(str.strip, self.cells(one.column))))
        known = [pair for pair in sorted(counts, key=counts.get) if pair[0] != UNKNOWN and not one.contains]
        by_number = known and is_number(known[-1][1]) and not any(map(is_number, one.classes))
        texts = map(str, range(len(one.classes))) if by_number else one.classes
        return list({**dict(enumerate(texts)), **dict(known)}.values())  # the most frequent comes last

    def fill(self, answers, sure, alike=()):
        """Fill missing cells, and the columns that tell of them. A list of tags takes all of its attributes to be sure. In attributes in which
        a product's photos are `alike`, none gets another class than a person gave to one.

        Args: `answers`, attribute -> probabilities `(N, classes)`, NaN where there is no answer; `sure`, attribute -> bool `(N,)`.
        Returns: attribute -> bool `(N,)`, which cells were filled.
        """
        done, at = {}, self.form.header.index
        for key in alike:
            each = zip(self.groups, self.labels[key], answers[key].argmax(axis=1))
            disputed = {group for group, label, said in each if label not in (UNKNOWN, said)}
            sure = {**sure, key: sure[key] & [group not in disputed for group in self.groups]}
        for key, title in self.titles.items():
            for row, value in enumerate(answers[key].max(axis=1)):
                if self.missing[key][row] or key not in self.filled[row]:
                    self.rows[row][at(title)] = digits(value) if self.missing[key][row] else ""
        for column in dict.fromkeys(one.column for one in self.attributes.values()):
            its = {key: one for key, one in self.attributes.items() if one.column == column}
            texts = {key: ["", one.contains] if one.contains else self.texts(key) for key, one in its.items()}
            separator = next(iter(its.values())).separator
            chosen = np.all([each[key] for key in its for each in (self.missing, sure)], axis=0)
            for row in np.flatnonzero(chosen):
                said = dict.fromkeys(texts[key][answers[key][row].argmax()] for key in its)
                values = list(filter(None, said))
                chosen[row] = len(values) == 1 or (len(values) > 1 and separator is not None)
                if chosen[row]:
                    self.rows[row][at(column)] = (separator or "").join(values)
                    self.filled[row].update(its)
            done.update(dict.fromkeys(its, chosen))
        for cells, keys in zip(self.rows, self.filled):
            cells[at(FILLED)] = BETWEEN.join(key for key in self.attributes if key in keys)
        return done

    def left(self, answers, done):
        """Cells that are still missing, pairs (row, attribute), the least sure first. Args: as of `fill`, and what it returned."""
        cells = [(row, key) for key in done for row in np.flatnonzero(self.missing[key] & ~done[key])]
        return sorted(cells, key=lambda cell: np.nan_to_num(answers[cell[1]][cell[0]].max(), nan=1))

    def counts(self, done, doubts):
        """An attribute and its `COUNTS`, for each. Args: as of `left`; `doubts`, pairs (row, attribute)."""
        for key, its in done.items():
            told = self.missing[key] | (self.labels[key] != UNKNOWN) | [key in keys for keys in self.filled]
            empty, doubted = self.missing[key].sum(), sum(one == key for _, one in doubts)
            yield key, empty, its.sum(), empty - its.sum(), (~told).sum(), doubted

    def write(self, path):
        """The table in the form that it had. Raises: UserError for a class's name that its encoding has no letters for."""
        try:
            with atomic(path, encoding=self.form.encoding) as file:
                file.write(self.form.before)
                writer = csv.writer(file, delimiter=self.form.separator, lineterminator=self.form.line_end)
                writer.writerows([self.form.header, *(cells for _, cells in self.content)])
        except UnicodeEncodeError as error:
            problem = f"{error.object[error.start : error.end]!r} of a class is not in {self.form.encoding}"
            way_out = 'save the table in UTF-8, and take "encoding" out of the attributes'
            raise UserError(f"{path}: {problem}; {way_out}") from error

    def listed(self, cells, answers):
        """Rows of a table with the header `LIST`. Args: cells, pairs (row, attribute); `answers` as of `fill`."""
        texts = {key: self.texts(key) for key in self.attributes}
        for row, key in cells:
            values, label = answers[key][row], self.labels[key][row]
            instead = table_text(texts[key][values.argmax()]) if np.isfinite(values[0]) else ""
            cell = self.rows[row][self.form.header.index(self.attributes[key].column)]
            own = "" if label == UNKNOWN else digits(values[label])
            yield self.lines[row], self.names[row], key, cell, instead, digits(values.max()), own


def digits(probability):
    return f"{probability:.4f}" if np.isfinite(probability) else ""


def ask(networks, which, sheet, batch_size, alike):
    """The answers to the photos of a `Sheet`.

    Args: `networks`; `which` answers each row, int `(N,)`, or none of them where that is -1; attributes in which the photos of a product
        are `alike`, so that they have its answer.
    Returns: attribute -> float64 `(N, classes)`, NaN where there is no answer.
    """

    def skip(_, problem):
        tqdm.write(visible(f"skipped {problem}"), file=sys.stderr)

    answers = {key: np.full((len(which), size), np.nan) for key, size in sheet.attributes.sizes.items()}
    exif = sheet.attributes.layout.exif
    for number, network in enumerate(networks):
        photos = [(row, sheet.paths[row]) for row in np.flatnonzero(which == number)]
        for rows, results in answered(tqdm(photos, "photos", disable=None), network, batch_size, exif, skip):
            for key, values in results.items():
                answers[key][list(rows)] = values
    there = np.flatnonzero(np.isfinite(answers[next(iter(answers))][:, 0]))
    groups = [sheet.groups[row] for row in there]
    for key, values in product_answers({key: answers[key][there] for key in alike}, groups).items():
        answers[key][there] = values
    return answers


# --- doubts ------------------------------------------------------------------------------------------


def fold_networks(classifier, folders=None, **how):
    """The networks of `train.py --folds`, in their order.

    Args: `classifier` of the same labels; `folders` of the folds' versions, or else those beside its own; `how`, options of
        `load_classifier`. Raises: UserError if they are not all folds of the same labels.
    """
    version = os.path.dirname(find_checkpoint(classifier.path))
    paths = folders or glob.glob(f"{glob.escape(version)}-fold-*/{BEST}")
    networks = [load_classifier(path, **how) for path in paths]
    networks.sort(key=lambda one: one.attributes.layout.fold or 0)
    found = [(one.attributes.layout.fold, one.attributes.layout.shares.get("val")) for one in networks]
    wanted = [(number + 1, 1 / len(found)) for number in range(len(found))]
    told = "attributes", "group", "image", "unknown"
    labels = [[one.attributes.content.get(key) for key in told] for one in (classifier, *networks)]
    if not found or found != wanted or any(one != labels[0] for one in labels):
        problem = f"all networks of a --folds, of the same attributes; found: {listed(paths) or 'none'}"
        raise UserError(f"--doubts needs {problem}; bash train.sh own --folds 5, with this one's options")
    for one in networks:
        options = options_of(one.meta)
        # Of a path only the last part is there: a folder of ours, or a file, which may be a backbone's own weights.
        began = str(options.get("student_weights") or "none")
        is_backbone = began == "none" or "/" in began or began.endswith((".pth", ".safetensors", ".bin"))
        source = (not is_backbone and began) or options.get("teacher") or options.get("teacher_logits")
        if source:
            problem = "which may know the labels that this fold holds out; train the folds without it"
            raise UserError(f"--doubts: {one.path} has learned from {source}, {problem}")
    return networks


def find_doubts(labels, answers):
    """Cells whose label is doubted, pairs (row, attribute), the most surely wrong first. Args: dicts by attribute, as of `doubted`."""
    found = []
    for key, values in answers.items():
        found += [(values[row, labels[key][row]], row, key) for row in doubted(values, labels[key])]
    return [(row, key) for _, row, key in sorted(found)]


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
