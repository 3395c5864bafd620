"""A run that goes on: whether its last.pt is that of this run."""

import hashlib

import torch

from utils.nets.checkpoint import LOCAL

# What a last.pt must hold under "progress".
KEYS = set(
    "cuda_random_state data epoch losses optimizer order_state random_state rows scheduler seconds teacher_logits".split()
)


def data_fingerprint(data):
    """Hash of a data set's names, labels, sizes and boxes of the photos that can be read; not of the folder, which may move.

    Args: `data`, dict part -> `utils.data.dataset.Table`.
    """
    digest = hashlib.sha256()
    for name, split in data.items():
        labels = {key: values.tolist() for key, values in split.labels.items()}
        digest.update(repr((name, split.names, labels, [stamp[0] for stamp in split.stamps])).encode())
        if split.boxes is not None:  # with --crop-to-box only
            digest.update(split.boxes.tobytes())
    return digest.hexdigest()


BEGIN_ANEW = "begin anew with --overwrite True"


NO_STATE = f"holds no state of a run; {BEGIN_ANEW}"


MAY_CHANGE = {*LOCAL, "epochs", "version"}  # when a run is resumed; a version's folders may be renamed


def _is_state(meta, progress):
    """Whether a checkpoint's content is of the form that `TrainState.save` writes, as far as it is used before it is loaded."""
    if not (isinstance(progress, dict) and set(progress) >= KEYS and isinstance(progress["rows"], list)):
        return False
    rows, losses, logits = progress["rows"], progress["losses"], progress["teacher_logits"]
    teacher = progress.get("teacher")
    return (
        isinstance(meta.get("options"), dict)
        and meta.get("precision") in ("fp32", "bf16")
        and meta.get("role") in ("teacher", "student")
        and (teacher is None or (isinstance(teacher, dict) and set(teacher) == {"identity", "prior"}))
        and all(isinstance(row, dict) for row in rows)
        and all(isinstance(value, (int, float, type(None))) for row in rows for value in row.values())
        and all(isinstance(row.get(name), (int, float)) for row in rows for name in ("val_top1", "val_acsa"))
        and [row.get("epoch") for row in rows] == list(range(1, len(rows) + 1))
        and type(progress["epoch"]) is int
        and torch.is_tensor(losses)
        and losses.dim() == 2
        and (logits is None or (isinstance(logits, dict) and all(map(torch.is_tensor, logits.values()))))
    )
