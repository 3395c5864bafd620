"""Rows of a table: a CSV file with a photo's name, its labels and its box."""

import codecs
import collections
import csv
import functools
import itertools

import numpy as np

from utils.attributes import MAX_CLASSES, UNKNOWN, plain_name
from utils.errors import UserError, excerpt, shortened
from utils.photos import PhotoFolder, letterboxed_box

SEPARATORS = ",;\t"
MAX_LINE = 65_536  # characters
MAX_PROBLEMS = 1000  # of a table, until the rest is not looked at


def read_rows(path, columns, encoding="utf-8"):
    """Rows of a CSV file with a header: comma, semicolon or tab, as the first line shows.

    Args: `columns` that it must have; `encoding`, where UTF-8 may begin with a mark.
    Yields: (line number, dict column -> cell; empty where the row is too short).
    Raises: UserError for a file that is none, or that lacks a column.
    """
    try:
        if codecs.lookup(encoding).name == "utf-8":
            encoding = "utf-8-sig"
        with open(path, newline="", encoding=encoding) as file:
            lines = _short_lines(file)
            first = next(lines, "")
            separator = max(SEPARATORS, key=first.count)
            reader = csv.DictReader(itertools.chain([first], lines), restval="", delimiter=separator)
            header = list(reader.fieldnames or [])
            absent = [column for column in dict.fromkeys(columns) if column not in header]
            if absent:
                raise UserError(f"{path}: no column {', '.join(absent)}; there are {', '.join(header)}")
            twice = [column for column in columns if header.count(column) > 1]
            if twice:
                raise UserError(f"{path}: more than one column {twice[0]}; rename all but one")
            for row in reader:
                row.pop(None, None)  # cells beyond the header
                yield reader.line_num, row
    except UnicodeDecodeError as error:
        raise UserError(
            f"{path}: not {encoding.replace('-sig', '')} ({error.reason}); save it so, or name its own: --encoding of the "
            'draft, or in the file of attributes "encoding": "cp949", which Korean spreadsheets write, or "cp1252", western ones'
        ) from error
    except FileNotFoundError as error:
        raise UserError(f"{path}: no such table") from error
    except (OSError, LookupError, UnicodeError, csv.Error) as error:
        raise UserError(f"{path}: not a readable CSV file ({error})") from error


def _short_lines(file):
    """Lines of a text file, none of them longer than a line can reasonably be."""
    for number, line in enumerate(iter(lambda: file.readline(MAX_LINE + 1), ""), 1):
        if len(line) > MAX_LINE:
            raise csv.Error(f"line {number} is longer than {MAX_LINE} characters")
        yield line


def read_table(path, folder, attributes, labelled=True, boxes=False):
    """Rows of a table.

    Args: `folder` of the photos, which the names must not leave; whether they are there is not looked at. Without
        `labelled`, only the photos' names are read; with `boxes`, boxes too.
    Returns: (list of names, dict attribute -> int64 array `(N,)`, groups and boxes as in `Split`, the latter or None).
    Raises: UserError for a file, column or cell that is missing, for cells that are no class, names that lead out and
        boxes that do.
    """
    layout, photos = attributes.layout, PhotoFolder(folder)
    unknown = {plain_name(value) for value in layout.unknown}
    says_nothing = {"", *unknown}
    readers = {key: _cell_reader(one, unknown) for key, one in attributes.items()} if labelled else {}
    columns = [layout.image, *(attributes[key].column for key in readers)]
    columns += [layout.group] if labelled and layout.group else []
    columns += layout.box if boxes else []
    names, labels, groups, places = [], {key: [] for key in readers}, [], []
    problems, bad = collections.defaultdict(list), 0  # problem -> lines; number of all these lines
    for line, row in read_rows(path, columns, layout.encoding):
        try:
            photos.check(row[layout.image], layout.image)
            values = [read(row[attributes[key].column]) for key, read in readers.items()]
            if boxes:
                box = [row[column] for column in layout.box]
                places.append(letterboxed_box(photos.prefix + row[layout.image], box, layout.exif))
        except ValueError as error:
            problems[str(error)].append(line)
            bad += 1
            if bad == MAX_PROBLEMS:
                break
            continue
        names.append(row[layout.image])
        group = plain_name(row.get(layout.group, ""))
        groups.append(plain_name(row[layout.image]) if group in says_nothing else group)
        for column, value in zip(labels.values(), values):
            column.append(value)
    if problems:
        each = [
            f"line {first}{f' and {len(others)} more' if others else ''}: {problem}"
            for problem, (first, *others) in problems.items()
        ]
        count = f"{bad} bad rows" + (" or more" if bad == MAX_PROBLEMS else "")
        raise UserError(f"{path}: {count}, to be mended or removed:\n{shortened(each)}")
    if not names:
        raise UserError(f"{path}: no rows")
    labels = {key: np.array(values, dtype=np.int64) for key, values in labels.items()}
    return names, labels, groups, np.array(places, np.float32) if boxes else None


def _cell_reader(attribute, unknown):
    """A function of a cell that returns its class's number, or UNKNOWN, or raises ValueError if it is neither."""
    numbers = {**attribute.numbers(), **dict.fromkeys(unknown, UNKNOWN)}

    @functools.lru_cache(maxsize=MAX_CLASSES)
    def read(cell):
        name = plain_name(cell)
        if attribute.contains and name not in unknown:
            values = {plain_name(part) for part in cell.split(attribute.separator)} - {""}
            if values:
                return int(plain_name(attribute.contains) in values)
            name = ""  # separators only
        if name not in numbers and name.isascii() and name.isdigit() and len(name) < 9:
            name = str(int(name))  # 01 is 1
        if name in numbers:
            return numbers[name]
        if not name:
            raise ValueError(f'{attribute.column} is empty; "unknown": [""] in the attributes allows it')
        classes = excerpt(", ".join(f"{number} {one}" for number, one in enumerate(attribute.classes)), 150)
        problem = f"{attribute.column} is {excerpt(cell)}, which is no class; there are {classes}"
        raise ValueError(f'{problem}; "unknown" lists the cells that mean "not known"')

    return read
