"""Evaluate a trained network, or compare two: metrics with intervals, predictions and pictures."""

import os
import sys

from utils.base import log
from utils.base.cli import Parser, exit_code, number
from utils.base.errors import UserError, counted, excerpt
from utils.base.files import check_folder, digest_of, write_csv, write_json
from utils.base.log import logger, score
from utils.data.attributes import PARTS, read_attributes
from utils.data.dataset import load_pixels, unreadable
from utils.evaluation import confidence, metrics, pictures, plots
from utils.evaluation.as_trained import read_as_trained
from utils.evaluation.inference import load_classifier
from utils.evaluation.predictions import PredictionTable, write_classes
from utils.nets.hub import ZERO_SHOT, weights_file

PICTURES = ("confusion.png", "reliability.png", "mistakes.png")
FILES = (confidence.FIGURES, "predictions.csv", "classes.csv", "unreadable.txt", *PICTURES)
MAX_MB = 25  # of the competition, 10^6 bytes
MOST = 30  # classes of an attribute whose figures by class are printed


# fmt: off
def get_args_parser():
    p = Parser(prog="evaluate.py", description=__doc__)
    p.add_argument("--checkpoint", nargs="+", required=True, help="checkpoint (.pt, student or teacher), exported .onnx, or a folder of export.py --format hub, also as owner/name of the hub; or zero-shot: FashionCLIP as it comes, with the prompts of --attributes, else of the other checkpoint, else of the competition; with two, the first is compared with the second", metavar="FILE")
    p.data_options(p)
    p.add_argument("--split", choices=PARTS, default="val", help="part of the data set; test is a third one that the attributes name, from which nothing was chosen")
    p.add_argument("--output", help="folder for the files; without it, the first checkpoint's name with the split: model/student/best.pt writes model/student/best_val/ (best_val_balanced/ with that --prior), zero-shot model/zero-shot_val/", metavar="DIR")
    p.add_argument("--clip-model", help="for zero-shot, and for a published teacher, which does not say what it began from: hub name or local folder; without it, FashionCLIP from the hub", metavar="NAME")
    p.add_argument("--prompts", help="for the same two: JSON file, attribute -> a sentence for each class; without it, zero-shot has the attributes' own, a published teacher those of utils/data/fashion_how.json", metavar="FILE")
    p.prior_option(p)
    p.device_option(p)
    p.encoding_option(p)
    p.add_argument("--batch-size", type=number(int, 1), default=32, help="images per step", metavar="N")
    return p
# fmt: on


def load_classifiers(args):
    """The networks of the checkpoints. Raises: UserError, also for options that no checkpoint needs."""
    clip = {"clip_model": args.clip_model, "prompts": args.prompts}
    options = {"prior": args.prior, "device": args.device, **clip}
    attributes, found = read_attributes(args.attributes) if args.attributes else None, {}
    # Zero-shot comes last: without --attributes it has the other's.
    for path in sorted(args.checkpoint, key=lambda path: path == ZERO_SHOT):
        found[path] = load_classifier(path, attributes=attributes, **options)
        attributes = attributes or found[path].attributes
    unsaid = any(one.role == "teacher" and not one.meta for one in found.values())
    if any(clip.values()) and not unsaid:
        raise UserError("--clip-model, --prompts: only for zero-shot or a published teacher")
    return [found[path] for path in args.checkpoint]


def figures_of(classifier, table, probabilities, **about):
    """What evaluation.json holds of a network on one part of a data set: plain values, `about` among them."""
    answers = probabilities, table.labels, table.groups
    figures = {**metrics.report(*answers), "sure": {"attributes": confidence.measure(*answers)}}
    if classifier.path == ZERO_SHOT:  # its weights in float32
        size = sum(weight.numel() for weight in classifier.net.parameters()) * 4
    else:
        size = os.path.getsize(weights_file(classifier.path))
        figures["sure"]["weights"] = digest_of(weights_file(classifier.path))
    for key, attribute in classifier.attributes.items():
        figures["attributes"][key]["classes"] = attribute.classes  # names of the matrix's rows and columns
    about = {"checkpoint": classifier.path, "role": classifier.role, "network": classifier.network, **about}
    about.update(size_mb=size / 1e6, score=figures["mean_top1"])  # the score as the competition counts it
    return {**about, "unreadable": len(table.unreadable), **figures}


# --- files -------------------------------------------------------------------------------------------


def draw_pictures(folder, result, attributes, table, pixels, probabilities):
    """Three PNG files, where matplotlib is installed."""
    title = f"{plots.shortened_name(result['checkpoint'])}, {result['split']}, {result['images']} images"
    confusion, reliability, mistakes = (os.path.join(folder, name) for name in PICTURES)
    try:
        pictures.draw_confusion(result, attributes, confusion, title)
        pictures.draw_reliability(result, probabilities, attributes, table, reliability, title)
        pictures.draw_mistakes(probabilities, attributes, table, pixels, mistakes, title)
    except (UserError, OSError) as error:
        logger.warning(f"warning: the pictures are not drawn: {error}")


def class_rows(figures, form, none):
    """A row for each class: how many photos have its label, precision, recall and F1, `none` where there is no photo to tell."""
    each = zip(figures["classes"], *figures["by_class"].values())
    return [[name, photos, *(score(share, form, none) for share in shares)] for name, photos, *shares in each]


# --- on the terminal ---------------------------------------------------------------------------------


def say_classes(result):
    """The figures of each class, of attributes that have few."""
    for key, figures in result["attributes"].items():
        if len(figures["classes"]) <= MOST:
            rows = [[excerpt(name, 40), *cells] for name, *cells in class_rows(figures, ".3f", "-")]
            logger.info("\n".join(["", *log.table(rows, [key, "photos", "precision", "recall", "F1"])]))
    logger.info("")


def say_evaluation(result, attributes):
    """The figures of one network."""
    names = {"top1": "Top-1", "majority": "majority", "acsa": "ACSA", "macro_f1": "macro-F1"}
    names["ece"] = "calibration error"
    if 2 in attributes.sizes.values():
        names["average_precision"] = "AP"
    columns = {title: metrics.by_attribute(result, name) for name, title in names.items()}
    ends = ["95 % interval", *(shown_interval(result.get(f"mean_{name}_interval")) for name in names)]
    if "products" in result:
        columns["by product"] = result["products"]["top1"]
        ends.append("-")
    size = f"{result['size_mb']:.1f} MB on disk"
    if not read_attributes().differences(attributes):
        size += f", of {MAX_MB} allowed" + ("" if result["size_mb"] <= MAX_MB else ": too large to hand in")
        size = f"competition's score (mean Top-1): {score(result['score'])}; {size}"
    images = f"{counted(result['images'], 'image', 'images')} of {result['split']}{shown_groups(result)}"
    prior = "" if result["prior"] == "trained" else f", --prior {result['prior']}"
    logger.info(f"{result['checkpoint']}: {result['network']}, {images}{prior}")
    logger.info("\n".join(metrics.score_table("", columns, ends)))
    if result["warning"]:
        logger.info(result["warning"])
    if result["split"] == "val" and result["checkpoint"] != ZERO_SHOT:
        logger.info(metrics.CHOSEN)
    logger.info(f"{size}\n")
    if result["split"] != "train":  # which it has learned by heart
        say_sure(result["sure"]["attributes"], "groups" if shown_groups(result) else "photos")


def say_sure(measured, unit):
    """For which share of the photos, or products, an answer is sure, and what the temperature does.

    Args: `measured` of `confidence.measure`; `unit`, what counts once.
    """
    products = {f"{key} by product": one["products"] for key, one in measured.items() if "products" in one}
    header = ["answered at --sure", *next(iter(measured.values()))["answered"]]
    rows = []
    for key, one in {**measured, **products}.items():
        figures = *one["answered"].values(), one["temperature"], *one["ece"]
        rows.append([excerpt(key, 40), *map(score, figures)])
    logger.info("\n".join(log.table(rows, [*header, "temperature", "calibration error", "with it"])))
    if not all(all(one["answered"].values()) for one in measured.values()):
        needed = (f"{confidence.answers_needed(share)} for {share:.2f}" for share in confidence.SHARES)
        logger.info(f"0: nothing is sure; it takes right answers in a row, of {unit}: {', '.join(needed)}")
    logger.info("")


def say_comparison(first, second):
    """Two networks side by side."""
    comparison, rows = first["comparison"], []
    for name, title in (("top1", "Top-1"), ("acsa", "ACSA")):
        for key, between in comparison["attributes"].items():
            both = [score(result["attributes"][key][name]) for result in (first, second)]
            p = shown_p(between["p"]) if name == "top1" else ""
            rows.append([f"{title} {key}", *both, score(between[name], "+.4f"), "", p])
        name = f"mean_{name}"
        both, mean = [score(result[name]) for result in (first, second)], comparison[name]
        between = [score(mean["difference"], "+.4f"), shown_interval(mean["interval"], "+.4f")]
        rows.append([f"{title} mean", *both, *between, shown_p(mean["p"])])
    for name, result in (("first: ", first), ("second:", second)):
        logger.info(f"{name} {result['checkpoint']}: {result['network']}")
    logger.info("\n".join(log.table(rows, ["", "first", "second", "difference", "95 % interval", "p"])))
    tests = "attributes by McNemar's exact test, means by permutation of the pairs"
    tests = "by permutation of whole groups" if shown_groups(first) else tests
    logger.info(f"p, two-sided: {tests}\n")


def shown_groups(result):
    groups = counted(result["groups"], "group", "groups")
    return f", in {groups}" if result["groups"] < result["images"] else ""


def shown_interval(ends, form=".4f"):
    return " .. ".join(score(end, form) for end in ends) if ends else "-"


def shown_p(value):
    return "< 0.0001" if value is not None and value < 0.0001 else score(value)


def main(argv=None):
    parser = get_args_parser()
    args = parser.parse_args(argv)
    if len(args.checkpoint) > 2:
        parser.error(f"--checkpoint takes one file, or two to compare, not {len(args.checkpoint)}")
    args.output = args.output or confidence.evaluation_folder(args.checkpoint[0], args.split, args.prior)
    log.start()
    classifiers = load_classifiers(args)
    how = {"skip_unreadable": args.skip_unreadable, "follow_links": args.follow_links}
    read = read_as_trained(classifiers, args.split, args.data_dir, args.attributes, **how)
    parts = [load_pixels({args.split: table}, args.cache_dir, args.skip_unreadable) for table in read]
    tables, pixels = ([part[args.split] for part in each] for each in zip(*parts))
    # The second's files go into a folder of their own.
    folders = [args.output, os.path.join(args.output, "second")][: len(classifiers)]
    for folder in folders:
        check_folder(folder, FILES, (FILES[0], b'{\n "checkpoint": '))
    os.makedirs(folders[-1], exist_ok=True)
    unreadable({args.split: tables[0]}, os.path.join(args.output, "unreadable.txt"))

    results, hits = [], []
    for folder, classifier, table, photos in zip(folders, classifiers, tables, pixels):
        attributes, said = classifier.attributes, classifier.predict(photos, args.batch_size)
        results.append(figures_of(classifier, table, said, split=args.split, prior=args.prior))
        # By its own labels: a class may have another number in the other network.
        hits.append({key: values.argmax(axis=1) == table.labels[key] for key, values in said.items()})
        if len(classifiers) == 1:
            say_classes(results[-1])
        say_evaluation(results[-1], attributes)
        write_json(os.path.join(folder, FILES[0]), results[-1])
        written = PredictionTable(attributes, labels=True, probabilities=True)
        rows = written.rows(table.names, said, table.labels)
        write_csv(os.path.join(folder, FILES[1]), written.header, rows, args.encoding)
        each = {key: class_rows(its, ".4f", "") for key, its in results[-1]["attributes"].items()}
        columns = ["photos", "precision", "recall", "f1"]
        write_classes(os.path.join(folder, FILES[2]), columns, each, args.encoding)
        draw_pictures(folder, results[-1], attributes, table, photos, said)
    if len(results) == 2:
        tests = metrics.paired_tests(tables[0].labels, *hits, tables[0].groups)
        results[0]["comparison"] = {"checkpoint": classifiers[1].path, **tests}
        say_comparison(*results)
        write_json(os.path.join(args.output, FILES[0]), results[0])
    logger.info(f"written: {os.path.join(args.output, '')}")


if __name__ == "__main__":
    sys.exit(exit_code(main))
