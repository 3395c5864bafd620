"""What is told of a network's answers, tried on photos that had no part in it."""

import csv
import sys

import numpy as np

from export import photos_of
from utils.base.cli import Parser, exit_code
from utils.base.files import write_csv
from utils.data.attributes import UNKNOWN, read_attributes
from utils.data.folders import PhotoFolder
from utils.data.tables import raw_rows, read_table
from utils.evaluation.confidence import Sure, measure
from utils.evaluation.inference import load_classifier

HALVES, SHARE = 20, 0.95


def halves(args):
    """The validation photos are halved at random, groups whole, and thresholds of one half applied to the other."""
    classify = load_classifier(args.checkpoint)
    table, pixels = photos_of(classify, "val", sys.maxsize, data_dir=args.data_dir, attributes=None)
    said, groups = classify.predict(pixels, 16), np.unique(table.groups, return_inverse=True)[1]
    rng, counts = np.random.default_rng(0), np.empty((HALVES, 3, len(said)))
    for turn in range(HALVES):
        first = rng.permutation(groups.max() + 1)[groups] % 2 == 0
        sure = Sure(measure(rows(said, first), rows(table.labels, first), groups[first]), SHARE)
        answers, labels = sure.softened(rows(said, ~first)), rows(table.labels, ~first)
        for place, (key, is_sure) in enumerate(sure(answers).items()):
            hits, known = answers[key].argmax(axis=1) == labels[key], labels[key] != UNKNOWN
            counts[turn, :, place] = (is_sure & hits).sum(), (is_sure & known).sum(), known.sum()
        right, filled, cells = counts[turn].sum(axis=1)
        print(f"{turn + 1:2}: {filled:.0f} of {cells:.0f} cells filled, {right:.0f} of these right")
    for key, (_, filled, cells) in zip(said, counts.sum(axis=0).T):
        top1 = (said[key].argmax(axis=1) == table.labels[key]).sum() / (table.labels[key] != UNKNOWN).sum()
        print(f"{key}: Top-1 {top1:.4f}, {filled / cells:.4f} of the cells filled")
    right, filled, _ = counts.sum(axis=2).T
    print(f"{SHARE} right: {(right >= SHARE * filled).sum()} of {HALVES}, {(filled == 0).sum()} empty")


def rows(arrays, chosen):
    return {key: values[chosen] for key, values in arrays.items()}


def change(args):
    """Writes --output, the table with 5 % of its labels changed at random."""
    attributes, header, _, rows, labels = opened(args.table, args.attributes)
    cells = [(row, key) for key in attributes for row in np.flatnonzero(labels[key] != UNKNOWN)]
    rng = np.random.default_rng(0)
    for place in sorted(rng.choice(len(cells), round(0.05 * len(cells)), replace=False)):
        (row, key), one = cells[place], attributes[cells[place][1]]
        other = (labels[key][row] + rng.integers(1, len(one.classes))) % len(one.classes)
        rows[row][header.index(one.column)] = one.classes[other]
    write_csv(args.output, header, rows)


def count(args):
    """Which share of the first of --doubts was changed, of as many as there are changed ones."""
    *_, lines, _, labels = opened(args.table, args.attributes)
    changed = {key: its != labels[key] for key, its in opened(args.output, args.attributes)[-1].items()}
    with open(args.doubts, newline="", encoding="utf-8-sig") as file:
        hits = [changed[one["attribute"]][lines.index(int(one["row"]))] for one in csv.DictReader(file)]
    most = sum(its.sum() for its in changed.values())
    print(f"of the first {most} of {len(hits)} doubted cells, {np.mean(hits[:most]):.4f} were changed")


def opened(path, attributes):
    """(The attributes, and of a table its header, the number of each row's line, its cells; attribute -> labels)."""
    attributes = read_attributes(attributes)
    form, *rows = raw_rows(path, attributes.layout.encoding)
    lines, rows = zip(*(row for row in rows if any(map(str.strip, row[1]))))
    _, labels, *_ = read_table(path, PhotoFolder(path), attributes)  # whose photos are not looked at
    return attributes, form.header, lines, rows, labels


WORKS = {"halves": halves, "change": change, "count": count}


def main(argv=None):
    parser = Parser(prog="python -m benchmarks.answers", description=__doc__)
    parser.add_argument("what", choices=WORKS, help="what is tried")
    parser.add_argument("--checkpoint", help="halves: of a trained network", metavar="FILE")
    parser.add_argument("--data-dir", help="halves: folder of its data set", metavar="DIR")
    parser.add_argument("--attributes", help="change, count: of the table", metavar="FILE")
    parser.add_argument("--table", help="change, count: as it was", metavar="FILE")
    parser.add_argument("--output", help="change, count: the table with changed labels", metavar="FILE")
    parser.add_argument("--doubts", help="count: the list of predict.py", metavar="FILE")
    args = parser.parse_args(argv)
    WORKS[args.what](args)


if __name__ == "__main__":
    sys.exit(exit_code(main))
