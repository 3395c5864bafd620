"""What `bash train.sh sample` must have left behind."""

import csv
import os

import numpy as np

from networks import load_network
from utils.base.cli import cache_folder
from utils.data.attributes import read_attributes
from utils.data.dataset import read_tables


def best_row(version):
    with open(f"logs/{version}/metrics.csv", newline="") as file:
        return max(csv.DictReader(file), key=lambda row: float(row["val_top1"]))


def majority_top1(sample):
    labels = read_tables(sample, read_attributes(), ["val"])["val"].labels
    return np.mean([np.bincount(values).max() / len(values) for values in labels.values()])


def main():
    sample = os.path.join(os.path.dirname(cache_folder()), "sample")
    majority = majority_top1(sample)
    best = best_row("sample-student")
    top1 = float(best["val_top1"])
    print(f"sample-student: mean Top-1 {top1:.4f}, the majority classes' score {majority:.4f}")
    assert top1 >= majority + 0.3
    _, meta = load_network("model/sample-student/best.pt")
    assert meta["epoch"] == int(best["epoch"])
    assert os.path.getsize("model/sample-student/best.pt") <= 25e6
    for version in ("sample-teacher", "sample-student"):
        for path in (f"logs/{version}/{version}_training.log", f"logs/{version}/args.json"):
            assert os.path.getsize(path) > 0, path
    assert not os.path.lexists("Dataset")
    print("1 passed, 0 failed")


if __name__ == "__main__":
    main()
