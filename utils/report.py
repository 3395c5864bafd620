"""What a run says: its header, each epoch, the end."""

import os
import platform
from importlib.metadata import version

import numpy as np
import torch

from utils.attributes import ATTRIBUTES
from utils.logging import logger, table

PACKAGES = (
    "torch",
    "torchvision",
    "transformers",
    "timm",
    "scikit-image",
    "scikit-learn",
    "scipy",
    "numpy",
    "pillow",
)


def header(options, net, data, precision, world):
    """Everything that one needs to know to run it again."""
    say = logger.info
    say(f"training the {net.role}: {type(net).__name__}")
    say("options: " + "  ".join(f"--{name.replace('_', '-')} {value}" for name, value in options.items()))
    say(f"python {platform.python_version()}  " + "  ".join(f"{name} {version(name)}" for name in PACKAGES))
    processes = f"{world.size} processes, each with " if world.size > 1 else ""
    say(f"device: {processes}{_device_name(world.device)}, {torch.get_num_threads()} threads")
    say(f"precision: {precision.name} ({precision.reason})")
    say(f"seed: {options['seed']}")
    for split, part in data.items():
        counts = "  ".join(
            f"{key} {'/'.join(map(str, np.bincount(part.labels[key], minlength=len(attribute.classes))))}"
            for key, attribute in ATTRIBUTES.items()
        )
        say(f"{split}: {len(part.names)} images, per class {counts}")
    parameters = list(net.parameters())
    size = sum(value.numel() * value.element_size() for value in net.state_dict().values())
    say(f"parameters: {sum(p.numel() for p in parameters):,}, {size / 1e6:.1f} MB on disk")
    if not options["kd_learning"] and options["clip_model"] == "random":
        logger.warning("warning: --clip-model random: a small CLIP with random weights, not FashionCLIP")
    if options["kd_learning"] and options["student_weights"] == "none":
        logger.warning("warning: --student-weights none: the student starts from random weights")


def _device_name(device):
    return torch.cuda.get_device_name(device) if device.type == "cuda" else f"cpu, {platform.machine()}"


def epoch(row, scores, epochs):
    """Confusion matrices and scores of one epoch."""
    for key, attribute in ATTRIBUTES.items():
        logger.info(f"{key}: rows are labels, columns predictions")
        rows = [[f"  {i} {name}", *scores["matrix"][key][i]] for i, name in enumerate(attribute.classes)]
        for line in table(rows, ["", *range(len(attribute.classes))]):
            logger.info(line)
    rows = [[key, f"{scores['top1'][key]:.4f}", f"{scores['acsa'][key]:.4f}"] for key in ATTRIBUTES]
    rows.append(["mean", f"{scores['mean_top1']:.4f}", f"{scores['mean_acsa']:.4f}"])
    for line in table(rows, ["validation", "Top-1", "ACSA"]):
        logger.info(line)
    logger.info(
        f"epoch {row['epoch']}/{epochs} done: train loss {row['train_loss']:.4f}, "
        f"Top-1 {row['val_top1']:.4f}, ACSA {row['val_acsa']:.4f}, {row['seconds']:.1f} s"
    )


def majority_top1(data):
    """Mean Top-1 on the validation images of always naming the training images' most frequent classes."""
    top = {key: np.bincount(labels).argmax() for key, labels in data["train"].labels.items()}
    return float(np.mean([(data["val"].labels[key] == label).mean() for key, label in top.items()]))


def summary(run, data):
    """The best epoch, and where everything is."""
    best = run.best
    rows = [[key, f"{best[f'val_top1_{key}']:.4f}", f"{best[f'val_acsa_{key}']:.4f}"] for key in ATTRIBUTES]
    rows.append(["mean", f"{best['val_top1']:.4f}", f"{best['val_acsa']:.4f}"])
    logger.info("")
    for line in table(rows, [f"best: epoch {best['epoch']}", "Top-1", "ACSA"]):
        logger.info(line)
    logger.info(f"always the most frequent classes: mean Top-1 {majority_top1(data):.4f}")
    size = os.path.getsize(run.best_file) / 1e6
    for what, path in (
        ("best weights", f"{run.best_file} -> {os.readlink(run.best_file)} ({size:.1f} MB)"),
        ("all epochs", run.model_dir),
        ("log", run.log_file),
        ("metrics", run.metrics_file),
        ("options", run.args_file),
    ):
        logger.info(f"{what + ':':<14}{path}")


def finished(run):
    """A run that was to be resumed has nothing left to do."""
    logger.info(
        f"{run.model_dir}: all {len(run.rows)} epochs are done, best: epoch {run.best['epoch']}, "
        f"mean Top-1 {run.best['val_top1']:.4f}; a higher --epochs goes on from there"
    )
