"""What a run says: its header, each epoch, the end."""

import os
import platform
from importlib.metadata import PackageNotFoundError, version

from utils.attributes import UNKNOWN
from utils.dataset import count_classes
from utils.files import atomic
from utils.log import logger, table
from utils.metrics import mean

NVIDIA_DRIVER = "/proc/driver/nvidia/version"  # is there where the driver is loaded
# Beside the scores of a checkpoint on the validation photos.
CHOSEN = (
    "best.pt is the epoch that scored best on the validation photos, so that its scores there are a little too good; "
    'with a "test" in the attributes, evaluate.py --split test measures it on others'
)
PACKAGES = "torch torchvision transformers timm scikit-image scikit-learn scipy numpy pillow".split()


def header(args, net, data, precision, world):
    """Everything that one needs to know to run it again."""
    from utils.losses import (
        smoothed_away,
    )  # here: it imports torch, which evaluate.py of an exported file does without

    say = logger.info
    say(f"training the {net.role}: {net.title}")
    say("options: " + "  ".join(f"--{name.replace('_', '-')} {value}" for name, value in vars(args).items()))
    machine(world.device, precision, world.size)
    say(f"seed: {args.seed}")
    for name, split in data.items():
        say(f"{name}: {len(split.names)} images, per class {_class_counts(split, net.attributes)}")
    parameters = sum(parameter.numel() for parameter in net.parameters())
    size = sum(value.numel() * value.element_size() for value in net.state_dict().values())
    say(f"parameters: {parameters:,}, {size / 1e6:.1f} MB on disk")
    if args.device == "auto" and world.device.type == "cpu" and os.path.exists(NVIDIA_DRIVER):
        logger.warning(
            "warning: PyTorch cannot use the NVIDIA GPU here: install a build of it that fits the driver"
        )
    if not args.kd_learning and args.clip_model == "random":
        logger.warning("warning: --clip-model random: a small CLIP with random weights, not FashionCLIP")
    if args.kd_learning and args.student_weights == "none":
        logger.warning("warning: --student-weights none: the student starts from random weights")
    overturned = smoothed_away(args, data["train"].labels, net.attributes.sizes, weighted=True)
    for key in overturned if args.loss_weight else []:
        problem = f"--ls {args.ls} and --loss-weight True together let its rare classes win on every photo"
        logger.warning(f"warning: {key}: {problem}; add --ls 0, or --logit-adjustment 1 --loss-weight False")
    for key, labels in data["val"].labels.items():
        if (labels == UNKNOWN).all():
            logger.warning(f"warning: {key}: no label in validation: no score, and no part in the means")


def machine(device, precision, size=1):
    """What computes: packages, device, threads, precision; `size` is the number of processes."""
    import torch  # here, as above

    say = logger.info
    processes = f"{size} processes, each with " if size > 1 else ""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else f"cpu, {platform.machine()}"
    say(f"python {platform.python_version()}  " + "  ".join(f"{name} {_version(name)}" for name in PACKAGES))
    say(f"device: {processes}{name}, {torch.get_num_threads()} threads")
    say(f"precision: {precision.name} ({precision.reason})")


def _class_counts(split, attributes):
    parts = []
    for key, attribute in attributes.items():
        counts = count_classes(split.labels[key], len(attribute.classes))
        unknown = len(split.names) - counts.sum()
        parts.append(f"{key} {'/'.join(map(str, counts))}" + (f" ({unknown} not known)" if unknown else ""))
    return "  ".join(parts)


def _version(package):
    try:
        return version(package)
    except PackageNotFoundError:
        return "none"


def unreadable(data, path):
    """Say how many photos were left out, and list them in a file; with none, remove that of an earlier run."""
    lines = [line for split in data.values() for line in split.unreadable]
    if os.path.exists(path):
        os.remove(path)
    if lines:
        logger.warning(f"warning: {len(lines)} photos cannot be read and are left out, see {path}")
        with atomic(path) as file:
            file.writelines(f"{line}\n" for line in lines)


def epoch(row, matrices, attributes, epochs):
    """Confusion matrices (dict attribute -> array) and scores (of the row of metrics.csv) of one epoch."""
    lines = []
    for key, attribute in attributes.items():
        rows = [[f"  {i} {name}", *matrices[key][i]] for i, name in enumerate(attribute.classes)]
        lines += [f"{key}: rows are labels, columns predictions", *table(rows, ["", *range(len(rows))])]
    lines += score_table("validation", row, attributes)
    lines.append(
        f"epoch {row['epoch']}/{epochs} done: train loss {row['train_loss']:.4f}, "
        f"Top-1 {row['val_top1']:.4f}, ACSA {row['val_acsa']:.4f}, {row['seconds']:.1f} s"
    )
    for line in lines:
        logger.info(line)


def score_table(title, row, attributes):
    """Lines: Top-1 and ACSA of each attribute, and their means, from a row of metrics.csv."""
    rows = []
    for name, suffix in [*((key, f"_{key}") for key in attributes), ("mean", "")]:
        rows.append([name, score(row[f"val_top1{suffix}"]), score(row[f"val_acsa{suffix}"])])
    return table(rows, [title, "Top-1", "ACSA"])


def score(value, form=".4f"):
    """A figure of a table; a dash where there is none."""
    return "-" if value is None else format(value, form)


def majority_top1(data):
    """Mean Top-1 on the validation images of always naming the training images' most frequent classes."""
    shares = []
    for key, labels in data["train"].labels.items():
        counts = count_classes(labels, 1)
        known = data["val"].labels[key][data["val"].labels[key] != UNKNOWN]
        shares.append((known == counts.argmax()).mean() if len(known) else None)
    return mean(shares)


def summary(run, data):
    """The best epoch, and where everything is."""
    best = run.best
    logger.info("")
    for line in score_table(f"best: epoch {best['epoch']}", best, data["train"].labels):
        logger.info(line)
    logger.info(CHOSEN)
    logger.info(f"always the most frequent classes: mean Top-1 {majority_top1(data):.4f}")
    size = os.path.getsize(run.best_file) / 1e6
    logger.info(f"best weights: {run.best_file} -> model_{best['epoch']}.pt ({size:.1f} MB)")
    logger.info(f"all epochs:   {run.model_dir}")
    logger.info(f"log:          {run.log_file}")
    logger.info(f"metrics:      {run.metrics_file}")
    logger.info(f"options:      {run.args_file}")


def finished(run):
    """A run that was to be resumed has nothing left to do."""
    logger.info(
        f"{run.model_dir}: all {len(run.rows)} epochs are done, best: epoch {run.best['epoch']}, "
        f"mean Top-1 {run.best['val_top1']:.4f}, ACSA {run.best['val_acsa']:.4f}; a higher --epochs goes on from there"
    )
