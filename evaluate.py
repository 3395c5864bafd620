"""Evaluate a trained network, or compare two: metrics with intervals, predictions and pictures."""

import csv
import json
import os
import sys

from utils.options import Parser, cache_folder, number

from utils.errors import UserError, exit_code
from utils.files import atomic

MAX_MB = 25  # of the competition, 10^6 bytes
INTERVALS = ("mean_top1_interval", "mean_acsa_interval")  # in evaluation.json, [lower, upper] of 95 %


# fmt: off
def get_args_parser():
    p = Parser(prog="evaluate.py", description=__doc__)
    p.add_argument("--checkpoint", nargs="+", required=True, help="checkpoint (.pt, student or teacher) or exported .onnx; with two, the first is compared with the second", metavar="FILE")
    p.add_argument("--data-dir", default="./Dataset", help="folder of the data set", metavar="DIR")
    p.add_argument("--split", choices=("val", "train"), default="val", help="part of the data set")
    p.add_argument("--output", help="folder for the files; without it, the first checkpoint's name with the split: model/student/best.pt writes model/student/best_val/", metavar="DIR")
    p.add_argument("--cache-dir", default=cache_folder(), help="folder for decoded pixels", metavar="DIR")
    p.add_argument("--clip-model", help="for a published teacher, which does not say what it began from: hub name or local folder; without it, FashionCLIP from the hub", metavar="NAME")
    p.add_argument("--prompts", help="for a published teacher: JSON file, attribute -> a sentence for each class; without it, clip_model.PROMPTS", metavar="FILE")
    p.add_argument("--batch-size", type=number(int, 1), default=32, help="images per step", metavar="N")
    return p
# fmt: on


def parse_args(argv=None):
    parser = get_args_parser()
    args = parser.parse_args(argv)
    if len(args.checkpoint) > 2:
        parser.error(f"--checkpoint takes one file, or two to compare, not {len(args.checkpoint)}")
    args.output = args.output or f"{os.path.splitext(args.checkpoint[0])[0]}_{args.split}"
    return args


def write_predictions(path, data, probabilities):
    """CSV, one row an image: the competition's columns, then the labels, then the probabilities."""
    from utils.attributes import ATTRIBUTES

    shorts = [attribute.short for attribute in ATTRIBUTES.values()]
    header = ["image_name", *shorts, *(f"{short}_label" for short in shorts)]
    header += [f"{a.short}_{i}" for a in ATTRIBUTES.values() for i in range(len(a.classes))]
    with atomic(path) as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(header)
        for i, name in enumerate(data.names):
            said = [int(probabilities[key][i].argmax()) for key in ATTRIBUTES]
            labels = [int(data.labels[key][i]) for key in ATTRIBUTES]
            shares = [f"{value:.6f}" for key in ATTRIBUTES for value in probabilities[key][i]]
            writer.writerow([name, *said, *labels, *shares])


def write_evaluation(folder, result, data, probabilities):
    """evaluation.json, predictions.csv and, where matplotlib is installed, the pictures."""
    from utils.logging import logger

    from utils import pictures, plots

    with atomic(os.path.join(folder, "evaluation.json")) as file:
        json.dump(result, file, indent=1, allow_nan=False)
        file.write("\n")
    write_predictions(os.path.join(folder, "predictions.csv"), data, probabilities)
    title = f"{plots.shortened_name(result['checkpoint'])}, {result['split']}, {result['images']} images"
    page = f"{title}\nabove each photo the prediction, below it the label, each with its probability"
    try:
        pictures.draw_confusion(result, os.path.join(folder, "confusion.png"), title)
        pictures.draw_reliability(result, os.path.join(folder, "reliability.png"), title)
        pictures.draw_mistakes(probabilities, data, os.path.join(folder, "mistakes.png"), page)
    except UserError as error:
        logger.warning(f"warning: the pictures are not drawn: {error}")


def say_evaluation(result):
    """The figures of one network, on the terminal."""
    from utils.logging import logger, table

    from utils.attributes import ATTRIBUTES

    names = ("top1", "acsa", "macro_f1", "ece")
    rows = [[key, *(f"{result[key][name]:.4f}" for name in names)] for key in ATTRIBUTES]
    rows.append(["mean", *(f"{result[f'mean_{name}']:.4f}" for name in names)])
    rows.append(["95 % interval", *(f"{a:.4f} .. {b:.4f}" for a, b in map(result.get, INTERVALS)), "", ""])
    logger.info(f"{result['checkpoint']}: {result['role']}, {result['images']} images of {result['split']}")
    for line in table(rows, ["", "Top-1", "ACSA", "macro-F1", "calibration error"]):
        logger.info(line)
    size = f"{result['size_mb']:.1f} MB on disk, of {MAX_MB} allowed"
    excess = "" if result["size_mb"] <= MAX_MB else ": too large to hand in"
    logger.info(f"competition's score (mean Top-1): {result['score']:.4f}; {size}{excess}\n")


def say_comparison(first, second):
    """Two networks side by side."""
    from utils.logging import logger, table

    from utils.attributes import ATTRIBUTES

    differences, rows = first["comparison"], []
    for name, title in (("top1", "Top-1"), ("acsa", "ACSA")):
        for key in ATTRIBUTES:
            figures = first[key][name], second[key][name], differences[key][name]
            p = differences[key]["p"] if name == "top1" else None
            rows.append(comparison_row(f"{title} {key}", figures, p=p))
        mean = differences[f"mean_{name}"]
        figures = first[f"mean_{name}"], second[f"mean_{name}"], mean["difference"]
        rows.append(comparison_row(f"{title} mean", figures, mean["interval"], mean["p"]))
    logger.info(f"first:  {first['checkpoint']}\nsecond: {second['checkpoint']}")
    for line in table(rows, ["", "first", "second", "difference", "95 % interval", "p"]):
        logger.info(line)
    logger.info(
        "p: attributes by McNemar's exact test, means by a paired permutation of the images; two-sided\n"
    )


def comparison_row(title, figures, interval=None, p=None):
    """Cells of the table; `figures` are the first network's, the second's, and the difference."""
    between = "{:+.4f} .. {:+.4f}".format(*interval) if interval else ""
    significance = "" if p is None else f"{p:.4f}" if p >= 0.0001 else "< 0.0001"
    first, second, difference = figures
    return [title, f"{first:.4f}", f"{second:.4f}", f"{difference:+.4f}", between, significance]


def main(argv=None):
    args = parse_args(argv)

    from utils import logging, statistics
    from utils.dataset import load_data
    from utils.inference import load_classifier

    logging.start()
    classifiers = [
        load_classifier(path, clip_model=args.clip_model, prompts=args.prompts) for path in args.checkpoint
    ]
    published = any(classifier.role == "teacher" and not classifier.meta for classifier in classifiers)
    if (args.clip_model or args.prompts) and not published:
        raise UserError(
            "--clip-model and --prompts are for a published teacher; this checkpoint needs neither"
        )
    data = load_data(args.data_dir, args.cache_dir, (args.split,))[args.split]
    # The second's files go into a folder of their own.
    folders = [args.output, os.path.join(args.output, "second")][: len(classifiers)]
    try:
        for folder in folders:
            os.makedirs(folder, exist_ok=True)
    except OSError as error:
        raise UserError(f"--output {args.output}: {error.strerror}; name another folder") from error

    probabilities = [classifier.predict(data.pixels, args.batch_size) for classifier in classifiers]
    results = []
    for classifier, values in zip(classifiers, probabilities):
        figures = statistics.evaluation(values, data.labels)
        about = {"checkpoint": classifier.path, "role": classifier.role, "split": args.split}
        about["size_mb"] = os.path.getsize(classifier.path) / 1e6
        about["score"] = figures["mean_top1"]  # as the competition counts it
        results.append({**about, **figures})
        say_evaluation(results[-1])
    if len(results) == 2:
        hits = [
            {key: values[key].argmax(axis=1) == data.labels[key] for key in values}
            for values in probabilities
        ]
        comparison = statistics.compare(data.labels, *hits)
        results[0]["comparison"] = {"checkpoint": classifiers[1].path, **comparison}
        say_comparison(*results)
    for folder, result, values in zip(folders, results, probabilities):
        write_evaluation(folder, result, data, values)
    logging.logger.info(f"written: {os.path.join(args.output, '')}")


if __name__ == "__main__":
    sys.exit(exit_code(main))
