"""A table with missing cells, filled where a network is sure of its answers."""

import csv
import os
import sys
from collections import Counter

import numpy as np
from tqdm import tqdm

from utils.base.errors import UserError, excerpt, visible
from utils.base.files import atomic
from utils.data.attributes import UNKNOWN, is_number, plain_name
from utils.data.tables import raw_rows, read_rows, read_table
from utils.evaluation.inference import answered
from utils.evaluation.metrics import by_product
from utils.evaluation.photo_lists import fitting_folder
from utils.evaluation.predictions import table_text

FILLED, BETWEEN = (
    "filled",
    ", ",
)  # the column that names the attributes that were filled, and what stands between them
LIST = "row photo attribute cell instead probability cell_probability".split()  # header of a list of cells
COUNTS = "empty", "filled", "left", "no class", "doubted"


def photos_folder(path, layout):
    """The folder of a table's photos: its own, or one that has the first of them."""
    name, own = next(read_rows(path, [layout.image], layout.encoding))[layout.image], os.path.dirname(path)
    return own if os.path.exists(os.path.join(own, name)) else fitting_folder(own, name) or own


class Sheet:
    """A table to be filled, with all that is in it. Its N rows are those that are not empty.

    Args: `path`; `photos`, the `PhotoFolder` of its names; `attributes`.
    Attributes: `names`, `groups` as of `read_table`, and `labels`, those that a person gave; `paths` of the photos; `missing`,
        attribute -> bool `(N,)`, which cells are empty, or say that they are not known; `filled`, of each row the set of attributes
        that were, also by an earlier run.
    Raises: UserError as `read_table`, if none of the photos is there, or a column has the name of one that is written.
    """

    def __init__(self, path, photos, attributes):
        self.attributes, self.columns, self.missing = attributes, {}, {}
        self.form, *self.content = raw_rows(path, attributes.layout.encoding)  # (line, cells)
        self.names, self.labels, self.groups, _ = read_table(path, photos, attributes, strict=False)
        self.paths = list(map(photos.path, self.names))
        if not any(map(os.path.exists, self.paths)):
            problem = f"none of its photos is there, such as {excerpt(self.paths[0], 300)}"
            raise UserError(f"{path}: {problem}; --images names their folder")
        self.rows = [row for row in self.content if any(map(str.strip, row[1]))]
        self._add_columns(path)
        for key, one in attributes.items():
            self.columns.setdefault(one.column, []).append(key)
            self.labels[key][[key in keys for keys in self.filled]] = UNKNOWN
        unknown = {"", *map(plain_name, attributes.layout.unknown)}
        for column, keys in self.columns.items():
            silent = unknown.difference(*(map(plain_name, attributes[key].ignore) for key in keys))
            missing = np.array([plain_name(cell) in silent for cell in self.cells(column)])
            self.missing.update(dict.fromkeys(keys, missing))

    def _add_columns(self, path):
        """Give each row the cells of the columns that are written, where an earlier run has not."""
        header, attributes = self.form.header, self.attributes
        self.titles = {key: table_text(f"{one.short}_confidence") for key, one in attributes.items()}
        titles = [FILLED, *self.titles.values()]
        there = [title for title in titles if title in header]
        header += [title for title in titles if title not in header]
        for _, cells in self.rows:
            cells[:] = (cells + [""] * len(header))[: len(header)]
        self.filled = [set(filter(None, cell.split(BETWEEN))) for cell in self.cells(FILLED)]
        if there and not (FILLED in there and set().union(*self.filled) <= set(attributes)):
            raise UserError(f"{path}: {', '.join(there)}: a column of this name is to be written; rename it")

    def cells(self, column):
        at = self.form.header.index(column)
        return [cells[at] for _, cells in self.rows]

    def no_answers(self):
        """Attribute -> float64 `(N, classes)`, NaN."""
        return {key: np.full((len(self.rows), size), np.nan) for key, size in self.attributes.sizes.items()}

    def texts(self, key):
        """What stands for each class: what the table most often has; else its name, or its number in a table of numbers."""
        one = self.attributes[key]
        counts = Counter(zip(self.labels[key].tolist(), map(str.strip, self.cells(one.column))))
        known = [pair for pair in sorted(counts, key=counts.get) if pair[0] != UNKNOWN and not one.contains]
        by_number = (
            known and not any(map(is_number, one.classes)) and all(is_number(cell) for _, cell in known)
        )
        texts = list(map(str, range(len(one.classes))) if by_number else map(table_text, one.classes))
        for number, cell in known:  # the most frequent last
            texts[number] = cell
        return texts

    def fill(self, answers, sure):
        """Fill missing cells, and the columns that tell of them. A cell that several attributes read takes all of them to be sure.

        Args: `answers`, attribute -> probabilities `(N, classes)`, NaN where there is no answer; `sure`, attribute -> bool `(N,)`.
        Returns: attribute -> bool `(N,)`, which cells were filled.
        """
        done = {}
        for column, keys in self.columns.items():
            ones, at = [self.attributes[key] for key in keys], self.form.header.index(column)
            texts = [["", one.contains] if one.contains else self.texts(key) for key, one in zip(keys, ones)]
            chosen = np.all([self.missing[keys[0]], *(sure[key] for key in keys)], axis=0)
            for row in np.flatnonzero(chosen):
                said = (its[answers[key][row].argmax()] for key, its in zip(keys, texts))
                values = list(dict.fromkeys(filter(None, said)))
                chosen[row] = len(values) == 1 or (len(values) > 1 and ones[0].separator is not None)
                if chosen[row]:
                    self.rows[row][1][at] = (ones[0].separator or "").join(values)
            done.update(dict.fromkeys(keys, chosen))
        self._tell(answers, done)
        return done

    def _tell(self, answers, done):
        """Write which cells were filled, and how probable the answers for missing ones are. Args: as of `fill`, and what it returns."""
        at = self.form.header.index
        for row, (_, cells) in enumerate(self.rows):
            for key, title in self.titles.items():
                probability = answers[key][row].max()
                if self.missing[key][row]:
                    cells[at(title)] = f"{probability:.4f}" if np.isfinite(probability) else ""
                elif key not in self.filled[row]:
                    cells[at(title)] = ""
            self.filled[row].update(key for key, its in done.items() if its[row])
            cells[at(FILLED)] = BETWEEN.join(key for key in self.attributes if key in self.filled[row])

    def left(self, answers, done):
        """Cells that are still missing, pairs (row, attribute), the least sure first. Args: as of `fill`, and what it returned."""
        cells = [(row, key) for key in done for row in np.flatnonzero(self.missing[key] & ~done[key])]
        return sorted(cells, key=lambda cell: np.nan_to_num(answers[cell[1]][cell[0]].max(), nan=1))

    def counts(self, done, doubted):
        """Rows of a table with an attribute and its `COUNTS`. Args: as of `left`; `doubted`, pairs (row, attribute)."""
        of = Counter(key for _, key in doubted)
        for key, its in done.items():
            empty, filled = self.missing[key].sum(), its.sum()
            there = (
                empty
                + (self.labels[key] != UNKNOWN).sum()
                + sum(key in keys for keys in self.filled)
                - filled
            )
            yield key, empty, filled, empty - filled, len(self.rows) - there, of[key]

    def write(self, path):
        """The table in the form that it had."""
        try:
            with atomic(path, encoding=self.form.encoding) as file:
                file.write(self.form.before)
                writer = csv.writer(file, delimiter=self.form.separator, lineterminator=self.form.line_end)
                writer.writerows([self.form.header, *(cells for _, cells in self.content)])
        except UnicodeEncodeError as error:
            raise UserError(f"{path}: {error.object[error.start]} is not in {self.form.encoding}") from error

    def listed(self, cells, answers):
        """Rows of a table with the header `LIST`. Args: cells, pairs (row, attribute); `answers` as of `fill`."""
        texts = {key: self.texts(key) for key in self.attributes}
        columns = {key: self.cells(one.column) for key, one in self.attributes.items()}
        for row, key in cells:
            values, label = answers[key][row], self.labels[key][row]
            said = (
                [texts[key][values.argmax()], f"{values.max():.4f}"] if np.isfinite(values[0]) else ["", ""]
            )
            own = "" if label == UNKNOWN else f"{values[label]:.4f}"
            yield [self.rows[row][0], self.names[row], key, columns[key][row], *said, own]


def ask(classifier, photos, batch_size, answers):
    """Ask a network for its answers to photos of a table's rows. Those that cannot be read are told.

    Args: `photos`, list of pairs (row, path); `answers`, attribute -> float64 `(N, classes)`, that gets them.
    Returns: set of the rows whose photo was read.
    """

    def skip(_, problem):
        tqdm.write(visible(f"skipped {problem}"), file=sys.stderr)

    done, exif, photos = set(), classifier.attributes.layout.exif, tqdm(photos, "photos", disable=None)
    for rows, results in answered(photos, classifier, batch_size, exif, skip):
        done.update(rows)
        for key, values in results.items():
            answers[key][list(rows)] = values
    return done


def for_products(answers, labels, groups):
    """Give all photos of a product its answer, where an attribute's labels are the same for all of them.

    Args: as of `Sheet.fill`, changed in place; `labels`, attribute -> int `(N,)`; `groups`, the product of each row.
    Returns: list of the other attributes.
    """
    there = np.flatnonzero(np.isfinite(next(iter(answers.values()))[:, 0]))
    its = [groups[row] for row in there]
    products, means = by_product({key: values[there] for key, values in answers.items()}, its)
    places = {product: place for place, product in enumerate(products)}
    others = [key for key in answers if not are_alike(labels[key], groups)]
    for key in answers.keys() - others:
        answers[key][there] = means[key][[places[product] for product in its]]
    return others


def are_alike(labels, groups):
    """Whether labels tell of whole products: two of one are alike by more than half of what chance leaves. True where none has two.

    Args: int `(N,)`; the product of each.
    """
    known = [(group, label) for group, label in zip(groups, labels.tolist()) if label != UNKNOWN]
    by_group, by_label = (Counter(one[place] for one in known).values() for place in (0, 1))
    same, pairs = (sum(n * (n - 1) for n in counts) for counts in (Counter(known).values(), by_group))
    chance = sum(n * n for n in by_label) / max(len(known), 1) ** 2
    return same >= pairs * (1 + chance) / 2
