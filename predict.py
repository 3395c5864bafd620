"""Predict the attributes of photos, from a checkpoint (.pt) or an exported file (.onnx, without PyTorch)."""

import contextlib
import csv
import io
import os
import sys
from collections import Counter
from pathlib import Path

import numpy as np
from tqdm import tqdm

from utils.base import log
from utils.base.cli import Parser, cache_folder, exit_code, new_file, number
from utils.base.errors import SkippedPhotos, UserError, counted, visible
from utils.base.files import check_new, continued, digest_of, write_csv
from utils.data.attributes import UNKNOWN, read_attributes
from utils.data.dataset import fold_of
from utils.data.photos import batches
from utils.evaluation import plots
from utils.evaluation.confidence import Sure
from utils.evaluation.fill import COUNTS, LIST, Sheet, ask, find_doubts, fold_networks
from utils.evaluation.inference import answered, joined
from utils.evaluation.metrics import by_product, confusion_matrices, scores
from utils.evaluation.model import load
from utils.evaluation.photo_lists import fingerprint, list_folder, photos_of, told_apart
from utils.evaluation.pictures import draw_doubts
from utils.evaluation.predictions import NUMBERS, PredictionTable, distinct
from utils.nets.hub import CLIP_MODEL, ZERO_SHOT, weights_file

SURE = 0.95  # share of right answers with --fill


# fmt: off
def get_args_parser():
    p = Parser(prog="predict.py", description=__doc__)
    p.add_argument("paths", nargs="*", help="photos, folders of photos (with their sub-folders), and CSV files with a column of photos' names, as the attributes' file names it (image_name)", metavar="PATH")
    p.add_argument("--checkpoint", required=True, help="of a student or teacher (.pt), an exported file (.onnx), or a folder of export.py --format hub, also as owner/name of the hub; or zero-shot: FashionCLIP as it comes", metavar="FILE")
    p.add_argument("--attributes", help="with zero-shot: JSON file of the attributes, with their prompts; without it, the competition's", metavar="FILE")
    p.add_argument("--clip-model", help=f"with zero-shot: hub name or local folder; without it, {CLIP_MODEL}", metavar="NAME")
    p.add_argument("--images", help="folder that the names in a CSV start from; without it, the CSV's own", metavar="DIR")
    p.add_argument("--output", type=new_file, default="predictions.csv", help="CSV file to write, a row for each photo; if that is interrupted, the same command goes on", metavar="FILE")
    p.add_argument("--sure", type=number(float, 0.5, 1, below=True), help="share of right answers, such as 0.95: classes are written only where the network is so sure; evaluate.py, run before, tells how sure that is", metavar="X")
    p.add_argument("--by", choices=("group",), help="group: a row for each product of a CSV file, by the column that the attributes name so, from all its photos; it holds all answers in memory, and begins anew where it was interrupted")
    p.add_argument("--fill", help=f"in place of PATH: CSV file whose missing cells are filled where the network is sure (--sure, else {SURE}); --output is the table as it is, with columns that tell what was filled and how probable it is, and beside it a list of the cells that are left", metavar="FILE")
    p.add_argument("--doubts", type=new_file, help="with --fill: CSV file to write of the cells that a person filled and that may be wrong, with a picture beside it; it needs the networks of train.sh own --folds 5", metavar="FILE")
    p.add_argument("--folds", nargs="+", help="with --doubts: folders of these networks; without it, model/shop-fold-1 to 5 for model/shop/best.pt", metavar="DIR")
    p.switch(p, "--probabilities", "also write the probability of each class, 0 to 1, in a column that has its name")
    p.add_argument("--names", help=f"how classes are written: en by their own names, another language by those of the attributes' file, {NUMBERS} by number; without it, own attributes have names, and the competition's numbers", metavar="LANG")
    p.prior_option(p)
    p.device_option(p)
    p.encoding_option(p)
    p.photo_options(p, skip=False)
    p.add_argument("--batch-size", type=number(int, 1), default=8, help="photos per step of the network", metavar="N")
    return p
# fmt: on


def main(argv=None):
    args = get_args_parser().parse_args(argv)
    if bool(args.fill) == bool(args.paths) or (args.fill and (args.by or args.names or args.probabilities)):
        raise UserError("give PATH or --fill; --by, --names and --probabilities are for PATH")
    if (args.doubts and not args.fill) or (args.folds and not args.doubts):
        raise UserError("--doubts is for --fill, and --folds for --doubts")
    args.sure = args.sure or (SURE if args.fill else None)
    if (args.attributes or args.clip_model) and args.checkpoint != ZERO_SHOT:
        raise UserError(f"--attributes, --clip-model: for {ZERO_SHOT}; a trained network brings its own")
    attributes = read_attributes(args.attributes) if args.attributes else None
    options = {"clip_model": args.clip_model, "attributes": attributes}
    model = load(args.checkpoint, args.sure, args.batch_size, args.prior, args.device, **options)
    if args.fill:
        return fill(args, model)
    by = model.attributes.layout.group if args.by else None
    if args.by and not by:
        raise UserError('--by group: the attributes have no "group", the column that tells products')
    sure = args.sure and Sure(model.measured, args.sure, products=bool(by))
    table = PredictionTable(model.attributes, args.names, probabilities=args.probabilities, sure=sure)
    if by:
        table.header = distinct([by, *table.header[1:], "photos"])
    how = (args.images, model.attributes, args.follow_links, by)
    check_output(args.output, args.paths)
    photos = told_apart([photos_of(path, *how) for path in args.paths], by)
    counts = write(args, model, table, photos)
    note(args.output)
    rows = counted(counts["rows"], *(("product", "products") if by else ("photo", "photos")))
    print(f"{rows}: {args.output}")
    if args.sure:
        each = ", ".join(f"{key} {counts[number]:,}" for number, key in enumerate(model.attributes))
        print(f"sure enough: {each} of {rows}; other cells are empty")
    say_skipped(counts["skipped"], counts["photos"])


def fill(args, model):
    """Write a table with its missing cells filled, a list of those that are left, and one of the other cells that may be wrong."""
    left = f"{os.path.splitext(args.output)[0]}_left.csv"
    picture = f"{os.path.splitext(args.doubts or left)[0]}.png"
    outputs = list(filter(None, (args.output, left, args.doubts)))
    if len(set(map(os.path.realpath, (*outputs, picture)))) <= len(outputs):
        raise UserError(f"--doubts {args.doubts}: is --output, {left} or its own picture; name another")
    for path in outputs:
        check_output(path, [args.fill])
    check_new(picture, plots.is_figure)
    sheet = Sheet(args.fill, list_folder(args.fill, args.images, args.follow_links), model.attributes)
    how = {"prior": args.prior, "device": args.device}
    networks, doubts = fold_networks(model.classify, args.folds, **how) if args.doubts else [], []
    sure = Sure(model.measured, args.sure, products=True)
    alike = [key for key, one in model.measured.items() if "products" in one]
    answers = sure.softened(ask([model.classify], np.zeros(len(sheet.rows)), sheet, args.batch_size, alike))
    unread = np.isnan(next(iter(answers.values()))[:, 0])
    if networks:
        folds = np.where(unread, -1, fold_of(sheet.groups, len(networks)) - 1)
        crossed = sure.softened(ask(networks, folds, sheet, args.batch_size, alike))
        doubts = find_doubts(sheet.labels, crossed)
    done = sheet.fill(answers, sure(answers), alike)
    sheet.write(args.output)
    if networks:
        write_csv(args.doubts, LIST, sheet.listed(doubts, crossed), args.encoding)
    write_csv(left, LIST, sheet.listed(sheet.left(answers, done), answers), args.encoding)
    for path in outputs:
        note(path)
    print("\n".join(log.table(sheet.counts(done, doubts), ["", *COUNTS])))
    print(f"{args.output}: {counted(len(sheet.rows), 'row', 'rows')}; {left}: what is left, least sure first")
    for key in [key for key, least in sure.thresholds.items() if least is None]:
        most = f"--sure {sure.most[key]:.2f} is the most" if sure.most[key] else "nor at less"
        print(f"{key}: nothing is sure at {args.sure:g}; {most} that the validation photos show; label more")
    if doubts:
        print(f"{args.doubts}: what may be wrong, the most surely so first")
        say_doubts(doubts, crossed, sheet, picture, os.path.basename(args.fill))
    say_skipped(unread.sum(), len(unread))


def say_doubts(doubts, answers, sheet, picture, title):
    """Draw the first doubts, where matplotlib is installed, and tell how far the folds that doubt can be trusted.

    Args: `doubts`, cells of a `sheet`; `answers` of the folds; `picture`, file to write.
    """
    try:
        draw_doubts(doubts, answers, sheet, picture, title)
        print(f"{picture}: the first of it")
    except (UserError, OSError) as error:
        log.logger.warning(f"warning: {picture} is not drawn: {error}")
    # A photo that cannot be read has no answer.
    told = {key: np.where(values[:, 0] >= 0, sheet.labels[key], UNKNOWN) for key, values in answers.items()}
    found = scores(confusion_matrices(answers, told))
    shares = {key: [log.score(found[name][key], ".2f") for name in ("top1", "majority")] for key in told}
    agree = ", ".join(f"{key} {top1} (majority {most})" for key, (top1, most) in shares.items())
    print(f"the folds agree with the labels in {agree}; near the majority, doubts say little")


def say_skipped(skipped, photos):
    if skipped:
        unread = f"of {photos} photos cannot be read and"
        raise SkippedPhotos(counted(skipped, f"{unread} was skipped", f"{unread} were skipped"))


def check_output(path, inputs):
    check_new(path, lambda head: note_of(path).exists(), inputs)


def note(path):
    with contextlib.suppress(OSError):
        file = note_of(path)
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()


def note_of(path):
    """The file in the cache that tells predictions that nobody has changed: a table of one's own may have the same columns."""
    return Path(cache_folder(), "predictions", digest_of(path))


def write(args, model, table, photos):
    """Write the table; one that was interrupted, with the same options and of the same files, goes on.

    Args: `photos`, a function of `photos_of`.
    Returns: Counter: "photos", "rows", "skipped" photos, and by number of an attribute its cells with a class.
    """
    weights = None if args.checkpoint == ZERO_SHOT else digest_of(weights_file(args.checkpoint))
    said = vars(args), model.attributes.content, weights, table.sure and vars(table.sure)
    digest, total = fingerprint(said, photos())
    counts, left = Counter(photos=total), photos()

    def skip(_, problem):
        tqdm.write(visible(f"skipped {problem}"), file=sys.stderr)
        counts["skipped"] += 1

    with continued(args.output, digest) as file:
        if args.by:  # begins anew: a product's row is of all its photos
            file.seek(file.truncate(0))
        else:
            keep(file, left, args.batch_size, counts, len(table.attributes))
        done, text = counts["rows"] + counts["skipped"], io.TextIOWrapper(file, args.encoding, newline="")
        writer = csv.writer(text)
        if done:
            print(f"{args.output}: goes on, {done:,} of {total:,} photos are done", flush=True)
        else:
            writer.writerow(table.header)
        parts = answered(left, model.classify, args.batch_size, table.attributes.layout.exif, skip)
        bar = {"total": -(-total // args.batch_size), "initial": done // args.batch_size}
        parts = tqdm(parts, "photos", **bar, unit_scale=args.batch_size, disable=None)
        for rows in products(parts, table) if args.by else (list(table.rows(*part)) for part in parts):
            writer.writerows(rows)
            text.flush()  # so that no more than this batch is done again
            count(rows, counts, len(table.attributes))
        if not counts["rows"]:
            raise SkippedPhotos(f"{args.output}: not written, since no photo can be read")
    return counts


def keep(file, photos, batch_size, counts, attributes):
    """Cut a file behind the rows that were written in whole batches, so that the next have the photos that they would have had.

    Args: `photos`, an iterator, from which those of the rows are taken, with those between them, which were skipped; `counts` as of
        `write`; number of `attributes`.
    """
    end = file.seek(0)
    rows = csv.reader((line.decode() for line in file if line.endswith(b"\n")), strict=True)
    with contextlib.suppress(csv.Error):  # the last row is torn, within a name of several lines
        next(rows, None)
        for some in batches(rows, batch_size):
            if len(some) == batch_size:
                for name, *_ in some:
                    counts["skipped"] += next(n for n, photo in enumerate(photos) if photo[0] == name)
                count(some, counts, attributes)
                end = file.tell()
    file.seek(file.truncate(end))


def count(rows, counts, attributes):
    """Count rows, and their cells with a class. Args: as of `keep`."""
    counts["rows"] += len(rows)
    for _, *cells in rows:
        counts.update(number for number in range(attributes) if cells[number] != "")


def products(parts, table):
    """Yields all rows at once, one for each product. Args: `parts` of `answered`, whose names are products."""
    parts = list(parts)
    names = [name for some, _ in parts for name in some]
    if names:
        sizes, said = Counter(names), by_product(joined([results for _, results in parts]), names)
        yield [(*row, sizes[row[0]]) for row in table.rows(*said)]


if __name__ == "__main__":
    sys.exit(exit_code(main))
