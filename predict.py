"""Predict the attributes of photos, from a checkpoint (.pt) or an exported file (.onnx, without PyTorch)."""

import contextlib
import csv
import hashlib
import itertools
import os
import shlex
import sys
from collections import defaultdict
from pathlib import Path

import numpy as np
from tqdm import tqdm

from utils.base.cli import Parser, cache_folder, exit_code, new_file, number
from utils.base.errors import SkippedPhotos, UserError, counted, excerpt, shortened, visible
from utils.base.files import atomic, check_new
from utils.base.log import logger
from utils.data.attributes import read_attributes
from utils.data.folders import PhotoFolder, find_photos
from utils.data.photos import read_photos
from utils.data.tables import read_table
from utils.evaluation.inference import load_classifier
from utils.evaluation.predictions import NUMBERS, PredictionTable, table_text
from utils.nets.hub import CLIP_MODEL, ZERO_SHOT


# fmt: off
def get_args_parser():
    p = Parser(prog="predict.py", description=__doc__)
    p.add_argument("paths", nargs="+", help="photos, folders of photos (with their sub-folders), and CSV files with a column of photos' names, as the attributes' file names it (image_name)", metavar="PATH")
    p.add_argument("--checkpoint", required=True, help="of a student or teacher (.pt), an exported file (.onnx), or a folder of export.py --format hub, also as owner/name of the hub; or zero-shot: FashionCLIP as it comes", metavar="FILE")
    p.add_argument("--attributes", help="with zero-shot: JSON file of the attributes, with their prompts; without it, the competition's", metavar="FILE")
    p.add_argument("--clip-model", help=f"with zero-shot: hub name or local folder; without it, {CLIP_MODEL}", metavar="NAME")
    p.add_argument("--images", help="folder that the names in a CSV start from; without it, the CSV's own", metavar="DIR")
    p.add_argument("--output", type=new_file, default="predictions.csv", help="CSV file to write, a row for each photo", metavar="FILE")
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
    if (args.attributes or args.clip_model) and args.checkpoint != ZERO_SHOT:
        raise UserError(f"--attributes, --clip-model: for {ZERO_SHOT}; a trained network brings its own")
    attributes = read_attributes(args.attributes) if args.attributes else None
    options = {"clip_model": args.clip_model, "attributes": attributes}
    classify = load_classifier(args.checkpoint, prior=args.prior, device=args.device, **options)
    attributes = classify.attributes
    table = PredictionTable(attributes, args.names, probabilities=args.probabilities)
    how = (args.images, attributes, args.follow_links)
    check_new(args.output, lambda head: note_of(args.output).exists(), args.paths)
    photos = [photo for path in args.paths for photo in photos_of(path, *how)]
    photos, skipped = told_apart(photos), []
    good = readable(photos, attributes.layout.exif, skipped)
    with atomic(args.output, encoding=args.encoding) as file:
        writer = csv.writer(file)
        writer.writerow(table.header)
        for batch in iter(lambda: list(itertools.islice(good, args.batch_size)), []):
            names, pixels = zip(*batch)
            writer.writerows(table.rows(names, classify(np.stack(pixels))))
        if len(skipped) == len(photos):
            raise SkippedPhotos(f"{args.output}: not written, since no photo can be read")
    with contextlib.suppress(OSError):
        note = note_of(args.output)
        note.parent.mkdir(parents=True, exist_ok=True)
        note.touch()
    print(f"{counted(len(photos) - len(skipped), 'photo', 'photos')}: {args.output}")
    if skipped:
        unread = f"of {len(photos)} photos cannot be read and"
        raise SkippedPhotos(counted(len(skipped), f"{unread} was skipped", f"{unread} were skipped"))


def note_of(path):
    """The file in the cache that tells predictions that nobody has changed: a table of one's own may have the same columns."""
    digest = hashlib.blake2b(Path(path).read_bytes(), digest_size=16).hexdigest()
    return Path(cache_folder(), "predictions", digest)


def photos_of(path, images, attributes, follow_links=False):
    """(name in the output, path of the file) of every photo that `path` stands for, folders in order of names.

    Raises: UserError for a path that does not exist, a folder without photos, a CSV without their column, or none of whose photos
        is there.
    """
    if not os.path.exists(path):
        raise UserError(f"{path}: no such file or folder")
    if os.path.isdir(path):
        return [(table_text(name), os.path.join(path, name)) for name in find_photos(path, follow_links)]
    if not path.lower().endswith(".csv"):
        return [(table_text(os.path.basename(path)), path)]
    folder = os.path.dirname(path) if images is None else images
    if not os.path.isdir(folder or "."):
        raise UserError(f"--images {folder}: no such folder")
    there = PhotoFolder(folder, follow_links)
    names = read_table(path, there, attributes, labelled=False)[0]
    photos = [(name, there.path(name)) for name in names]
    absent = [(name, file) for name, file in photos if not os.path.exists(file)]
    near = [f"{file}{there.near(name)}" for name, file in absent if there.near(name)]
    if len(absent) == len(photos):
        fits = fitting_folder(folder, names[0])
        example = near[0] if near and not fits else absent[0][1]
        way_out = f"--images {shlex.quote(fits)} has them" if fits else "--images names their folder"
        raise UserError(f"{path}: none of its photos is there, such as {excerpt(example, 300)}; {way_out}")
    if near:
        logger.warning(f"warning: {path}: photos that are not there, and what is:\n{shortened(near)}")
    return photos


def fitting_folder(folder, name):
    """The folder that has a photo of a list: the working directory, or one below `folder`; None without."""
    below = (os.path.join(above, one) for above, folders, _ in os.walk(folder or ".") for one in folders)
    fits = (one for one in itertools.chain(["."], below) if os.path.isfile(os.path.join(one, name)))
    return next(map(os.path.normpath, fits), None)


def told_apart(photos):
    """The same, where a name that different photos have is the path of each. Args: pairs of `photos_of`."""
    paths = defaultdict(set)
    for name, path in photos:
        paths[name].add(path)
    return [(name if len(paths[name]) == 1 else table_text(path), path) for name, path in photos]


def readable(photos, exif, skipped):
    """Yields (name, letterboxed pixels); a line for each photo that cannot be read goes to stderr and to `skipped`."""
    read = read_photos([path for _, path in photos], exif)
    for (name, _), (pixels, problem) in zip(photos, tqdm(read, "photos", len(photos), disable=None)):
        if problem:
            tqdm.write(visible(f"skipped {problem}"), file=sys.stderr)
            skipped.append(problem)
        else:
            yield name, pixels


if __name__ == "__main__":
    sys.exit(exit_code(main))
