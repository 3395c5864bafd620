"""What is told of a network's answers, tried on photos that had no part in it."""

import sys

import numpy as np

from export import photos_of
from utils.base.cli import Parser, exit_code
from utils.data.attributes import UNKNOWN
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
    print(
        f"at least {SHARE} right: {(right >= SHARE * filled).sum()} of {HALVES}; empty: {(filled == 0).sum()}"
    )


def rows(arrays, chosen):
    return {key: values[chosen] for key, values in arrays.items()}


WORKS = {"halves": halves}


def main(argv=None):
    parser = Parser(prog="python -m benchmarks.answers", description=__doc__)
    parser.add_argument("what", choices=WORKS, help="what is tried")
    parser.add_argument("--checkpoint", required=True, help="of a trained network", metavar="FILE")
    parser.add_argument("--data-dir", required=True, help="folder of its data set", metavar="DIR")
    args = parser.parse_args(argv)
    WORKS[args.what](args)


if __name__ == "__main__":
    sys.exit(exit_code(main))
