"""Makes the photos of the accuracy table from a clone of a public repository of photos (CC0).

git clone https://github.com/alexeygrigorev/clothing-dataset-small
python -m benchmarks.photos clothing-dataset-small accuracy     # accuracy/photos/ and accuracy/skewed/
"""

import os
import shutil
import sys
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image, ImageFilter

from utils.base.cli import Parser, exit_code
from utils.base.errors import UserError

COLUMNS = "image_name BBox_xmin BBox_ymin BBox_xmax BBox_ymax Daily Gender Embellishment".split()
# Kinds by class.
DAILY = ["longsleeve outwear", "t-shirt shirt", "pants shorts", "shoes", "hat", "dress skirt"]
# Training photos of each class in the competition's data: of Daily, Gender and Embellishment.
COUNTS = (589, 6852, 1065, 1683, 572, 442), (930, 2759, 2703, 4288, 523), (6177, 3323, 1703)


def main(argv=None):
    parser = Parser(prog="python -m benchmarks.photos", description=__doc__.splitlines()[0])
    parser.add_argument("clone", type=Path, help="folder of the repository's clone", metavar="CLONE")
    parser.add_argument("output", type=Path, help="folder that gets photos/ and skewed/", metavar="OUT")
    args = parser.parse_args(argv)
    parts = [sorted(args.clone.glob(f"{part}/*/*.jpg")) for part in ("train", "test", "validation")]
    if [len(paths) for paths in parts] != [3068, 372, 341]:
        raise UserError(f"{args.clone}: not a clone of clothing-dataset-small with all its photos")
    photos, skewed = args.output / "photos", args.output / "skewed"
    skewed.mkdir(parents=True)
    thirds = np.quantile([look(path)[-1] for path in parts[0]], [1 / 3, 2 / 3])
    for part, paths, count in (("train", parts[0], 2000), ("val", parts[1] + parts[2], 400)):
        chosen = pd.Series(paths).sample(frac=1, random_state=7)[:count]
        table = pd.DataFrame(map(look, chosen), columns=COLUMNS)
        table["Embellishment"] = np.searchsorted(thirds, table["Embellishment"])
        for source, name in zip(chosen, table["image_name"]):
            (photos / part / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, photos / part / name)
        os.symlink(f"../photos/{part}", skewed / part)
        for folder, rows in ((photos, table), (skewed, skew(table) if part == "train" else table)):
            rows.to_csv(folder / f"Fashion-How24_sub1_{part}.csv", index=False)


def look(path):
    """A photo's row: Daily is its kind, Gender its colour; in place of Embellishment the mean of its edges."""
    with Image.open(path) as photo:
        width, height = photo.size
        middle = photo.convert("RGB").crop((width // 4, height // 4, 3 * width // 4, 3 * height // 4))
    middle = middle.resize((64, 64))
    hue, saturation, value = np.median(np.asarray(middle.convert("HSV")).reshape(-1, 3), axis=0)
    grey = saturation < 50
    colour = [value < 70, grey and value > 150, grey, 120 < hue <= 200, True].index(True)
    edges = np.asarray(middle.convert("L").filter(ImageFilter.FIND_EDGES), float)[2:-2, 2:-2].mean()
    box, kind = (width // 8, height // 8, 7 * width // 8, 7 * height // 8), path.parent.name
    daily = next(number for number, kinds in enumerate(DAILY) if kind in kinds.split())
    return f"{kind.upper()} 2019/{path.name}", *box, daily, colour, edges


def skew(table):
    """800 of the rows, drawn so that the shares of their classes come near the competition's."""
    weights = np.ones(len(table))
    for _ in range(200):  # iterative proportional fitting; no row can be drawn more than once
        for column, counts in zip(COLUMNS[5:], COUNTS):
            weights *= (counts / np.bincount(table[column], weights))[table[column]]
        weights = np.minimum(800 * weights / weights.sum(), 1)
    keys = np.log(np.random.default_rng(0).random(len(table))) / weights  # Efraimidis and Spirakis, 2006
    return table.iloc[np.sort(np.argsort(-keys)[:800])]


if __name__ == "__main__":
    sys.exit(exit_code(main))
