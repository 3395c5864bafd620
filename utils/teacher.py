"""The teacher of a student's run: loaded, frozen, asked once per image."""

import hashlib
import os
import zipfile

import numpy as np
import torch

from clip_model import FashionCLIP
from utils import engine
from utils.attributes import ATTRIBUTES
from utils.checkpoint import load_state, read_file, split
from utils.errors import UserError, shortened
from utils.files import atomic
from utils.logging import logger
from utils.run import MODEL_ROOT, epoch_files

ZERO_SHOT = "zero-shot"
LOGITS_VERSION = 2  # part of the cache's key: raise it when a network's logits change


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
        net = FashionCLIP.from_meta(meta, f"checkpoint {path}") if meta else FashionCLIP(clip_model, prompts)
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


def find_teacher(args, prompts, names, saved):
    """What teaches the student of a run: a network, or logits `(N, classes)` by attribute; None if nothing does.

    Args: `args`, options of train.py; `names` of the training images; `saved`, the content of a resumed run's
        last.pt or None.
    """
    if not args.distils:
        return None
    if saved:
        return saved["progress"]["teacher_logits"]
    if args.teacher_logits:
        return read_logits(args.teacher_logits, names)
    return load_teacher(args.teacher, args.clip_model, prompts)


def teacher_logits(teacher, data, cache_dir, batch_size, precision):
    """The teacher's logits of every image, computed once per teacher, data set and precision.

    Args: `teacher` of `find_teacher`; `data` a `utils.dataset.Split` whose pixels are `Images` of a cached array.
    Returns: dict attribute -> float32 tensor `(N, classes)`, on the images' device; None without a teacher.
    """
    if teacher is None:
        return None
    logits = teacher if isinstance(teacher, dict) else _ask(teacher, data, cache_dir, batch_size, precision)
    return {key: values.to(data.pixels.device) for key, values in logits.items()}


def _ask(net, data, cache_dir, batch_size, precision):
    path = os.path.join(cache_dir, f"logits-{_fingerprint(net, data, precision)}.npz")
    if os.path.exists(path):
        logger.info(f"teacher's logits: read from {path}")
        try:
            return read_logits(path, data.names)
        except UserError as error:
            raise UserError(f"{error}; remove it, to have it made anew") from error
    logger.info(f"teacher's logits: computed for {len(data.names)} images, once")
    net.to(data.pixels.device)
    logits = engine.predict(net, data.pixels, batch_size, precision, "teacher's logits")
    save_logits(path, data.names, logits)
    return logits


def read_logits(path, names):
    """Logits from a .npz file: arrays `image_name` `(M,)` and, for each attribute, `(M, classes)`.

    Args: `names` of the images that need them; the file's rows may be more, and in another order.
    Returns: dict attribute -> float32 tensor `(len(names), classes)`.
    Raises: UserError for a file that is none or does not fit, and for images that it does not name.
    """
    try:
        with np.load(path) as file:
            arrays = {key: file[key] for key in ("image_name", *ATTRIBUTES)}
    except KeyError as error:
        raise UserError(f"{path}: {error.args[0]}; it needs image_name, {', '.join(ATTRIBUTES)}") from error
    except (OSError, EOFError, ValueError, TypeError, zipfile.BadZipFile) as error:
        raise UserError(f"{path}: not a readable .npz file ({error})") from error
    known = [str(name) for name in arrays.pop("image_name").ravel()]
    for key, values in arrays.items():
        expected = (len(known), len(ATTRIBUTES[key].classes))
        if values.shape != expected or values.dtype.kind not in "fiu" or not np.isfinite(values).all():
            raise UserError(
                f"{path}: {key} is {values.dtype} {values.shape}; it needs finite numbers {expected}"
            )
    rows = {name: row for row, name in enumerate(known)}
    if len(rows) < len(known):
        raise UserError(f"{path}: {len(known) - len(rows)} names occur more than once")
    missing = [name for name in names if name not in rows]
    if missing:
        raise UserError(f"{path}: no row for {len(missing)} of the images:\n{shortened(missing)}")
    chosen = [rows[name] for name in names]
    return {key: torch.from_numpy(values[chosen].astype(np.float32)) for key, values in arrays.items()}


def save_logits(path, names, logits):
    """Write the file that `read_logits` reads; an image that is named twice once."""
    names = np.array(names)
    rows = np.sort(np.unique(names, return_index=True)[1])
    with atomic(path, binary=True) as file:
        np.savez(file, image_name=names[rows], **{key: v.cpu().numpy()[rows] for key, v in logits.items()})
    logger.info(f"teacher's logits: written to {path}")


def _fingerprint(net, data, precision):
    """Hash of all that the logits depend on."""
    digest = hashlib.blake2b(digest_size=16)
    digest.update(
        repr(
            (LOGITS_VERSION, os.path.basename(data.pixels.array.filename), precision.name, net.token_ids)
        ).encode()
    )
    for name, value in net.state_dict().items():
        digest.update(name.encode())
        digest.update(value.cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()
