"""What one may not have meant, or would want to know: lines for the log, each with the way out."""

import os

from utils.base.errors import listed
from utils.losses import overweighted
from utils.training.options import without_effect

NVIDIA_DRIVER = "/proc/driver/nvidia/version"  # is there where the driver is loaded
# Parts of a data set, and what it means that none of the labels, or none of a class, is there.
WITHOUT = (
    ("train", "training", "only a teacher, or prompts, tell it", "add some, or take out what has none"),
    ("val", "validation", "no score, and no part in the means", "no score counts it"),
)


def before(args, loss, tables, attributes, counts, device):
    """Lines about a run that begins.

    Args: options of train.py; `loss`, LossOptions; `tables` of both parts; `counts` of `utils.data.dataset.class_counts`; `device`, torch.device.
    """
    lines = without_effect(args)
    if args.device == "auto" and device.type != "cuda" and os.path.exists(NVIDIA_DRIVER):
        lines.append("PyTorch cannot use the NVIDIA GPU here: install a build of it that fits the driver")
    if not args.kd_learning and args.clip_model == "random":
        lines.append("--clip-model random: a small CLIP with random weights, not FashionCLIP")
    if args.kd_learning and args.student_weights == "none":
        lines.append("--student-weights none: the student starts from random weights")
    for key in overweighted(loss, tables["train"].labels, attributes.sizes):
        problem = f"--ls {args.ls} and --loss-weight True together let its rare classes win on every photo"
        lines.append(f"{key}: {problem}; add --ls 0, or --logit-adjustment 1 --loss-weight False")
    for part, title, none, some in WITHOUT:
        for key, attribute in attributes.items():
            absent = [name for name, count in zip(attribute.classes, counts[part][key]) if not count]
            if len(absent) == len(attribute.classes):
                lines.append(f"{key}: no label in {title}: {none}")
            elif absent:
                lines.append(f"{key}: no {title} photo of {listed(absent)}: {some}")
    return lines
