"""Makes a table of products, in words, from the photos of the accuracy table, as a shop might have it.

python -m benchmarks.shop accuracy/photos shop     # of benchmarks.photos; shop/products.csv and shop/photos/
"""

import shutil
import sys
from pathlib import Path

import numpy as np
import pandas as pd

from utils.base.cli import Parser, exit_code

WORDS = {"colour": "black white grey blue warm".split(), "pattern": "plain structured busy".split()}
EMPTY = 0.2  # share of the cells
RARE = (("kind", "outwear", "cape", 12), ("colour", "warm", "gold", 4))  # column, class, part of it, photos


def main(argv=None):
    parser = Parser(prog="python -m benchmarks.shop", description=__doc__.splitlines()[0])
    parser.add_argument("photos", type=Path, help="folder of photos and tables", metavar="PHOTOS")
    parser.add_argument("output", type=Path, help="new folder", metavar="OUT")
    args = parser.parse_args(argv)
    rng, parts = np.random.default_rng(0), []
    for part in ("train", "val"):
        shutil.copytree(args.photos / part, args.output / "photos" / part)
        parts.append(pd.read_csv(args.photos / f"Fashion-How24_sub1_{part}.csv"))
        parts[-1]["file"] = f"{part}/" + parts[-1]["image_name"]
    table = pd.concat(parts, ignore_index=True)
    table["kind"] = table["image_name"].str.extract("^(.*) 2019/")[0].str.lower()
    for column, source in zip(WORDS, ("Gender", "Embellishment")):
        table[column] = [WORDS[column][number] for number in table[source]]
    # About two photos of each product, which are of one kind.
    table["product"] = table["kind"].rank(method="dense").astype(int) * 10_000
    table["product"] += rng.integers(0, 120, len(table))
    table["year"] = rng.integers(2015, 2020, len(table)).astype(float)
    for column in ("kind", *WORDS):
        table.loc[rng.random(len(table)) < EMPTY, column] = ""
    for column, common, rare, photos in RARE:
        rows = np.flatnonzero(table[column] == common)
        table.loc[rng.choice(rows, photos, replace=False), column] = rare
    table[["file", "product", "year", "kind", *WORDS]].to_csv(args.output / "products.csv", index=False)


if __name__ == "__main__":
    sys.exit(exit_code(main))
