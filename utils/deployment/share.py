"""A trained student as a folder to share on the Hugging Face hub, with its model card."""

import json
import os
import shlex
import shutil
import tempfile
from pathlib import Path
from string import Template

import numpy as np

from utils.base import files
from utils.base.errors import UserError
from utils.base.log import score
from utils.nets.backbones import LITE0, LITE0_PACKAGE
from utils.nets.hub import CONFIG, WEIGHTS, is_hub_id

CARD, STUDENT = "README.md", "student.onnx"
USE, CARD_TEXT = (Path(__file__).with_name(name) for name in ("use.py", "card.md"))
FILES = {CARD, STUDENT, CONFIG, WEIGHTS, USE.name, files.RECORD}
TASK = "image-classification"
# Our metrics: the hub's names, and the card's.
NAMES = {"top1": ("accuracy", "Top-1"), "acsa": ("balanced_accuracy", "ACSA")}
UNKNOWN = "not on record"
MOST = 20  # classes in a confusion matrix
ESCAPED = {ord(sign): f"\\{sign}" for sign in "\\`*_[]<>|&~$#"}  # those that mean something in markdown


def check_folder(output, checkpoint=""):
    """UserError unless a folder may be written there: in its place is nothing but an earlier one, whose card nobody has added
    to, and which is not the `checkpoint`."""
    if not os.path.lexists(output):
        return
    if not (os.path.isdir(output) and FILES.issuperset(os.listdir(output))):
        raise UserError(f"--output {output}: holds other things than an earlier export; name a new folder")
    if os.path.exists(checkpoint) and os.path.samefile(output, checkpoint):
        raise UserError(f"--output {output}: is --checkpoint, which is read; name another folder")
    files.check_folder(output, sorted(FILES - {files.RECORD}), (CONFIG, b'"role": "student"'))


def write_folder(output, student, net, meta, card):
    """Write the folder, whole or not at all, in place of an earlier one.

    Args: `student`, path of student.onnx; `net`, whose weights are shared; its public `meta`; text of the `card`.
    Raises: UserError or DiskFull if it cannot be written.
    """
    from safetensors.torch import save

    target = os.path.realpath(output)
    try:
        with tempfile.TemporaryDirectory(dir=os.path.dirname(target)) as scratch:
            folder = Path(scratch, "new")
            folder.mkdir()
            (folder / WEIGHTS).write_bytes(save(net.state_dict(), {"format": "pt"}))
            (folder / CONFIG).write_text(json.dumps(meta, indent=1))
            (folder / CARD).write_text(card, encoding="utf-8")
            for file in (student, USE):
                shutil.copy(file, folder)
            files.record(folder, os.listdir(folder))
            if os.path.exists(target):
                os.rename(target, os.path.join(scratch, "old"))
            folder.rename(target)
    except OSError as error:
        raise files.failure(output, error) from error


def model_card(net, meta, license, figures, onnx_top1):
    """Text of README.md, with the hub's head. The hub is not asked.

    Args: `net` and its public `meta`; `license`, the hub's name of one, or None; `figures` of all photos of a part, "split",
        see `utils.evaluation.metrics.report`; `onnx_top1`, the ONNX file's mean Top-1 on them.
    """
    from huggingface_hub import EvalResult, ModelCard, ModelCardData

    options, data_set = meta["options"], net.attributes.content.get("name", "own photos")
    own = LITE0_PACKAGE if options.get("student") == LITE0 else net.backbone.pretrained_cfg.get("hf_hub_id")
    weights = options.get("student_weights", UNKNOWN) or own or UNKNOWN
    weights = "random weights" if weights == "none" else weights
    base = weights if is_hub_id(weights) else None
    means = {key: figures[f"mean_{key}"] for key in (*NAMES, "majority")}
    found = [*figures["attributes"].items(), ("mean", means)]
    about = {"dataset_type": "custom", "dataset_name": data_set, "dataset_split": figures["split"]}
    results = []
    for of, scores in found:
        for key, (kind, title) in NAMES.items():
            if scores[key] is not None:
                said = {"metric_type": kind, "metric_value": round(scores[key], 4)}
                results.append(EvalResult(TASK, **said, metric_name=f"{title}, {of}", **about))
    name = options.get("version") or "student"
    about = {"license": license, "pipeline_tag": TASK, "tags": ["fashion", "onnx"], "base_model": base}
    head = ModelCardData(**about, model_name=name, eval_results=results).to_yaml()
    told = []
    for key, value in options.items():
        if value is not None and value is not False:
            value = shlex.join(value) if isinstance(value, list) else value
            told.append(f"--{key.replace('_', '-')} {value}")
    parts = {"name": name, "data_set": data_set, "network": net.title, "weights": weights}
    parts.update(options=" ".join(told) or UNKNOWN, onnx=score(onnx_top1), **meta["export"])
    parts = {key: _plain(part) for key, part in parts.items()}
    parts.update(_parts(net.attributes, figures, found))
    text = Template(CARD_TEXT.read_text(encoding="utf-8")).substitute(parts)
    return str(ModelCard(f"---\n{head}\n---\n\n{text}"))


def _parts(attributes, figures, found):
    """The card's tables and figures. Args: `found`, (attribute or "mean", its scores) of each row."""
    example = {"photo": "photo.jpg", **{key: attribute.classes[0] for key, attribute in attributes.items()}}
    matrices = []
    for key, attribute in attributes.items():
        counts, names = np.array(figures["attributes"][key]["matrix"]), list(attribute.classes)
        if len(names) > MOST:
            most, others = np.split(np.argsort(-counts.sum(axis=1), kind="stable"), [MOST])
            counts = np.column_stack([counts[np.ix_(most, most)], counts[np.ix_(most, others)].sum(axis=1)])
            names = [*(names[i] for i in most), "another"]
        rows = [[name, *row] for name, row in zip(names, counts)]
        matrices.append(_table([f"{key}: label, prediction →", *names], rows))
    classes = [[key, " · ".join(attribute.classes)] for key, attribute in attributes.items()]
    scores = [[of, *(score(values[key]) for key in (*NAMES, "majority"))] for of, values in found]
    sure = []
    for key, one in figures["sure"]["attributes"].items():
        sure.append(f"{key} {one['answered']['0.95']:.0%} (calibration error {score(one['ece'][1])})")
    images, groups, split = figures["images"], figures["groups"], figures["split"]
    chosen = ", but its epoch may have been chosen by them, so that the scores are a little too good"
    return {
        "attributes": _table(["attribute", "classes, in label order"], classes),
        "example": json.dumps(example, ensure_ascii=False),
        "images": images,
        "split": split,
        "chosen": "" if split == "test" else chosen,
        "drawn": "photos" if groups == images else f"{groups} groups of photos",
        "interval": " to ".join(map(score, figures["mean_top1_interval"] or [None])),
        "matrices": "\n\n".join(matrices),
        "sure": _plain(", ".join(sure)),
        "scores": _table(["", *(title for _, title in NAMES.values()), "majority"], scores),
    }


def _table(header, rows):
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(_plain(cell) for cell in line)} |" for line in lines)


def _plain(text):
    return str(text).translate(ESCAPED)
