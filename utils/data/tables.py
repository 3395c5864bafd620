"""Rows of a table: a CSV file with a photo's name, its labels and its box."""

import codecs
import csv
import functools
import itertools
import os
import re
from typing import List, NamedTuple

import numpy as np

from utils.base.errors import UserError, counted, excerpt, not_readable, shortened
from utils.base.log import logger
from utils.data.attributes import MAX_CLASSES, UNKNOWN, is_number, plain_name
from utils.data.photos import SUFFIXES

SEPARATORS = ",;\t"
BLANK = SEPARATORS + " \r\n"  # what is in a line that says nothing
SEPARATOR_LINE = re.compile(r'"?sep=([,;|\t])"?\s*', re.IGNORECASE)  # before the header, as Excel has it
# How files begin that are no CSV, in whatever encoding.
NO_TABLES = {
    b"PK\x03\x04": "a workbook (.xlsx, .ods) or another zip",
    b"\xd0\xcf\x11\xe0": "an old workbook (.xls)",
    b"PAR1": "a Parquet file",
    b"\x1f\x8b": "compressed, by gzip",
    b"<": "HTML or XML",
}
MAX_CELL = 2**20  # characters of a cell, and of a line
MAX_PROBLEMS = 1000  # of a table, until the rest is not looked at
FILLED, BETWEEN = "filled", ", "  # the column that tells what predict.py has filled, and what parts it
OPENED = "; a quotation that begins there may not be closed: close it, or remove its mark"


class Form(NamedTuple):
    """How a table is written, so that another can be written like it."""

    encoding: str  # utf-8-sig if it begins with a mark
    before: str  # the lines in front of the header
    separator: str
    line_end: str
    header: List[str]


def raw_rows(path, encoding="utf-8"):
    """A CSV file with a header as it is: comma, semicolon or tab, as the first line shows. It is read line by line.

    Yields: first its `Form`, then (number of the line, list of cells) of each row, the empty ones among them.
    Raises: UserError for a file that is none.
    """
    last = 0  # number of the last line that was read whole
    try:
        codec = _codec(path, encoding)
        csv.field_size_limit(MAX_CELL)  # for the whole process: not before a table is read
        with open(path, newline="", encoding=codec) as file:
            lines = _short_lines(file)
            before, said, first = [], None, next(lines, "")
            while first and (not first.strip(BLANK) or (not said and SEPARATOR_LINE.fullmatch(first))):
                said = said or SEPARATOR_LINE.fullmatch(first)
                before.append(first)
                first = next(lines, "")
            separator = said[1] if said else max(SEPARATORS, key=first.count)
            line_end = first[len(first.rstrip("\r\n")) :] or "\n"
            reader = csv.reader(itertools.chain([first], lines), delimiter=separator)
            yield Form(codec, "".join(before), separator, line_end, next(reader, []))
            last = len(before) + reader.line_num
            for cells in reader:
                yield last + 1, cells
                last = len(before) + reader.line_num
    except UnicodeDecodeError as error:
        way_out = 'save it as "CSV UTF-8", or name its own: "encoding": "cp949", --encoding of the draft'
        raise UserError(f"{path}: no text in {encoding} ({error.reason}); {way_out}") from error
    except csv.Error as error:
        raise UserError(f"{path}: not a readable CSV file (line {last + 1}: {error}{OPENED})") from error
    except (OSError, LookupError, UnicodeError) as error:
        raise not_readable(path, "CSV file", error) from error


def read_rows(path, columns, encoding="utf-8", read=dict):
    """Rows of a table, as of `raw_rows`; empty rows are passed over.

    Args: `columns` that it must have, that of the photos' names first; `encoding`, where UTF-8 may begin with a mark; `read`,
        what is made of each row, a dict column -> cell. It raises ValueError for one that cannot be taken.
    Yields: what `read` returned.
    Raises: UserError for a file that is none, or that lacks a column, and at the end one that lists all rows that cannot be taken.
    """
    rows, found, problems = raw_rows(path, encoding), 0, {}  # problem -> the first line that has it
    form, bad = next(rows), 0
    name_at = _check_header(path, form.header, columns)
    for line, cells in rows:
        try:
            _check_cells(cells, form.header, name_at, form.separator)
            if any(map(str.strip, cells)):
                yield read(dict(zip(form.header, itertools.chain(cells, itertools.repeat("")))))
                found += 1
        except ValueError as error:
            problems.setdefault(str(error), line)
            bad += 1
            if bad == MAX_PROBLEMS:
                break
    if problems:
        more = " or more" if bad == MAX_PROBLEMS else ""
        count = f"{counted(bad, 'bad row', 'bad rows')}{more}, to be mended or removed"
        each = shortened(f"line {line}: {problem}" for problem, line in problems.items())
        raise UserError(f"{path}: {count}; each problem with its first line:\n{each}")
    if not found:
        raise UserError(f"{path}: no rows")


def _codec(path, encoding):
    """The name of the encoding, which tells whether UTF-8 begins with a mark. Raises: UserError for a file that is no table."""
    codec = codecs.lookup(encoding).name
    with open(path, "rb") as file:
        start = file.read(1024)
    head = start.lstrip(codecs.BOM_UTF8 + b" \t\r\n")
    kind = next((kind for start, kind in NO_TABLES.items() if head.startswith(start)), None)
    is_wide = head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) or b"\0" in head.split(b"\n")[0]
    if is_wide and not codec.startswith(("utf-16", "utf-32")):
        kind = kind or 'in UTF-16, whose "encoding" is utf-16, or no text at all'
    if kind:
        raise UserError(f'{path}: not a readable CSV file: it is {kind}; save it as "CSV UTF-8"')
    is_utf8 = codec in ("utf-8", "utf-8-sig")
    return ("utf-8-sig" if start.startswith(codecs.BOM_UTF8) else "utf-8") if is_utf8 else codec


def _short_lines(file):
    """Lines of a text file, none of them longer than a line can reasonably be."""
    for line in iter(lambda: file.readline(MAX_CELL + 1), ""):
        if len(line) > MAX_CELL:
            raise csv.Error(f"longer than {MAX_CELL} characters")
        yield line


def _check_header(path, header, columns):
    """Where in the header the photo's name stands, the first of the `columns`. Raises: UserError if it has not each once."""
    absent = [column for column in dict.fromkeys(columns) if column not in header]
    if absent:
        raise UserError(f"{path}: no column {', '.join(absent)}; there are {', '.join(header)}")
    for column in columns:
        if header.count(column) > 1:
            raise UserError(f"{path}: more than one column {column}; rename all but one")
    return header.index(columns[0])


def _check_cells(cells, header, name_at, separator):
    """ValueError if a row does not fit the header, in which the photo's name stands at `name_at`."""
    lines = separator.join(cells).splitlines()
    if len(cells) == len(header) and len(lines) < 2:
        return
    least = max(number for number, name in enumerate(header, 1) if name.strip())
    # A cell may hold line breaks, but no rows: as many cells, the photo's name among them.
    endings = (*SUFFIXES, os.path.splitext("".join(cells[name_at : name_at + 1]))[1].lower())
    rows = [one for one in (line.split(separator) for line in lines) if len(one) >= least]
    if sum(one[name_at].strip(' "').lower().endswith(endings) for one in rows) > 1:
        raise ValueError(f"{len(lines)} lines in one row{OPENED}")
    if any(map(str.strip, cells)) and (len(cells) < least or any(map(str.strip, cells[len(header) :]))):
        way_out = f"a cell that holds {separator!r} needs quotation marks, an empty one its separator"
        raise ValueError(f"{len(cells)} cells, and the header has {len(header)}; {way_out}")


def read_table(path, photos, attributes, boxes=False, strict=True):
    """Rows of a table.

    Args: `photos`, the `PhotoFolder` of the names, which they must not leave; whether they are there is not looked at.
        With `boxes`, boxes are read, too; unless it is `strict`, a cell that is no class has no label. A cell that `predict.py --fill` has
        filled has none either: a network would learn, and be measured by, what one has said.
    Returns: (list of names, dict attribute -> int64 array `(N,)`, groups as in `utils.data.dataset.Table`, boxes in the photos' own
        pixels, float64 `(N, 4)`, or None).
    Raises: UserError for a file, column or cell that is missing, for cells that are no class or box, and names that lead out.
    """
    layout = attributes.layout
    unknown = {plain_name(value) for value in layout.unknown}
    readers = {key: (one.column, _cell_reader(one, unknown, strict)) for key, one in attributes.items()}

    def read(row):
        name = row[layout.image]
        file = photos.find(name, layout.image)
        done = row.get(FILLED, "").split(BETWEEN)
        numbers = [UNKNOWN if key in done else one(row[column]) for key, (column, one) in readers.items()]
        group = plain_name(row.get(layout.group, ""))
        group = plain_name(file) if group in {"", *unknown} else group
        box = boxes and _box([row[column] for column in layout.box])
        return name, numbers, group, box

    columns = [layout.image, *(column for column, _ in readers.values())]
    columns += [*filter(None, [layout.group]), *(layout.box if boxes else ())]
    names, numbers, groups, found = zip(*read_rows(path, columns, layout.encoding, read))
    warn_renamed(path, photos.found)
    labels = {key: np.array(column, dtype=np.int64) for key, column in zip(readers, zip(*numbers))}
    return list(names), labels, list(groups), np.array(found) if boxes else None


def _box(cells):
    try:
        return list(map(float, cells))
    except ValueError:
        raise ValueError(f"box {excerpt(', '.join(cells))}: not four numbers") from None


def warn_renamed(path, found):
    """Say how many photos of a table have another name on the disk. Args: `found` of the `PhotoFolder`."""
    if found:
        name, file = next(iter(found.items()))
        said = counted(len(found), "photo is called", "photos are called") + " otherwise on the disk"
        logger.warning(f"warning: {path}: {said}, such as {excerpt(name)}: {excerpt(file)}")


def _cell_reader(attribute, unknown, strict):
    """A function of a cell that returns its class's number, or UNKNOWN; if it is neither, it raises ValueError, unless `strict` is False."""
    silent = unknown.union(map(plain_name, attribute.ignore))
    numbers = {plain_name(name): number for number, name in enumerate(attribute.classes)}
    if not any(map(is_number, attribute.classes)):
        numbers.update({str(number): number for number in numbers.values()})
    numbers.update(dict.fromkeys(silent, UNKNOWN))

    @functools.lru_cache(maxsize=MAX_CLASSES)
    def read(cell):
        name = plain_name(cell)
        if attribute.contains and name not in silent:
            values = {plain_name(part) for part in cell.split(attribute.separator)} - {""}
            if values:
                return int(plain_name(attribute.contains) in values)
            name = ""  # separators only
        number = re.fullmatch(r"([0-9]{1,8})(\.0*)?", name)
        if name not in numbers and number:
            name = str(int(number.group(1)))  # 01 is 1, and so is 1.0, as pandas writes it beside empty cells
        if name in numbers or not strict:
            return numbers.get(name, UNKNOWN)
        if not name:
            raise ValueError(f'{attribute.column} is empty; "unknown": [""] in the attributes allows it')
        classes = excerpt(", ".join(f"{number} {one}" for number, one in enumerate(attribute.classes)), 150)
        way_out = f'there are {classes}; "unknown" lists the cells that mean "not known", "ignore" others'
        raise ValueError(f"{attribute.column} is {excerpt(cell)}, which is no class; {way_out}")

    return read


def count_classes(labels, classes):
    """How often each class occurs, int64 `(classes,)`; labels that are not known do not count."""
    return np.bincount(labels[labels != UNKNOWN], minlength=classes)
