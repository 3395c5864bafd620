"""Drafts a file of attributes from a table, or from a folder that has a folder of photos for each class.

python -m utils.tools.draft TABLE.csv --image COLUMN --photos FOLDER --output FILE.json
python -m utils.tools.draft FOLDER --output FILE.json
"""

import contextlib
import os
import shlex
import sys

import pandas

from utils.base.cli import Parser, exit_code, new_file, number
from utils.base.errors import UserError, counted, listed, shortened, visible
from utils.base.files import write_csv, write_json
from utils.base.log import table
from utils.data.attributes import MAX_NAME, Attributes, is_text, plain_name
from utils.data.dataset import MISSING, read_tables
from utils.data.folders import find_photos
from utils.data.tables import FILLED, count_classes, read_rows
from utils.evaluation.metrics import are_alike

SHARE = 0.2  # held out for validation
MOST = 100  # classes of a column that becomes an attribute
FEW = 3  # held-out photos of a class: fewer are pointed out
SHOWN = 20  # names in a line
HEADER = ("attribute", "classes", "largest", "not known", "ignored", f"under {FEW} held out")
# Folders that may stand above those of the classes, and the parts of the data set that they are.
PARTS = {"train": "train", "val": "val", "valid": "val", "test": "test"}

# Columns of lists.
SEPARATORS = "|;,"  # of the values of one cell
SEVERAL = 0.1  # share of the cells that hold one
OFTEN = 20  # photos of a value that comes again

# Columns of numbers, some with a unit, or with a sign between thousands.
UNIT = r"(?:[€$£¥₩₹%\"]|(?i:eur|usd|gbp|krw|jpy|chf|[mck]m|inch|in|[mk]?g|oz|lbs?|[mc]l|den)|[ml]|원|円|元)"
AMOUNT = rf"^(?:{UNIT} ?)?([+-]?[\d.,' ]*\d)(?: ?{UNIT})?$"
THOUSANDS = r"[.,' ](?=\d{3}(?:\D|$))"
DATE = r"(?:(?:19|20)\d\d[-./]\d\d?|\d\d?[-./]\d\d?[-./](?:19|20)?\d\d)(?!\d).*"
MOSTLY = 0.9  # share of a column's cells that are such
YEARS, UNITS, MEASURE = MEASURES = "years or dates", "numbers with a unit", "numbers that look like a measure"

# Columns that tell products.
NAMES = r"\d|\S+ \S+ \S"  # numbers, or several words
MOST_ROWS = 20  # of one product, on average
AGREE = 0.8  # how far they agree in another column: 0, as any two rows do, to 1, always


def draft(source, frame, content, min_photos=10, group=None, is_named=False):
    """A file of attributes for the rows of a table: each column with 2 to 100 classes becomes an attribute; of a column
    whose cells are lists, each value that some photos have, and others have not.

    Args: `source`, for messages; `frame`, texts; `content`, what the file says of tables and photos; `min_photos`,
        classes of fewer are ignored; `group`, the column that tells products, "none" for none; without, it is looked for;
        `is_named`, whether cells are names, as those of folders are: no lists, and no numbers.
    Returns: (content of the file, lines about the columns that are no attributes).
    Raises: UserError if the file would hold no attribute.
    """
    attributes, left_out, cells = {}, {}, {}
    ours = [FILLED] if frame.columns.str.endswith("_confidence").any() else []  # of predict.py --fill
    for column in frame.columns.drop([content["image"], group, *ours], errors="ignore"):
        known = frame[column].str.split().str.join(" ")
        known = known[known != ""]
        cells[column] = known.map(plain_name)
        found, reason = _found(column, known, cells[column], min_photos, is_named)
        left_out.update({column: reason} if reason else {})
        for text, attribute in found.items():
            name = text.replace("/", " ")
            while name in attributes:
                name += " 2"
            attributes[name] = attribute
    if not attributes:
        reasons = shortened(map(": ".join, left_out.items()))
        raise UserError(f"{source}: no column can be an attribute:\n{reasons}")
    others = {one["column"] for one in attributes.values()}
    names = [name for name, why in left_out.items() if name not in others and why not in MEASURES]
    values = {name: cells[name].nunique() for name in names}
    shared = [name for name in names if values[name] < len(cells[name]) <= MOST_ROWS * values[name]]
    products = [name for name in shared if any(_agree(cells[name], cells[other]) for other in others)]
    lines = []
    if group is None and products:
        # Of the fewest values: a product on both sides of the split is worse than two that stay together.
        group = min(products, key=values.get)
        said = "rows that share one agree as photos of one product do, and are held out together"
        lines = [f"group: {group}, {values[group]} values: {said} (--group none, or another)"]
    left_out.pop(group, None)
    for name, reason in left_out.items():
        hint = f'; if it tells products, each with several photos, add "group": "{name}"'
        lines.append(f"left out: {name or '(no name)'}: {reason}{hint if name in shared else ''}")
    grouped = {} if group in (None, "none") else {"group": group}
    content = {**content, **grouped, "unknown": [""], "exif": True, "attributes": attributes}
    for name, one in Attributes(content, source).items():
        prompts = zip(one.classes, one.prompts)
        attributes[name]["classes"] = {key: {"prompt": said} for key, (said,) in prompts}
    return content, lines


def _found(column, known, plain, min_photos, is_named):
    """What a column becomes: (name -> attribute of the file, why it or something of it is left out, or None).

    Args: its cells that say something, and these as `plain_name` makes them.
    """
    separator, values = (None, known) if is_named else _lists(known, plain)
    # Of spellings that `plain_name` does not tell apart, the most frequent stands for all.
    groups = values.groupby(values.map(plain_name).to_numpy())
    photos = {one.value_counts().index[0]: one.index.nunique() for _, one in groups}
    # What is no number is taken as it is.
    reason = _why_not(column, "_" + known if is_named else known, separator, photos, min_photos)
    if reason:
        return {}, reason
    if separator is None:
        often = {name: {} for name, count in photos.items() if count >= min_photos}
        rare = [name for name in photos if name not in often]
        return {column: {"column": column, "classes": often, "ignore": rare}}, None
    most, found = values.index.nunique() - min_photos, {}
    for value, count in photos.items():
        name = f"{column} {value}"
        if min_photos <= count <= most and is_text(name):
            found[name] = {"column": column, "separator": separator, "contains": value}
    rare = f"{len(photos) - len(found)} of its {len(photos)} values"
    return found, f"{rare}: too few photos have them, or have not" if len(found) < len(photos) else None


def _lists(known, plain):
    """Whether a column's cells are lists: (separator, values of all cells, by the cell's row), or (None, cells) if not.

    Most values of a list come again, in other company, too. Parts of sentences do not, nor those of one class's name.
    """
    # Lists in the form of a program's would be taken apart with their quotation marks.
    for separator in "" if known.str.startswith("[").any() else SEPARATORS:
        values = known.str.split(separator).explode().str.strip()
        values = values[values != ""]
        found = pandas.DataFrame({"value": values.map(plain_name), "photo": values.index})
        found["cell"] = found["photo"].map(plain).to_numpy()
        counts = found.groupby("value").nunique()
        again = counts["photo"][(counts["photo"] >= OFTEN) & (counts["cell"] > 1)].sum()
        if known.str.contains(separator, regex=False).mean() >= SEVERAL and again >= len(found) / 2:
            return separator, values
    return None, known


def _why_not(column, known, separator, photos, min_photos):
    """Why a column is no attribute; None if it is one. Args: its cells that say something; as of `_lists`; value -> its photos."""
    amounts = known.str.extract(AMOUNT, expand=False)
    plain = amounts.str.replace(THOUSANDS, "", regex=True).str.replace(",", ".", regex=False)
    numbers = pandas.to_numeric(plain, errors="coerce")
    mostly, count = numbers.notna().mean() >= MOSTLY, numbers.nunique()
    apart = numbers.max() - numbers.min() >= 2 * count or len(known) < 5 * count
    words, often = separator is None, [name for name, its in photos.items() if its >= min_photos]
    few = len(often) < 2 or 2 * sum(map(photos.get, often)) < len(known)
    several = f"{len(photos)} different values, {len(often)} of them on {min_photos} photos or more"
    reasons = {
        "its name is empty or cannot be used": not is_text(column),
        "fewer than 2 different values": len(photos) < 2,
        YEARS: (numbers.between(1900, 2100) | known.str.fullmatch(DATE)).mean() >= MOSTLY,
        UNITS: mostly and (amounts != known)[numbers.notna()].any(),
        MEASURE: mostly and (numbers % 1 > 0).any(),
        f"{MEASURE} or an id": mostly and apart,
        f"{several}: {_listed(photos, 5)}": words and few,
        f"{several}, but {MOST} at most": words and len(often) > MOST,
        f"values longer than {MAX_NAME} characters, or unprintable": words and not all(map(is_text, often)),
    }
    return next((reason for reason, holds in reasons.items() if holds), None)


def _agree(names, other):
    """Whether rows of one name agree in another column, far more than any two rows do; never if it is no such name."""
    both = pandas.DataFrame({"name": names, "other": other}).dropna()
    alike = both["name"].duplicated().any() and are_alike(both["other"].factorize()[0], both["name"], AGREE)
    return alike and names.str.contains(NAMES).mean() >= MOSTLY


# --- the program -------------------------------------------------------------------------------------


def _from_folder(args):
    """Of a folder whose photos lie in folders of classes: (folder of the data set, what the file says of tables and photos,
    all rows, path -> rows of the tables to write, one for each part)."""
    if args.image or args.photos:
        raise UserError("--image, --photos: for a table; of a folder, the folders in it are the classes")
    above, photos = os.path.split(os.path.normpath(args.table))
    frame = pandas.DataFrame({"file": find_photos(args.table, args.follow_links)})
    frame["class"] = frame["file"].map(os.path.dirname).map(os.path.basename)
    parts = frame["file"].str.split("/").str[0].map(PARTS).fillna("train")
    title = os.path.splitext(os.path.basename(args.output))[0]
    content, written = {"image": "file", "train": {}, "val": SHARE}, {}
    for part, its in frame.groupby(parts):
        content[part] = {"table": f"{title}.{part}.csv", "photos": photos}
        written[os.path.join(above, content[part]["table"])] = its
    return above or ".", content, frame, written


def _from_table(args):
    """The same of a table."""
    if not os.path.exists(args.table):
        raise UserError(f"{args.table}: no such file or folder")
    if not (args.image and args.photos):
        raise UserError("a table needs --image, its column of the photos' names, and --photos, their folder")
    folder = os.path.dirname(args.table) or "."
    if not os.path.isdir(os.path.join(folder, args.photos)):
        raise UserError(f"--photos {args.photos}: no such folder in {folder}, the table's")
    train = {"table": os.path.basename(args.table), "photos": args.photos}
    content = {"encoding": args.encoding, "image": args.image, "train": train, "val": SHARE}
    frame = pandas.DataFrame(read_rows(args.table, [args.image], args.encoding), dtype=str)
    return folder, content, frame, {}


def _listed(counts, most=SHOWN):
    """Names and counts for one line, the largest first."""
    ordered = sorted(counts.items(), key=lambda item: -item[1])
    return listed([f"{name} {count}" for name, count in ordered], most)


def _described(attributes, frame, tables, min_photos):
    """Lines that say what the attributes are: their classes with their photos, what is ignored, and which classes have few held out."""
    rows, lines, few = [], [], []
    for name, one in attributes.items():
        known = [count_classes(part.labels[name], len(one.classes)) for part in tables.values()]
        held_out, photos = known[1], sum(known)
        cells = frame[one.column].map(plain_name).value_counts()
        ignored = {cell: cells[plain_name(cell)] for cell in one.ignore}
        unknown = len(frame) - photos.sum() - sum(ignored.values())
        low = [f"{key} {n} of {all_}" for key, n, all_ in zip(one.classes, held_out, photos) if n < FEW]
        share = f"{photos.max() / photos.sum():.0%}"
        rows.append((name, len(photos), share, unknown, sum(ignored.values()), len(low)))
        also = f"; ignored, under {min_photos} photos: {_listed(ignored)}" if ignored else ""
        lines.append(f"{name}: {_listed(dict(zip(one.classes, photos)))}{also}")
        few += [f"under {FEW} held out: {name}: {listed(low, MOST)}"] if low else []
    way_out = 'take more photos, merge classes in the table, or ignore them (--min-photos, "ignore")'
    few += [f"  the scores of such classes say little: {way_out}"] if few else []
    return [*table(rows, HEADER), *lines, *few]


# fmt: off
def get_args_parser():
    p = Parser(prog="python -m utils.tools.draft", description=__doc__.splitlines()[0])
    p.add_argument("table", help="CSV file with a header, a row for each photo; or a folder that has a folder of photos for each class", metavar="TABLE.csv|FOLDER")
    p.add_argument("--image", help="column of the table with the photo's name", metavar="COLUMN")
    p.add_argument("--photos", help="folder of the photos, relative to the table's", metavar="FOLDER")
    p.add_argument("--output", type=new_file, required=True, help="file to write", metavar="FILE.json")
    p.add_argument("--encoding", default="utf-8", help="of the table, such as cp949", metavar="NAME")
    p.add_argument("--min-photos", type=number(int, 1), default=10, help="classes of fewer photos are ignored", metavar="N")
    p.add_argument("--group", help="column that tells products, each with several photos, or 'none'; without, it is looked for", metavar="COLUMN")
    p.photo_options(p)
    return p
# fmt: on


def main(argv=None):
    args = get_args_parser().parse_args(argv)
    folder, content, frame, written = (_from_folder if os.path.isdir(args.table) else _from_table)(args)
    for path in filter(os.path.lexists, [args.output, *written]):
        raise UserError(f"{path}: is there already, perhaps edited; name another --output")
    content, lines = draft(args.table, frame, content, args.min_photos, args.group, bool(written))
    attributes, parts = Attributes(content, args.output), [part for part in PARTS if part in content]
    with contextlib.ExitStack() as undo:
        for path, rows in written.items():
            write_csv(path, rows, rows.to_numpy())
            undo.callback(os.remove, path)
        # As training will.
        tables = read_tables(folder, attributes, parts, args.skip_unreadable, follow_links=args.follow_links)
        missing = sum(part.stamps.count(MISSING) for part in tables.values())
        if missing == len(frame):
            raise UserError(f"{args.table}: no photo is there; without --skip-unreadable they are named")
        write_json(args.output, content)
        undo.pop_all()
    lines += [f"{counted(missing, 'photo is', 'photos are')} missing and left out"] if missing else []
    lines += [f"{path}: {len(rows)} photos and the folders they are in" for path, rows in written.items()]
    said = counted(len(attributes), "attribute", "attributes")
    lines.append(f"{args.output}: {said}. Look at it; its prompts are for FashionCLIP, in English. To train:")
    lines.append(f"  --attributes {shlex.quote(args.output)} --data-dir {shlex.quote(folder)}")
    print("\n".join(map(visible, _described(attributes, frame, tables, args.min_photos) + lines)))


if __name__ == "__main__":
    sys.exit(exit_code(main))
