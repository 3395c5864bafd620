"""Drafts a file of attributes from a table.

python -m utils.tools.draft TABLE.csv --image COLUMN --photos FOLDER --output FILE.json
"""

import json
import os
import shlex
import sys

import pandas

from utils.base.cli import Parser, exit_code, new_file
from utils.base.errors import UserError, shortened, visible
from utils.base.files import atomic
from utils.base.log import table
from utils.data.attributes import MAX_NAME, UNKNOWN, Attributes, is_text, plain_name
from utils.data.dataset import MISSING, read_tables
from utils.data.tables import count_classes, read_rows

SHARE = 0.2  # held out for validation
MOST = 50  # different values of a column that becomes an attribute
FEW = 10  # photos of a class: fewer are pointed out
SEPARATORS = "|;,"  # of the values of one cell
SEVERAL = 0.1  # share of the cells that hold one, in a column whose cells are lists
OFTEN = 20  # photos that have a value of such a list, for it to become an attribute
HEADER = ("attribute", "classes", "largest", "not known", f"under {FEW} photos", "none held out")


def draft(path, image, photos, encoding="utf-8"):
    """A file of attributes for a table: each column with 2 to 50 different values becomes an attribute; of a column
    whose cells are lists, each value that 20 photos or more have.

    Args: `image`, the column with the photo's name; `photos`, their folder, relative to the table's.
    Returns: (content of the file, a line for each column that is left out). Raises: UserError if it would hold no attribute.
    """
    frame = pandas.DataFrame(read_rows(path, [image], encoding), dtype=str)
    attributes, left_out = {}, []
    for column in frame.columns.drop(image, errors="ignore"):
        cells = frame[column].str.split().str.join(" ")
        known = cells[cells != ""]
        separator, values = _lists(known)
        reason = _why_not(column, known, separator)
        if reason:
            left_out.append(f"{column or '(no name)'}: {reason}")
            continue
        # Of spellings that `plain_name` does not tell apart, the most frequent stands for all.
        groups = values.groupby(values.map(plain_name).to_numpy())
        spellings = {one.value_counts().index[0]: one.index for _, one in groups}
        found = {column: {"column": column, "classes": {key: {} for key in spellings}}}
        if separator is not None:
            about, known_photos = {"column": column, "separator": separator}, values.index.nunique()
            often = [one for one, rows in spellings.items() if OFTEN <= rows.nunique() < known_photos]
            named = {f"{column} {one}": {**about, "contains": one} for one in often}
            found = {name: attribute for name, attribute in named.items() if is_text(name)}
            if len(found) < len(spellings):
                rare = f"{len(spellings) - len(found)} of its {len(spellings)} values"
                left_out.append(f"{column}: {rare}: under {OFTEN} photos, or all")
        for text, attribute in found.items():
            name = text.replace("/", " ")
            while name in attributes:
                name += " 2"
            attributes[name] = attribute
    if not attributes:
        raise UserError(f"{path}: no column can be an attribute:\n{shortened(left_out)}")
    content = {"image": image, "train": {"table": os.path.basename(path), "photos": photos}, "val": SHARE}
    content.update({"unknown": [""], "exif": True, "attributes": attributes})
    for name, one in Attributes(content, path).items():
        attributes[name]["classes"] = {
            key: {"prompt": said} for key, (said,) in zip(one.classes, one.prompts)
        }
    return content if encoding == "utf-8" else {"encoding": encoding, **content}, left_out


def _lists(known):
    """Whether a column's cells are lists: (separator, values of all cells, by the cell's row), or (None, cells) if not.

    Most values of a list come again, in other company, too. Parts of sentences do not, nor those of one class's name.
    """
    plain = known.map(plain_name)
    # Lists in the form of a program's would be taken apart with their quotation marks.
    for separator in "" if known.str.startswith("[").any() else SEPARATORS:
        values = known.str.split(separator).explode().str.strip()
        values = values[values != ""]
        found = pandas.DataFrame({"value": values.map(plain_name), "photo": values.index})
        found["cell"] = found["photo"].map(plain).to_numpy()
        counts = found.groupby("value").nunique()
        again = counts["photo"][(counts["photo"] >= OFTEN) & (counts["cell"] > 1)].sum()
        several = known.str.contains(separator, regex=False).mean()
        if several >= SEVERAL and again >= len(found) / 2:
            return separator, values
    return None, known


def _why_not(column, known, separator):
    """Why a column is no attribute; None if it is one. Args: its cells that say something; as of `_lists`."""
    count = known.map(plain_name).nunique()
    hint = f'; if it tells products, each with several photos, add "group": "{column}"'
    hint = hint if len(known) > 1.5 * count else ""
    amounts = known.str.replace(",", ".", regex=False).str.replace(r"[€$£¥₩]|EUR|USD|KRW", "", regex=True)
    numbers = pandas.to_numeric(amounts, errors="coerce")
    if not is_text(column):
        return "its name is empty or cannot be used"
    if count < 2:
        return "fewer than 2 different values"
    if numbers.notna().all():
        apart = numbers.max() - numbers.min() >= 2 * count
        parts = (numbers % 1 != 0).any()
        if parts or apart or len(known) < 5 * count:
            return f"numbers that look like a measure or an id{'' if parts else hint}"
    if separator is not None:
        return None
    if count > MOST:
        return f"{count} different values, more than {MOST}{hint}"
    if len(known) < 2 * count:
        return "nearly every row has a value of its own"
    if not all(map(is_text, known.unique())):
        return f"values that are longer than {MAX_NAME} characters or cannot be printed"
    return None


def _figures(name, attributes, tables):
    """The row of an attribute in the table that is shown."""
    train, val = (count_classes(one.labels[name], attributes.sizes[name]) for one in tables.values())
    counts, unknown = train + val, sum((one.labels[name] == UNKNOWN).sum() for one in tables.values())
    share = f"{counts.max() / counts.sum():.0%}"
    return name, len(counts), share, unknown, (counts < FEW).sum(), (val == 0).sum()


# fmt: off
def get_args_parser():
    p = Parser(prog="python -m utils.tools.draft", description=__doc__.splitlines()[0])
    p.add_argument("table", help="CSV file with a header, a row for each photo", metavar="TABLE.csv")
    p.add_argument("--image", required=True, help="column with the photo's name", metavar="COLUMN")
    p.add_argument("--photos", required=True, help="folder of the photos, relative to the table's", metavar="FOLDER")
    p.add_argument("--output", type=new_file, required=True, help="file to write", metavar="FILE.json")
    p.add_argument("--encoding", default="utf-8", help="of the table, such as cp949", metavar="NAME")
    p.photo_options(p)
    return p
# fmt: on


def main(argv=None):
    args = get_args_parser().parse_args(argv)
    data_dir = os.path.dirname(args.table) or "."
    if not os.path.isdir(os.path.join(data_dir, args.photos)):
        raise UserError(f"--photos {args.photos}: no such folder in {data_dir}, the table's")
    if os.path.exists(args.output):
        raise UserError(f"--output {args.output}: is there already, perhaps edited; name another file")
    content, left_out = draft(args.table, args.image, args.photos, args.encoding)
    how = {"skip_unreadable": args.skip_unreadable, "follow_links": args.follow_links}
    attributes = Attributes(content, args.output)
    tables = read_tables(data_dir, attributes, **how)  # as training will
    print("\n".join(table([_figures(name, attributes, tables) for name in attributes], HEADER)))
    print("".join(f"left out: {visible(line)}\n" for line in left_out), end="")
    missing = sum(split.stamps.count(MISSING) for split in tables.values())
    if missing:
        print(f"{missing} photos of the table are missing and left out")
    with atomic(args.output) as file:
        file.write(json.dumps(content, ensure_ascii=False, indent=1) + "\n")
    print(f"{args.output}: {len(attributes)} attributes; mend its prompts, in English. Then train with")
    print(f"  --attributes {shlex.quote(args.output)} --data-dir {shlex.quote(data_dir)}")


if __name__ == "__main__":
    sys.exit(exit_code(main))
