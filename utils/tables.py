"""Tables: CSV files of any of three separators, read as text, line by line."""

import codecs
import csv

from utils.errors import UserError

MAX_LINE = 65_536  # characters
SEPARATORS = ",;\t"


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
            header = next(csv.reader([first], delimiter=separator), [])
            absent = [column for column in columns if column not in header]
            if absent:
                raise UserError(
                    f"{path}: no column {', '.join(absent)}; there are {', '.join(header) or 'none'}"
                )
            twice = [column for column in columns if header.count(column) > 1]
            if twice:
                raise UserError(f"{path}: more than one column {twice[0]}; rename all but one")
            reader = csv.reader(lines, delimiter=separator)
            for row in reader:
                if row:
                    yield reader.line_num + 1, dict(zip(header, row + [""] * (len(header) - len(row))))
    except UnicodeDecodeError as error:
        raise UserError(
            f"{path}: not {encoding.replace('-sig', '')} ({error.reason}); save it as UTF-8, or "
            'name its encoding in the file of attributes, such as "encoding": "cp949", which Korean spreadsheets write'
        ) from error
    except (OSError, LookupError, UnicodeError, csv.Error) as error:
        raise UserError(f"{path}: not a readable CSV file ({error})") from error


def _short_lines(file):
    """Lines of a text file, none of them longer than a line can reasonably be."""
    for number, line in enumerate(iter(lambda: file.readline(MAX_LINE + 1), ""), 1):
        if len(line) > MAX_LINE:
            raise csv.Error(f"line {number} is longer than {MAX_LINE} characters")
        yield line
