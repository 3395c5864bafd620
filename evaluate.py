"""Evaluate a trained network, or compare two: metrics with intervals, predictions and pictures."""

import csv
import json
import os
import sys

from utils.base import log
from utils.base.cli import Parser, exit_code, number
from utils.base.errors import UserError
from utils.base.files import atomic, check_folder
from utils.base.log import logger, score, table
from utils.data.attributes import PARTS, UNKNOWN, read_attributes
from utils.data.dataset import load_pixels, unreadable
from utils.evaluation import metrics, pictures, plots
from utils.evaluation.inference import load_classifier, prediction_header, probability_columns, read_data
from utils.evaluation.metrics import CHOSEN
from utils.nets.hub import ZERO_SHOT, weights_file

FILES = "evaluation.json predictions.csv unreadable.txt confusion.png reliability.png mistakes.png".split()
MAX_MB = 25  # of the competition, 10^6 bytes


# fmt: off
def get_args_parser():
    p = Parser(prog="evaluate.py", description=__doc__)
    p.add_argument("--checkpoint", nargs="+", required=True, help="checkpoint (.pt, student or teacher), exported .onnx, or a folder of export.py --format hub, also as owner/name of the hub; or zero-shot: FashionCLIP as it comes, with the prompts of --attributes, else of the other checkpoint, else of the competition; with two, the first is compared with the second", metavar="FILE")
    p.data_options(p)
    p.add_argument("--split", choices=PARTS, default="val", help="part of the data set; test is a third one that the attributes name, from which nothing was chosen")
    p.add_argument("--output", help="folder for the files; without it, the first checkpoint's name with the split: model/student/best.pt writes model/student/best_val/, zero-shot model/zero-shot_val/", metavar="DIR")
    p.add_argument("--clip-model", help="for zero-shot, and for a published teacher, which does not say what it began from: hub name or local folder; without it, FashionCLIP from the hub", metavar="NAME")
    p.add_argument("--prompts", help="for the same two: JSON file, attribute -> a sentence for each class; without it, zero-shot has the attributes' own, a published teacher those of utils/data/fashion_how.json", metavar="FILE")
    p.prior_option(p)
    p.encoding_option(p)
    p.add_argument("--batch-size", type=number(int, 1), default=32, help="images per step", metavar="N")
    return p
# fmt: on


def parse_args(argv=None):
    parser = get_args_parser()
    args = parser.parse_args(argv)
    if len(args.checkpoint) > 2:
        parser.error(f"--checkpoint takes one file, or two to compare, not {len(args.checkpoint)}")
    first = args.checkpoint[0]
    first = os.path.join("model", ZERO_SHOT) if first == ZERO_SHOT else os.path.normpath(first)
    first = os.path.splitext(first)[0] if os.path.isfile(first) else first
    args.output = args.output or f"{first}_{args.split}"
    return args


def load_classifiers(args):
    """The networks of the checkpoints. Raises: UserError, also for options that no checkpoint needs."""
    options = {"clip_model": args.clip_model, "prompts": args.prompts}
    attributes, found = read_attributes(args.attributes) if args.attributes else None, {}
    # Zero-shot comes last: without --attributes it has the other's.
    for path in sorted(args.checkpoint, key=lambda path: path == ZERO_SHOT):
        found[path] = load_classifier(path, attributes=attributes, prior=args.prior, **options)
        attributes = attributes or found[path].attributes
    unsaid = any(one.role == "teacher" and not one.meta for one in found.values())
    if any(options.values()) and not unsaid:
        raise UserError("--clip-model, --prompts: only for zero-shot or a published teacher")
    return [found[path] for path in args.checkpoint]


def evaluate(classifier, data, pixels, args):
    """(Figures of a network, plain values; dict attribute -> probabilities)."""
    probabilities = classifier.predict(pixels, args.batch_size)
    figures = metrics.evaluation(probabilities, data.labels, data.groups)
    about = {"checkpoint": classifier.path, "role": classifier.role, "split": args.split, "prior": args.prior}
    if classifier.path == ZERO_SHOT:  # its weights in float32
        about["size_mb"] = sum(weight.numel() for weight in classifier.net.parameters()) * 4 / 1e6
    else:
        about["size_mb"] = os.path.getsize(weights_file(classifier.path)) / 1e6
    about["score"] = figures["mean_top1"]  # as the competition counts it
    return {**about, "unreadable": len(data.unreadable), **figures}, probabilities


def compare(splits, done):
    """How sure the difference of two networks is, see `utils.evaluation.metrics.compare`. Args: their data, and of `evaluate`."""
    # A class may have another number in the other network: each network's hits are by its own labels.
    labels = [data.labels for data in splits]
    hits = [
        {key: values.argmax(axis=1) == own[key] for key, values in probabilities.items()}
        for own, (_, probabilities) in zip(labels, done)
    ]
    return {"checkpoint": done[1][0]["checkpoint"], **metrics.compare(labels[0], *hits, splits[0].groups)}


# --- files -------------------------------------------------------------------------------------------


def write_files(folder, result, classifier, data, pixels, probabilities, encoding):
    """evaluation.json, predictions.csv and, where matplotlib is installed, the pictures."""
    attributes = classifier.attributes
    with atomic(os.path.join(folder, "evaluation.json")) as file:
        file.write(json.dumps(result, indent=1, allow_nan=False) + "\n")
    with atomic(os.path.join(folder, "predictions.csv"), encoding=encoding) as file:
        write_predictions(file, attributes, data, probabilities)
    title = f"{plots.shortened_name(result['checkpoint'])}, {result['split']}, {result['images']} images"
    page = f"{title}\nabove each photo the prediction, below it the label, each with its probability"
    try:
        pictures.draw_confusion(result, attributes, os.path.join(folder, "confusion.png"), title)
        pictures.draw_reliability(result, attributes, os.path.join(folder, "reliability.png"), title)
        pictures.draw_mistakes(
            probabilities, attributes, data.labels, pixels, os.path.join(folder, "mistakes.png"), page
        )
    except UserError as error:
        logger.warning(f"warning: the pictures are not drawn: {error}")


def write_predictions(file, attributes, data, probabilities):
    """CSV, one row an image: name, predictions, labels (empty where not known), probabilities."""
    said = [probabilities[key].argmax(axis=1) for key in attributes]
    known = [["" if label == UNKNOWN else label for label in data.labels[key]] for key in attributes]
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(prediction_header(attributes, labels=True, probabilities=True))
    writer.writerows(zip(data.names, *said, *known, *probability_columns(probabilities)))


# --- on the terminal ---------------------------------------------------------------------------------


def say_evaluation(result, attributes):
    """The figures of one network."""
    names = {"top1": "Top-1", "acsa": "ACSA", "macro_f1": "macro-F1", "ece": "calibration error"}
    if 2 in attributes.sizes.values():
        names["average_precision"] = "AP"
    rows = [[key, *(score(result["attributes"][key].get(name)) for name in names)] for key in attributes]
    rows.append(["mean", *(score(result[f"mean_{name}"]) for name in names)])
    intervals = [shown_interval(result[f"mean_{name}_interval"]) for name in ("top1", "acsa")]
    rows.append(["95 % interval", *intervals, *[""] * (len(names) - 2)])
    size = f"{result['size_mb']:.1f} MB on disk"
    if not read_attributes().differences(attributes):
        excess = "" if result["size_mb"] <= MAX_MB else ": too large to hand in"
        size += f", of {MAX_MB} allowed{excess}"
        size = f"competition's score (mean Top-1): {score(result['score'])}; {size}"
    images = f"{result['images']} images of {result['split']}{shown_groups(result)}"
    logger.info(f"{result['checkpoint']}: {result['role']}, {images}")
    logger.info("\n".join(table(rows, ["", *names.values()])))
    if result["split"] == "val" and result["checkpoint"] != ZERO_SHOT:
        logger.info(CHOSEN)
    logger.info(f"{size}\n")


def say_comparison(first, second):
    """Two networks side by side."""
    comparison, rows = first["comparison"], []
    for name, title in (("top1", "Top-1"), ("acsa", "ACSA")):
        for key, between in comparison["attributes"].items():
            both = [score(result["attributes"][key][name]) for result in (first, second)]
            p = shown_p(between["p"]) if name == "top1" else ""
            rows.append([f"{title} {key}", *both, score(between[name], "+.4f"), "", p])
        both = [score(result[f"mean_{name}"]) for result in (first, second)]
        mean = comparison[f"mean_{name}"]
        between = [score(mean["difference"], "+.4f"), shown_interval(mean["interval"], "+.4f")]
        rows.append([f"{title} mean", *both, *between, shown_p(mean["p"])])
    logger.info(f"first:  {first['checkpoint']}\nsecond: {second['checkpoint']}")
    logger.info("\n".join(table(rows, ["", "first", "second", "difference", "95 % interval", "p"])))
    tests = "attributes by McNemar's exact test, means by permutation of the pairs"
    tests = "by permutation of whole groups" if shown_groups(first) else tests
    logger.info(f"p, two-sided: {tests}\n")


def shown_groups(result):
    return f", in {result['groups']} groups" if result["groups"] < result["images"] else ""


def shown_interval(ends, form=".4f"):
    return " .. ".join(score(end, form) for end in ends) if ends else "-"


def shown_p(value):
    return "< 0.0001" if value is not None and value < 0.0001 else score(value)


def main(argv=None):
    args = parse_args(argv)

    log.start()
    classifiers = load_classifiers(args)
    tables = [{args.split: part} for part in read_data(classifiers, args, args.split)]
    loaded = [load_pixels(part, args.cache_dir, args.skip_unreadable) for part in tables]
    splits, photos = ([part[args.split] for part in each] for each in zip(*loaded))
    # The second's files go into a folder of their own.
    folders = [args.output, os.path.join(args.output, "second")][: len(classifiers)]
    for folder in folders:
        check_folder(folder, FILES, (FILES[0], b'{\n "checkpoint": '))
    try:
        os.makedirs(folders[-1], exist_ok=True)
    except OSError as error:
        raise UserError(f"--output {args.output}: {error.strerror}; name another folder") from error
    unreadable({args.split: splits[0]}, os.path.join(args.output, "unreadable.txt"))

    done = []
    for classifier, data, pixels in zip(classifiers, splits, photos):
        done.append(evaluate(classifier, data, pixels, args))
        say_evaluation(done[-1][0], classifier.attributes)
    if len(done) == 2:
        done[0][0]["comparison"] = compare(splits, done)
        say_comparison(done[0][0], done[1][0])
    for folder, *one, (result, probabilities) in zip(folders, classifiers, splits, photos, done):
        write_files(folder, result, *one, probabilities, args.encoding)
    logger.info(f"written: {os.path.join(args.output, '')}")


if __name__ == "__main__":
    sys.exit(exit_code(main))
