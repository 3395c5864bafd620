"""The teacher of a student's run: loaded, frozen, asked once per image."""

import hashlib
import os

import numpy as np
import torch

from clip_model import FashionCLIP
from utils import engine
from utils.checkpoint import load_state, read_file, split
from utils.errors import UserError
from utils.files import atomic
from utils.logging import logger
from utils.run import MODEL_ROOT, epoch_files

ZERO_SHOT = "zero-shot"


def load_teacher(name, clip_model, prompts):
    """The frozen teacher.

    Args:
        name: checkpoint relative to `model/`, ours or a published one, or "zero-shot" for FashionCLIP as it comes.
        clip_model, prompts: as of `FashionCLIP`; for zero-shot and published checkpoints, which hold neither.
    Raises: UserError if the checkpoint does not exist, is a student's, or does not fit.
    """
    if name == ZERO_SHOT:
        net = FashionCLIP(clip_model, prompts)
    else:
        path = os.path.join(MODEL_ROOT, name)
        if not os.path.isfile(path):
            raise UserError(f"--teacher {name}: no {path}; {_existing_checkpoints()}")
        state, meta = split(read_file(path), path)
        if meta.get("role", FashionCLIP.role) != FashionCLIP.role or any("head_" in key for key in state):
            raise UserError(f"--teacher {name}: {path} is a student's checkpoint; {_existing_checkpoints()}")
        net = FashionCLIP.from_meta(meta) if meta else FashionCLIP(clip_model, prompts)
        load_state(net, net.own_names(state), path)
    return net.requires_grad_(False).eval()


def _existing_checkpoints():
    folders = sorted(os.listdir(MODEL_ROOT)) if os.path.isdir(MODEL_ROOT) else []
    found = []
    for folder in folders:
        epochs = list(epoch_files(os.path.join(MODEL_ROOT, folder)))
        if epochs:
            found.append(f"{folder}/model_{{{','.join(map(str, epochs))}}}.pt")
    return "there are: " + "  ".join(found) if found else f"there is no checkpoint under {MODEL_ROOT}/ yet"


def teacher_logits(net, data, cache_dir, batch_size, device, precision):
    """The teacher's logits of every image, computed once per teacher, data set and precision.

    Args: `net` frozen, `data` a `utils.dataset.Split` whose pixels are a cached array.
    Returns: dict attribute -> float32 tensor `(N, classes)`, on `device`.
    """
    path = os.path.join(cache_dir, f"logits-{_fingerprint(net, data, precision)}.npz")
    if os.path.exists(path):
        logger.info(f"teacher's logits: read from {path}")
        with np.load(path) as file:
            logits = {key: torch.from_numpy(file[key]) for key in file.files}
    else:
        logits = engine.predict(
            net.to(device), data.pixels, batch_size, device, precision, "teacher's logits"
        )
        with atomic(path, binary=True) as file:
            np.savez(file, **{key: values.numpy() for key, values in logits.items()})
        logger.info(f"teacher's logits: computed for {len(data.names)} images, kept in {path}")
    return {key: values.to(device) for key, values in logits.items()}


def _fingerprint(net, data, precision):
    """Hash of all that the logits depend on."""
    digest = hashlib.blake2b(digest_size=16)
    digest.update(repr((os.path.basename(data.pixels.filename), precision.name, net.token_ids)).encode())
    for name, value in net.state_dict().items():
        digest.update(name.encode())
        digest.update(value.cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()
