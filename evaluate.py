"""Evaluate a trained network, or compare two: metrics with intervals, predictions and pictures."""

import csv
import json
import os
import sys

import numpy as np

from utils.attributes import UNKNOWN, Attributes, read_attributes
from utils.cli import Parser, exit_code, number
from utils.errors import UserError, shortened
from utils.files import atomic

MAX_MB = 25  # of the competition, 10^6 bytes
INTERVALS = ("mean_top1_interval", "mean_acsa_interval")  # in evaluation.json, [lower, upper] of 95 %


# fmt: off
def get_args_parser():
    p = Parser(prog="evaluate.py", description=__doc__)
    p.add_argument("--checkpoint", nargs="+", required=True, help="checkpoint (.pt, student or teacher) or exported .onnx; with two, the first is compared with the second", metavar="FILE")
    p.data_options(p)
    p.add_argument("--split", choices=("val", "train"), default="val", help="part of the data set")
    p.add_argument("--output", help="folder for the files; without it, the first checkpoint's name with the split: model/student/best.pt writes model/student/best_val/", metavar="DIR")
    p.add_argument("--clip-model", help="for a published teacher, which does not say what it began from: hub name or local folder; without it, FashionCLIP from the hub", metavar="NAME")
    p.add_argument("--prompts", help="for a published teacher: JSON file, attribute -> a sentence for each class; without it, those of utils/fashion_how.json", metavar="FILE")
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


# --- networks and data -------------------------------------------------------------------------------


def load_classifiers(args):
    """The networks of the checkpoints. Raises: UserError, also for options that only a published teacher needs."""
    from utils.inference import load_classifier

    classifiers = [
        load_classifier(path, clip_model=args.clip_model, prompts=args.prompts) for path in args.checkpoint
    ]
    published = any(classifier.role == "teacher" and not classifier.meta for classifier in classifiers)
    if (args.clip_model or args.prompts) and not published:
        raise UserError(
            "--clip-model and --prompts are for a published teacher; this checkpoint needs neither"
        )
    return classifiers


def table_attributes(path, classifiers):
    """The attributes with the data set's tables: of the file `path`; without one, of the first network.

    An exported file does not say where the tables are: the competition's classes mean the competition's tables.

    Raises: UserError if a network has other attributes or classes; their order may differ.
    """
    first = classifiers[0]
    attributes, source = (read_attributes(path), path) if path else (first.attributes, first.path)
    competition = read_attributes()
    if not path and first.path.endswith(".onnx") and not competition.differences(attributes):
        attributes = competition
    for classifier in classifiers:
        differences = attributes.differences(classifier.attributes)
        if differences:
            raise UserError(
                f"{source} and {classifier.path} have different attributes or classes; they must be the same:\n"
                + shortened(differences)
            )
    return attributes


def load_split(args, attributes, classifier):
    """The photos as a network was trained on them, with labels in the order of its own attributes and classes."""
    from utils.dataset import load_pixels, read_tables

    own = classifier.attributes
    turned = Attributes(dict(attributes.content, exif=own.layout.exif), args.attributes or classifier.path)
    tables = read_tables(args.data_dir, turned, (args.split,), args.skip_unreadable)
    data = load_pixels(tables, args.cache_dir, args.skip_unreadable)[args.split]
    labels = {}
    for key, attribute in own.items():
        numbers = [attribute.classes.index(name) for name in attributes[key].classes]
        labels[key] = np.array([*numbers, UNKNOWN])[data.labels[key]]  # -1, not known, is the last
    return data._replace(labels=labels)


def evaluate(classifier, data, args):
    """(Figures of a network, plain values; dict attribute -> probabilities)."""
    from utils.metrics import evaluation

    probabilities = classifier.predict(data.pixels, args.batch_size)
    figures = evaluation(probabilities, data.labels)
    about = {"checkpoint": classifier.path, "role": classifier.role, "split": args.split}
    about["size_mb"] = os.path.getsize(classifier.path) / 1e6
    about["score"] = figures["mean_top1"]  # as the competition counts it
    return {**about, "unreadable": len(data.unreadable), **figures}, probabilities


# --- files -------------------------------------------------------------------------------------------


def write_predictions(path, attributes, data, probabilities):
    """CSV, one row an image: name, predictions, labels (empty where not known), probabilities."""
    from utils.inference import prediction_header

    with atomic(path) as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(prediction_header(attributes, labels=True, probabilities=True))
        for i, name in enumerate(data.names):
            said = [int(probabilities[key][i].argmax()) for key in attributes]
            labels = [int(data.labels[key][i]) for key in attributes]
            known = ["" if label == UNKNOWN else label for label in labels]
            shares = [f"{value:.6f}" for key in attributes for value in probabilities[key][i]]
            writer.writerow([name, *said, *known, *shares])


def write_evaluation(folder, result, attributes, data, probabilities):
    """evaluation.json, predictions.csv and, where matplotlib is installed, the pictures."""
    from utils import pictures, plots
    from utils.log import logger

    with atomic(os.path.join(folder, "evaluation.json")) as file:
        json.dump(result, file, indent=1, allow_nan=False)
        file.write("\n")
    write_predictions(os.path.join(folder, "predictions.csv"), attributes, data, probabilities)
    title = f"{plots.shortened_name(result['checkpoint'])}, {result['split']}, {result['images']} images"
    page = f"{title}\nabove each photo the prediction, below it the label, each with its probability"
    try:
        pictures.draw_confusion(result, attributes, os.path.join(folder, "confusion.png"), title)
        pictures.draw_reliability(result, attributes, os.path.join(folder, "reliability.png"), title)
        mistakes = os.path.join(folder, "mistakes.png")
        pictures.draw_mistakes(probabilities, attributes, data, mistakes, page)
    except UserError as error:
        logger.warning(f"warning: the pictures are not drawn: {error}")


# --- on the terminal ---------------------------------------------------------------------------------


def say_evaluation(result, attributes):
    """The figures of one network."""
    from utils.log import logger, table
    from utils.report import score

    names = ("top1", "acsa", "macro_f1", "ece")
    rows = [[key, *(score(result["attributes"][key][name]) for name in names)] for key in attributes]
    rows.append(["mean", *(score(result[f"mean_{name}"]) for name in names)])
    ends = ["{:.4f} .. {:.4f}".format(*result[name]) if result[name] else "-" for name in INTERVALS]
    rows.append(["95 % interval", *ends, "", ""])
    logger.info(f"{result['checkpoint']}: {result['role']}, {result['images']} images of {result['split']}")
    for line in table(rows, ["", "Top-1", "ACSA", "macro-F1", "calibration error"]):
        logger.info(line)
    size = f"{result['size_mb']:.1f} MB on disk"
    if not read_attributes().differences(attributes):
        excess = "" if result["size_mb"] <= MAX_MB else ": too large to hand in"
        size = (
            f"competition's score (mean Top-1): {score(result['score'])}; {size}, of {MAX_MB} allowed{excess}"
        )
    logger.info(f"{size}\n")


def say_comparison(first, second):
    """Two networks side by side."""
    from utils.log import logger, table

    comparison, rows = first["comparison"], []
    for name, title in (("top1", "Top-1"), ("acsa", "ACSA")):
        for key, between in comparison["attributes"].items():
            figures = first["attributes"][key][name], second["attributes"][key][name], between[name]
            p = between["p"] if name == "top1" else None
            rows.append(comparison_row(f"{title} {key}", figures, p=p))
        mean = comparison[f"mean_{name}"]
        figures = first[f"mean_{name}"], second[f"mean_{name}"], mean["difference"]
        rows.append(comparison_row(f"{title} mean", figures, mean["interval"], mean["p"]))
    logger.info(f"first:  {first['checkpoint']}\nsecond: {second['checkpoint']}")
    for line in table(rows, ["", "first", "second", "difference", "95 % interval", "p"]):
        logger.info(line)
    logger.info(
        "p: attributes by McNemar's exact test, means by a paired permutation of the images; two-sided\n"
    )


def comparison_row(title, figures, interval=None, p=None):
    """Cells of the table; `figures` are the first network's, the second's, and the difference, None without a label."""
    if None in figures:
        return [title, "-", "-", "-", "", ""]
    between = "{:+.4f} .. {:+.4f}".format(*interval) if interval else ""
    significance = "" if p is None else f"{p:.4f}" if p >= 0.0001 else "< 0.0001"
    first, second, difference = figures
    return [title, f"{first:.4f}", f"{second:.4f}", f"{difference:+.4f}", between, significance]


def main(argv=None):
    args = parse_args(argv)

    from utils import log, metrics
    from utils.report import unreadable

    log.start()
    classifiers = load_classifiers(args)
    attributes = table_attributes(args.attributes, classifiers)
    splits = [load_split(args, attributes, classifier) for classifier in classifiers]
    # The second's files go into a folder of their own.
    folders = [args.output, os.path.join(args.output, "second")][: len(classifiers)]
    try:
        for folder in folders:
            os.makedirs(folder, exist_ok=True)
    except OSError as error:
        raise UserError(f"--output {args.output}: {error.strerror}; name another folder") from error
    unreadable({args.split: splits[0]}, os.path.join(args.output, "unreadable.txt"))

    done = []
    for classifier, data in zip(classifiers, splits):
        done.append(evaluate(classifier, data, args))
        say_evaluation(done[-1][0], classifier.attributes)
    if len(done) == 2:
        hits = [
            {key: values[key].argmax(axis=1) == data.labels[key] for key in attributes}
            for data, (_, values) in zip(splits, done)
        ]
        (first, _), (second, _) = done
        comparison = metrics.compare({key: splits[0].labels[key] for key in attributes}, *hits)
        first["comparison"] = {"checkpoint": second["checkpoint"], **comparison}
        say_comparison(first, second)
    for folder, classifier, data, (result, values) in zip(folders, classifiers, splits, done):
        write_evaluation(folder, result, classifier.attributes, data, values)
    log.logger.info(f"written: {os.path.join(args.output, '')}")


if __name__ == "__main__":
    sys.exit(exit_code(main))
