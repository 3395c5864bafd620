"""Tables of predictions: their header and rows, the same for every command that writes one."""

import numpy as np

from utils.base.errors import UserError
from utils.base.files import write_csv
from utils.data.attributes import UNKNOWN, is_number, read_attributes

FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠")  # Excel takes wide ones for these
NUMBERS = "numbers"  # in place of a language: classes by number


def table_text(cell):
    """A text as a cell of a table of predictions: one that a spreadsheet would take for a formula gets an apostrophe, as OWASP
    advises ("CSV injection"). Not for cells of a user's own table, which are found there again as they are."""
    return f"'{cell}" if cell.startswith(FORMULA) and not is_number(cell) else cell


def class_texts(attributes, language):
    """Attribute -> what stands for each class: its own name for "en", its name in another language, if it has one, or its number.

    Raises: UserError for a language that no class has a name in.
    """
    if language == NUMBERS:
        return {key: range(size) for key, size in attributes.sizes.items()}
    known = dict.fromkeys(["en", *attributes.languages(), NUMBERS])
    if language not in known:
        raise UserError(f"--names {language}: there are no such names; there are {', '.join(known)}")
    names = {key: {**one.names, "en": one.classes} for key, one in attributes.items()}
    return {key: list(map(table_text, its.get(language, its["en"]))) for key, its in names.items()}


def answers(results, sure=None):
    """What is said of photos: (probabilities, number of the class, int `(N,)`), two dicts by attribute; with a
    `utils.evaluation.confidence.Sure`, softened, and -1 for what is not sure. Args: `results` of a `Classifier`."""
    results = sure.softened(results) if sure else results
    said = {key: values.argmax(axis=1) for key, values in results.items()}
    if sure:
        said = {key: np.where(is_sure, said[key], UNKNOWN) for key, is_sure in sure(results).items()}
    return results, said


def distinct(titles):
    """A list of them, no two of which are alike."""
    found = []
    for title in titles:
        while title in found:
            title += "_2"
        found.append(title)
    return found


def write_classes(path, columns, by_class, encoding="utf-8"):
    """A table with a row for each class. Args: `columns` besides attribute and class; `by_class`, attribute -> (class, its cells …)."""
    rows = ([key, *its] for key, each in by_class.items() for its in each)
    safe = ([table_text(key), table_text(name), *cells] for key, name, *cells in rows)
    write_csv(path, ["attribute", "class", *columns], safe, encoding)


class PredictionTable:
    """The columns of a table of predictions: the photo, each attribute's class (`kind`), and what is asked for.

    Own attributes have names and confidences; the competition's table has numbers alone, as its readers expect.

    Args:
        attributes: `utils.data.attributes.Attributes`.
        language: of the classes' names, as of `class_texts`; None for own attributes' names, and the competition's numbers.
        labels: whether the labels follow (`kind_label`, empty where not known), and at the end what the table is without: the
            numbers of classes that stand by name (`kind_number`, `kind_label_number`), the names of others (`daily_name`).
        probabilities: whether each class has a column: `kind_t-shirt`, or `kind_0` where classes stand by number.
        sure: a `utils.evaluation.confidence.Sure`, with which classes that are not sure are empty cells, as of `answers`.
    Attributes: `header`, no two of its columns alike.
    Raises: UserError as `class_texts`.
    """

    def __init__(self, attributes, language=None, labels=False, probabilities=False, sure=None):
        self.attributes, self.labels, self.probabilities, self.sure = attributes, labels, probabilities, sure
        self.is_own = bool(read_attributes().differences(attributes))
        language = language or ("en" if self.is_own else NUMBERS)
        self.texts = class_texts(attributes, language)
        self.by_name = self.is_own and language != NUMBERS
        no_photo = {key: np.empty((0, size)) for key, size in attributes.sizes.items()}
        titles = (title for title, _ in self._columns(no_photo, dict.fromkeys(attributes, ())))
        self.header = distinct(map(table_text, [attributes.layout.image, *titles]))

    def rows(self, photos, results, labels=None):
        """Rows of some photos. Args: their names; `results` of a `Classifier`; `labels`, attribute -> int `(B,)`."""
        return zip(photos, *(cells for _, cells in self._columns(results, labels)))

    def _columns(self, results, labels):
        """Yields (title, cells) of each column but the photo's."""
        results, said = answers(results, self.sure)
        given = {"": said, "_label": labels} if self.labels else {"": said}
        yield from self._classes(given, "", self.texts)
        for key, values in results.items() if self.is_own else ():
            yield f"{self.attributes[key].short}_confidence", [f"{p:.4f}" for p in values.max(axis=1)]
        for key, values in results.items() if self.probabilities else ():
            names = self.attributes[key].classes if self.by_name else range(values.shape[1])
            for name, column in zip(names, values.T):
                yield f"{self.attributes[key].short}_{name}", [f"{p:.6f}" for p in column]
        if self.labels:
            other, suffix = (NUMBERS, "_number") if self.by_name else ("en", "_name")
            yield from self._classes(given, suffix, class_texts(self.attributes, other))

    def _classes(self, given, suffix, texts):
        for which, numbers in given.items():
            for key, attribute in self.attributes.items():
                cells = ["" if number == UNKNOWN else texts[key][number] for number in numbers[key]]
                yield f"{attribute.short}{which}{suffix}", cells
