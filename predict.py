"""Predict the attributes of photos, from a checkpoint (.pt) or an exported file (.onnx, without PyTorch)."""

import csv
import os
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from tqdm import tqdm
from utils.options import Parser, number

from utils.attributes import ATTRIBUTES
from utils.dataset import Border, letterbox, quiet_pillow, read_rgb, short_lines
from utils.errors import SkippedPhotos, UserError, exit_code
from utils.files import atomic
from utils.inference import load_classifier

PHOTOS = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif")


# fmt: off
def get_args_parser():
    p = Parser(prog="predict.py", description=__doc__)
    p.add_argument("paths", nargs="+", help="photos, folders of photos (with their sub-folders), and CSV files with a column image_name", metavar="PATH")
    p.add_argument("--checkpoint", required=True, help="of a student or teacher (.pt), or an exported file (.onnx)", metavar="FILE")
    p.add_argument("--images", help="folder that the image_name of a CSV starts from; without it, the CSV's own", metavar="DIR")
    p.add_argument("--output", default="predictions.csv", help="CSV file to write, a row for each photo", metavar="FILE")
    p.switch(p, "--probabilities", "also write the probability of each class, 0 to 1")
    p.add_argument("--names", choices=("ko", "en"), help="write the classes' names, Korean or English; without it their numbers")
    p.add_argument("--batch-size", type=number(int, 1), default=16, help="photos per step of the network", metavar="N")
    return p
# fmt: on


def main(argv=None):
    args = get_args_parser().parse_args(argv)
    folder = os.path.dirname(args.output) or "."
    if not os.path.isdir(folder):
        raise UserError(f"--output {args.output}: there is no folder {folder}; make it first")
    photos = [photo for path in args.paths for photo in find_photos(path, args.images)]
    classify = load_classifier(args.checkpoint)

    problems = []
    with atomic(args.output) as file:
        writer = csv.writer(file)
        writer.writerow(header(args.probabilities))
        for names, pixels, failures in batches(photos, args.batch_size):
            problems += failures
            if names:
                writer.writerows(rows(names, classify(pixels), args.names, args.probabilities))
    print(f"{len(photos) - len(problems)} photos: {args.output}")
    if problems:
        raise SkippedPhotos(
            f"{len(problems)} of {len(photos)} photos were skipped, since they cannot be read (listed above)"
        )


# --- which photos ------------------------------------------------------------------------------------


def find_photos(path, images=None):
    """(name in the output, path of the file) of every photo that `path` stands for, folders in order of names.

    Raises: UserError for a path that does not exist, a folder without photos, a CSV without image_name.
    """
    if os.path.isdir(path):
        found = []
        for folder, folders, files in os.walk(path):
            folders.sort()
            found += [os.path.join(folder, name) for name in sorted(files) if name.lower().endswith(PHOTOS)]
        if not found:
            raise UserError(f"{path}: a folder without photos ({' '.join(PHOTOS)})")
        return [(os.path.relpath(photo, path).replace(os.sep, "/"), photo) for photo in found]
    if not os.path.isfile(path):
        raise UserError(f"{path}: no such file or folder")
    if path.lower().endswith(".csv"):
        root = os.path.dirname(path) if images is None else images
        if not os.path.isdir(root or "."):
            raise UserError(f"--images {root}: no such folder")
        return [(name, os.path.join(root, name)) for name in image_names(path, Border(root))]
    return [(os.path.basename(path), path)]


def image_names(path, border):
    """The column image_name of a CSV, within the border of the folder of photos; labels are not needed."""
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(short_lines(file))
            if "image_name" not in (reader.fieldnames or []):
                raise UserError(f"{path}: no column image_name")
            names = [row["image_name"] for row in reader]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{path}: not a readable CSV file ({error})") from error
    if not names:
        raise UserError(f"{path}: no rows")
    for row, name in enumerate(names, 1):
        try:
            border.check(name)
        except ValueError as error:
            raise UserError(f"{path}: row {row}: {error}; mend or remove it") from error
    return names


def batches(photos, size):
    """Read and letterbox, some photos at a time, in order; the next ones while the network is at work.

    Yields: (names, uint8 `(B, 224, 224, 3)`, problems), B at most `size`; unreadable photos are left out.
    """

    def read(photo):
        try:
            return letterbox(read_rgb(photo[1])), None
        except Exception as error:  # whatever a decoder raises: the photo is at fault, and is reported
            return None, f"{photo[1]}: {str(error).strip() or type(error).__name__}"

    groups = [photos[first : first + size] for first in range(0, len(photos), size)]
    bar = tqdm(total=len(photos), desc="photos", disable=None)
    with ThreadPoolExecutor(2) as pool, bar, quiet_pillow():
        ahead = [pool.submit(read, photo) for photo in groups[0]]
        for group, following in zip(groups, [*groups[1:], []]):
            results = [future.result() for future in ahead]
            ahead = [pool.submit(read, photo) for photo in following]
            problems = [problem for _, problem in results if problem]
            for problem in problems:
                tqdm.write(f"skipped {problem}", file=sys.stderr)
            good = [(name, pixels) for (name, _), (pixels, _) in zip(group, results) if pixels is not None]
            yield [name for name, _ in good], np.array([pixels for _, pixels in good]), problems
            bar.update(len(group))


# --- what is written ---------------------------------------------------------------------------------


def header(probabilities):
    """The CSV's columns: the competition's, then with `probabilities` one for each class, `daily_0` ..."""
    columns = ["image_name", *(attribute.short for attribute in ATTRIBUTES.values())]
    if probabilities:
        columns += [f"{a.short}_{i}" for a in ATTRIBUTES.values() for i in range(len(a.classes))]
    return columns


def rows(names, results, language, probabilities):
    """Rows of the CSV.

    Args: `results` attribute -> probabilities `(B, classes)`; `language` ko, en or None for class ids.
    """
    columns = []
    for key, attribute in ATTRIBUTES.items():
        texts = {"ko": attribute.classes_ko, "en": attribute.classes, None: range(len(attribute.classes))}[
            language
        ]
        columns.append([texts[index] for index in results[key].argmax(axis=1)])
    if probabilities:
        columns += [[f"{p:.6f}" for p in column] for key in ATTRIBUTES for column in results[key].T]
    return zip(names, *columns)


if __name__ == "__main__":
    sys.exit(exit_code(main))
