"""Parts of export.py: photos to compare on, the metadata, the file, and its time."""

import contextlib
import hashlib
import json
import os
import time

import numpy as np
import torch

from clip_model import PROMPTS, read_prompts
from utils.attributes import ATTRIBUTES
from utils.checkpoint import read_meta, save_checkpoint
from utils.dataset import SIZE, letterbox, read_csv, read_rgb
from utils.errors import UserError
from utils.run import MODEL_ROOT
from utils.sample_data import draw_photos
from utils.teacher import ZERO_SHOT

PICTURES = 16  # drawn where there are no photos


def import_onnx():
    """UserError unless the packages that write ONNX are installed."""
    try:
        import onnx  # noqa: F401
        import onnxruntime  # noqa: F401
    except ImportError as error:
        raise UserError(f"--format onnx needs {error.name}: pip install onnx onnxruntime") from error


def photos_of(data_dir, split, count):
    """Letterboxed photos, evenly spread over a split.

    Returns: (uint8 `(N, 224, 224, 3)`, dict attribute -> int64 `(N,)`); without a data set, for validation
        only, drawn pictures and None.
    Raises: UserError if photos to calibrate on, or one of the photos chosen, cannot be read.
    """
    path = os.path.join(data_dir, f"Fashion-How24_sub1_{split}.csv")
    if not os.path.isfile(path):
        if split == "train":
            raise UserError(
                f"--precision int8 is calibrated on photos: no {path}; name a data set with --data-dir"
            )
        print(f"no {path}: compared on drawn pictures, without their accuracy")
        return np.stack([letterbox(np.asarray(photo)) for photo in draw_photos(PICTURES)]), None
    names, labels = read_csv(path, os.path.join(data_dir, split))
    chosen = np.unique(np.linspace(0, len(names) - 1, min(count, len(names))).astype(int))
    pixels = np.empty((len(chosen), SIZE, SIZE, 3), np.uint8)
    for place, row in zip(pixels, chosen):
        photo = os.path.join(data_dir, split, names[row])
        try:
            place[:] = letterbox(read_rgb(photo))
        except Exception as error:  # whatever a decoder raises
            raise UserError(f"photo {photo} cannot be read: {error}") from error
    return pixels, {key: values[chosen] for key, values in labels.items()}


def export_meta(meta, args):
    """The checkpoint's meta, and what the file's reader wants to know besides."""
    classes = {
        key: {"column": a.column, "short": a.short, "en": list(a.classes), "ko": list(a.classes_ko)}
        for key, a in ATTRIBUTES.items()
    }
    options = meta.get("options", {})
    return dict(
        meta,
        role="student",
        distillation=False,
        folded=True,
        version=options.get("version"),
        classes=classes,
        prompts_sha256=prompts_hash(options),
        export={"precision": args.precision, "checkpoint": os.path.basename(args.checkpoint), "format": 1},
    )


def prompts_hash(options):
    """SHA-256 of the teacher's prompts as JSON; None for a student without a teacher, or where it is not known."""
    if not options.get("teacher") or options.get("distillation_type") == "none":
        return None
    prompts = None
    try:
        if options["teacher"] != ZERO_SHOT:
            prompts = read_meta(os.path.join(MODEL_ROOT, options["teacher"])).get("prompts")
        if prompts is None:
            prompts = read_prompts(options["prompts"]) if options.get("prompts") else PROMPTS
    except UserError:  # the teacher or the file of prompts is not on this machine
        return None
    text = json.dumps({key: list(prompts[key]) for key in sorted(prompts)}, ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()


def write(net, path, meta, format, precision, calibration=None):
    """Write a folded student.

    Args: `calibration`, uint8 `(N, 224, 224, 3)` photos for int8.
    """
    if format == "pt":
        save_checkpoint(path, net.half() if precision == "fp16" else net, meta)
        return
    from utils import onnx_export

    model = onnx_export.trace(net)
    if precision == "fp16":
        onnx_export.to_fp16(model)
    elif precision == "int8":
        model = onnx_export.to_int8(model, calibration)
    onnx_export.save(model, path, meta)


# --- its time ----------------------------------------------------------------------------------------


@contextlib.contextmanager
def one_thread():
    """PyTorch on one thread."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def seconds_per_photo(functions, photo, rounds=15):
    """The shortest of some calls of each function, taken in turns, so that a busy machine hits all alike."""
    best = [float("inf")] * len(functions)
    for _ in range(rounds):
        for place, function in enumerate(functions):
            start = time.perf_counter()
            function(photo)
            best[place] = min(best[place], time.perf_counter() - start)
    return best
