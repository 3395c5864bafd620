"""Rows of a table: a CSV file with a photo's name, its labels and its box."""

import codecs
import collections
import csv
import functools
import itertools
import os
import re

import numpy as np

from utils.base.errors import UserError, excerpt, shortened
from utils.base.log import logger
from utils.data.attributes import MAX_CLASSES, UNKNOWN, plain_name
from utils.data.photos import SUFFIXES, letterboxed_box

SEPARATORS = ",;\t"
SEPARATOR_LINE = re.compile(r'"?sep=([,;|\t])"?\s*', re.IGNORECASE)  # before the header, as Excel has it
MAX_CELL = 2**20  # characters of a cell, and of a line
MAX_PROBLEMS = 1000  # of a table, until the rest is not looked at
OPENED = "; a quotation that begins there may not be closed: close it, or remove its mark"
# How files begin that are no CSV, in whatever encoding.
NO_TABLES = {
    b"PK\x03\x04": "a workbook (.xlsx, .ods) or another zip",
    b"\xd0\xcf\x11\xe0": "an old workbook (.xls)",
    b"PAR1": "a Parquet file",
    b"\x1f\x8b": "compressed, by gzip",
    b"<": "HTML or XML",
}


def read_rows(path, columns, encoding="utf-8"):
    """Rows of a CSV file with a header: comma, semicolon or tab, as the first line shows; empty rows are passed over.

    Args: `columns` that it must have, that of the photos' names first; `encoding`, where UTF-8 may begin with a mark.
    Yields: (number of its first line, dict column -> cell).
    Raises: UserError for a file that is none, or that lacks a column; in the end, for rows that do not fit the header.
    """
    last = 0  # line of a row, the last that was read whole
    try:
        codec = codecs.lookup(encoding).name
        _refuse_other_files(path, codec)
        csv.field_size_limit(MAX_CELL)  # for the whole process: not before a table is read
        with open(path, newline="", encoding="utf-8-sig" if codec == "utf-8" else encoding) as file:
            lines = _short_lines(file)
            first, blank = next(lines, ""), 0
            while first and not first.strip(SEPARATORS + " \r\n"):
                first, blank = next(lines, ""), blank + 1
            said = SEPARATOR_LINE.fullmatch(first)
            separator = said.group(1) if said else max(SEPARATORS, key=first.count)
            reader = csv.reader(
                itertools.chain(["\n"] * blank, ["\n" if said else first], lines), delimiter=separator
            )
            header = next(filter(None, reader), [])
            absent = [column for column in dict.fromkeys(columns) if column not in header]
            if absent:
                raise UserError(f"{path}: no column {', '.join(absent)}; there are {', '.join(header)}")
            twice = [column for column in columns if header.count(column) > 1]
            if twice:
                raise UserError(f"{path}: more than one column {twice[0]}; rename all but one")
            place, problems, last = header.index(columns[0]), Problems(path), reader.line_num
            for cells in reader:
                line, last = last + 1, reader.line_num
                problem = _misfit(cells, header, place, separator)
                if problem:
                    problems.add(line, problem)
                elif any(map(str.strip, cells)):
                    yield line, dict(zip(header, itertools.chain(cells, itertools.repeat(""))))
            problems.refuse()
    except UnicodeDecodeError as error:
        raise UserError(
            f"{path}: not {encoding} ({error.reason}); save it so, or name its own: --encoding of the "
            'draft, or in the file of attributes "encoding": "cp949", which Korean spreadsheets write, or "cp1252", western ones'
        ) from error
    except FileNotFoundError as error:
        raise UserError(f"{path}: no such table") from error
    except csv.Error as error:
        raise UserError(f"{path}: not a readable CSV file (line {last + 1}: {error}{OPENED})") from error
    except (OSError, LookupError, UnicodeError) as error:
        raise UserError(f"{path}: not a readable CSV file ({error})") from error


def _refuse_other_files(path, codec):
    with open(path, "rb") as file:
        head = file.read(1024).lstrip(codecs.BOM_UTF8 + b" \t\r\n")
    kind = next((kind for start, kind in NO_TABLES.items() if head.startswith(start)), None)
    wide = head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) or b"\0" in head.split(b"\n")[0]
    if wide and not codec.startswith(("utf-16", "utf-32")):
        kind = kind or 'in UTF-16, whose "encoding" is utf-16, or no text at all'
    if kind:
        way_out = 'save it as "CSV UTF-8" in a spreadsheet, or by to_csv of pandas'
        raise UserError(f"{path}: not a readable CSV file: it is {kind}; {way_out}")


def _short_lines(file):
    """Lines of a text file, none of them longer than a line can reasonably be."""
    for line in iter(lambda: file.readline(MAX_CELL + 1), ""):
        if len(line) > MAX_CELL:
            raise csv.Error(f"longer than {MAX_CELL} characters")
        yield line


def _misfit(cells, header, place, separator):
    """Why a row cannot be taken by this header; None if it can. Args: `place` of the photo's name in it."""
    lines = separator.join(cells).splitlines()
    if len(cells) == len(header) and len(lines) < 2:
        return None
    least = max(number for number, name in enumerate(header, 1) if name.strip())
    # A cell may hold line breaks, but no rows: as many cells, the photo's name among them.
    endings = (*SUFFIXES, os.path.splitext("".join(cells[place : place + 1]))[1].lower())
    rows = [one for one in (line.split(separator) for line in lines) if len(one) >= least]
    if sum(one[place].strip(' "').lower().endswith(endings) for one in rows) > 1:
        return f"{len(lines)} lines in one row{OPENED}"
    if any(map(str.strip, cells)) and (len(cells) < least or any(map(str.strip, cells[len(header) :]))):
        way_out = f"a cell that holds {separator!r} needs quotation marks, an empty one its separator"
        return f"{len(cells)} cells, and the header has {len(header)}; {way_out}"
    return None


class Problems:
    """Problems of a table, each with its lines."""

    def __init__(self, path):
        self.path, self.lines, self.count = path, collections.defaultdict(list), 0

    def add(self, line, problem):
        self.lines[str(problem)].append(line)
        self.count += 1
        if self.count == MAX_PROBLEMS:
            self.refuse()

    def refuse(self):
        """UserError, if there are any."""
        each = [
            f"line {first}{f' and {len(others)} more' if others else ''}: {problem}"
            for problem, (first, *others) in self.lines.items()
        ]
        if each:
            count = f"{self.count} bad rows" + (" or more" if self.count == MAX_PROBLEMS else "")
            raise UserError(f"{self.path}: {count}, to be mended or removed:\n{shortened(each)}")


def read_table(path, photos, attributes, labelled=True, boxes=False):
    """Rows of a table.

    Args: `photos`, the `PhotoFolder` of the names, which they must not leave; whether they are there is not looked at.
        Without `labelled`, only the photos' names are read; with `boxes`, boxes too.
    Returns: (list of names, dict attribute -> int64 array `(N,)`, groups and boxes as in `utils.data.dataset.Table`, the latter or None).
    Raises: UserError for a file, column or cell that is missing, for cells that are no class, names that lead out and
        boxes that do.
    """
    layout = attributes.layout
    unknown = {plain_name(value) for value in layout.unknown}
    says_nothing = {"", *unknown}
    readers = {key: _cell_reader(one, unknown) for key, one in attributes.items()} if labelled else {}
    columns = [layout.image, *(attributes[key].column for key in readers)]
    columns += [layout.group] if labelled and layout.group else []
    columns += layout.box if boxes else []
    names, labels, groups, places = [], {key: [] for key in readers}, [], []
    problems = Problems(path)
    for line, row in read_rows(path, columns, layout.encoding):
        try:
            file = photos.find(row[layout.image], layout.image)
            values = [read(row[attributes[key].column]) for key, read in readers.items()]
            if boxes:
                box = [row[column] for column in layout.box]
                places.append(letterboxed_box(photos.prefix + file, box, layout.exif))
        except ValueError as error:
            problems.add(line, error)
            continue
        names.append(row[layout.image])
        group = plain_name(row.get(layout.group, ""))
        groups.append(plain_name(file) if group in says_nothing else group)
        for column, value in zip(labels.values(), values):
            column.append(value)
    problems.refuse()
    if not names:
        raise UserError(f"{path}: no rows")
    if photos.found:
        name, file = next(iter(photos.found.items()))
        said = f"{len(photos.found)} photos are called otherwise on the disk"
        logger.warning(f"warning: {path}: {said}, such as {excerpt(name)}: {excerpt(file)}")
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
        number = re.fullmatch(r"([0-9]{1,8})(\.0*)?", name)
        if name not in numbers and number:
            name = str(int(number.group(1)))  # 01 is 1, and so is 1.0, as pandas writes it beside empty cells
        if name in numbers:
            return numbers[name]
        if not name:
            raise ValueError(f'{attribute.column} is empty; "unknown": [""] in the attributes allows it')
        classes = excerpt(", ".join(f"{number} {one}" for number, one in enumerate(attribute.classes)), 150)
        problem = f"{attribute.column} is {excerpt(cell)}, which is no class; there are {classes}"
        raise ValueError(f'{problem}; "unknown" lists the cells that mean "not known"')

    return read


def count_classes(labels, classes):
    """How often each class occurs, int64 `(classes,)`; labels that are not known do not count."""
    return np.bincount(labels[labels != UNKNOWN], minlength=classes)
