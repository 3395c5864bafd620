"""Drafts a file of attributes from a table.

python -m utils.attributes TABLE.csv --image COLUMN --photos FOLDER --output FILE.json
"""

import json
import os
import sys

import pandas

from utils.attributes import MAX_NAME, PROMPT, Attributes, plain_name
from utils.cli import Parser, check_folder_of, exit_code
from utils.dataset import is_held_out, read_rows
from utils.errors import UserError, shortened
from utils.files import atomic
from utils.log import table

SHARE = 0.2  # held out for validation
MOST = 50  # different values of a column that becomes an attribute
FEW = 10  # photos of a class: fewer are pointed out
HEADER = f"column/classes/largest/not known/under {FEW} photos/none held out/other spellings".split("/")


def draft(path, image, photos, encoding="utf-8"):
    """A file of attributes for a table: each column with 2 to 50 different values becomes an attribute.

    Args: `image`, the column with the photo's name; `photos`, their folder, relative to the table's.
    Returns: (content of the file, a row of figures for each attribute, a line for each column that is left out).
    """
    frame = pandas.DataFrame([row for _, row in read_rows(path, [image], encoding)], dtype=str)
    held_out = frame[image].map(lambda name: is_held_out(name, SHARE)).astype(bool)
    attributes, figures, left_out = {}, [], []
    for column in frame.columns.drop(image, errors="ignore"):
        cells = frame[column].str.split().str.join(" ")
        known = cells[cells != ""]
        plain = known.map(plain_name)
        reason = _why_not(column, known, pandas.to_numeric(known, errors="coerce"))
        if reason:
            left_out.append(f"{column or '(no name)'}: {reason}")
            continue
        counts = plain.value_counts()
        # Of spellings that differ by case or blanks only, the most frequent stands for all.
        classes = [known[plain == name].value_counts().index[0] for name in sorted(counts.index)]
        name = column.replace("/", " ")
        prompts = {one: {"prompt": PROMPT.format(attribute=name, name=one)} for one in classes}
        attributes[name] = {"column": column, "classes": prompts}
        spellings = known.nunique() - len(classes)
        unseen = len(classes) - plain[held_out].nunique()
        share, few = f"{counts.iloc[0] / len(plain):.0%}", int((counts < FEW).sum())
        figures.append([column, len(classes), share, len(cells) - len(known), few, unseen, spellings])
    content = {"image": image, "train": {"table": os.path.basename(path), "photos": photos}, "val": SHARE}
    content.update({"unknown": [""], "exif": True, "attributes": attributes})
    return content if encoding == "utf-8" else {"encoding": encoding, **content}, figures, left_out


def _why_not(column, known, numbers):
    """Why a column is no attribute; None if it is one. Args: its cells that say something, as text and as numbers."""
    count = known.map(plain_name).nunique()
    if not (column.strip() and column.isprintable() and len(column) <= MAX_NAME):
        return "its name is empty or cannot be used"
    if count < 2:
        return "fewer than 2 different values"
    if numbers.notna().all():
        apart = numbers.max() - numbers.min() >= 2 * count
        if (numbers % 1 != 0).any() or apart or len(known) < 5 * count:
            return "numbers that look like a measure or an id"
    if count > MOST:
        return f"{count} different values, more than {MOST}"
    if len(known) < 2 * count:
        return "nearly every row has a value of its own"
    if not all(one.isprintable() and len(one) <= MAX_NAME for one in known.unique()):
        return f"values that are longer than {MAX_NAME} characters or cannot be printed"
    return None


# fmt: off
def get_args_parser():
    p = Parser(prog="python -m utils.attributes", description=__doc__.splitlines()[0])
    p.add_argument("table", help="CSV file with a header, a row for each photo", metavar="TABLE.csv")
    p.add_argument("--image", required=True, help="column with the photo's name", metavar="COLUMN")
    p.add_argument("--photos", required=True, help="folder of the photos, relative to the table's", metavar="FOLDER")
    p.add_argument("--output", required=True, help="file to write", metavar="FILE.json")
    p.add_argument("--encoding", default="utf-8", help="of the table, such as cp949", metavar="NAME")
    return p
# fmt: on


def main(argv=None):
    args = get_args_parser().parse_args(argv)
    check_folder_of(args.output)
    data_dir = os.path.dirname(args.table) or "."
    if not os.path.isdir(os.path.join(data_dir, args.photos)):
        raise UserError(f"--photos {args.photos}: no such folder in {data_dir}, the table's")
    if os.path.exists(args.output):
        raise UserError(f"--output {args.output}: is there already, perhaps edited; name another file")
    content, figures, left_out = draft(args.table, args.image, args.photos, args.encoding)
    if not figures:
        raise UserError(f"{args.table}: no column can be an attribute:\n{shortened(left_out)}")
    Attributes(content, args.output)  # which finds what is wrong with it
    print("\n".join(table(figures, HEADER)))
    print("".join(f"left out: {line}\n" for line in left_out), end="")
    with atomic(args.output) as file:
        file.write(json.dumps(content, ensure_ascii=False, indent=1) + "\n")
    print(f"{args.output}: {len(figures)} attributes; look at it, and mend its prompts. Then train with")
    print(f"  --attributes {args.output} --data-dir {data_dir}")


if __name__ == "__main__":
    sys.exit(exit_code(main))
