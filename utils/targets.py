"""What teaches a student: the logits of a network, asked once per image and kept in the cache, or those of a file."""

import hashlib
import os
import zipfile

import numpy as np
import torch

from clip_model import FashionCLIP
from networks import load_network
from utils import engine
from utils.cli import ZERO_SHOT
from utils.errors import UserError, shortened
from utils.files import atomic
from utils.log import logger
from utils.run import MODEL_ROOT, epoch_files

LOGITS_VERSION = 3  # part of the cache's key: raise it when a network's logits change
PREFIX = "logits."  # of an array's name in a file, before the attribute's


class LogitsFile:
    """A teacher that has spoken: logits of a .npz file: arrays `image_name` `(M,)` and, for each attribute, `logits.<attribute>` `(M, classes)`,
    where the prefix may be left out.

    Args: `sizes`, attribute -> number of classes.
    Raises: UserError for a file that is none or does not fit.
    """

    def __init__(self, path, sizes):
        self.path = path
        try:
            with np.load(path) as file:
                names = [str(name) for name in file["image_name"].ravel()]
                stored = {key: PREFIX + key if PREFIX + key in file.files else key for key in sizes}
                self.arrays = {key: file[name] for key, name in stored.items()}
        except KeyError as error:
            raise UserError(f"{path}: {error.args[0]}; it needs image_name, {', '.join(sizes)}") from error
        except (OSError, EOFError, ValueError, TypeError, zipfile.BadZipFile) as error:
            raise UserError(f"{path}: not a readable .npz file ({error})") from error
        for key, values in self.arrays.items():
            expected = (len(names), sizes[key])
            if values.shape != expected or values.dtype.kind not in "fiu" or not np.isfinite(values).all():
                found = f"{values.dtype} {values.shape}"
                raise UserError(f"{path}: {key} is {found}; it needs finite numbers {expected}")
        self.rows = {name: row for row, name in enumerate(names)}
        if len(self.rows) < len(names):
            raise UserError(f"{path}: {len(names) - len(self.rows)} names occur more than once")

    def check(self, names):
        """UserError unless there is a row for each of these images."""
        missing = [name for name in names if name not in self.rows]
        if missing:
            raise UserError(f"{self.path}: no row for {len(missing)} of the images:\n{shortened(missing)}")

    def logits(self, data):
        """Dict attribute -> float32 tensor `(N, classes)` for the images of a `utils.dataset.Split`. Raises: as `check`."""
        self.check(data.names)
        chosen = [self.rows[name] for name in data.names]
        arrays = {key: values[chosen].astype(np.float32) for key, values in self.arrays.items()}
        return {key: torch.from_numpy(values) for key, values in arrays.items()}


class Network:
    """A teacher that is asked once per image; what it says is kept in the cache.

    Args: `net`, frozen; `attributes` of the student, whose classes may have another order; `args`, options of train.py;
        `precision`, `utils.hardware.Precision`.
    """

    def __init__(self, net, attributes, args, precision):
        self.net, self.attributes, self.args, self.precision = net, attributes, args, precision

    def logits(self, data):
        """Dict attribute -> float32 tensor `(N, classes)` for the images of a `utils.dataset.Split` with `Images` as its
        pixels. Raises: UserError if they are not finite, or the cache is damaged."""
        path = os.path.join(self.args.cache_dir, f"logits-{self._fingerprint(data)}.npz")
        if os.path.exists(path):
            logger.info(f"teacher's logits: read from {path}")
            try:
                logits = LogitsFile(path, self.net.attributes.sizes).logits(data)
            except UserError as error:
                raise UserError(f"{error}; remove it, to have it made anew") from error
        else:
            logits = self._ask(data)
            save_logits(path, data.names, logits)
        taught = {}
        for key, attribute in self.attributes.items():
            order = [self.net.attributes[key].classes.index(name) for name in attribute.classes]
            taught[key] = logits[key][:, order]
        return taught

    def _ask(self, data):
        logger.info(f"teacher's logits: computed for {len(data.names)} images, once")
        self.net.to(data.pixels.device)
        batches = torch.arange(len(data.names)).split(self.args.val_batch_size)
        logits = engine.predict(self.net, data.pixels, self.precision, batches, "teacher's logits")
        for key, values in logits.items():
            if not torch.isfinite(values).all():
                raise UserError(f"--teacher {self.args.teacher}: its logits of {key} are not finite")
        return logits

    def _fingerprint(self, data):
        """Hash of all that the logits depend on."""
        net, digest = self.net, hashlib.blake2b(digest_size=16)
        pixels = [os.path.basename(array.filename) for array in data.pixels.arrays]
        prompts = [list(map(len, attribute.prompts)) for attribute in net.attributes.values()]
        digest.update(repr((LOGITS_VERSION, pixels, self.precision.name, net.describe(), prompts)).encode())
        for name, value in net.state_dict().items():
            digest.update(name.encode())
            digest.update(value.cpu().contiguous().numpy().tobytes())
        return digest.hexdigest()


def save_logits(path, names, logits):
    """Write the file that `LogitsFile` reads; an image that is named twice once."""
    names = np.array(names)
    rows = np.sort(np.unique(names, return_index=True)[1])
    with atomic(path, binary=True) as file:
        arrays = {PREFIX + key: values.cpu().numpy()[rows] for key, values in logits.items()}
        np.savez(file, image_name=names[rows], **arrays)
    logger.info(f"teacher's logits: written to {path}")


def find_teacher(args, attributes, tables, precision):
    """What teaches the student of a run, with a method `logits(data)`; None if nothing does.

    Args: `args`, options of train.py; `attributes` of the student; `tables`, dict split -> `utils.dataset.Split`, with
        the photos without labels.
    Raises: UserError if the teacher does not exist, or has other attributes.
    """
    if not args.distils:
        return None
    if args.teacher_logits:
        file = LogitsFile(args.teacher_logits, attributes.sizes)
        if not args.skip_unreadable:
            file.check([name for part, split in tables.items() if part != "val" for name in split.names])
        return file
    if args.teacher == ZERO_SHOT:
        net = FashionCLIP(attributes, args.clip_model).requires_grad_(False).eval()
    else:
        net = _load_teacher(args, attributes)
    return Network(net, attributes, args, precision)


def _load_teacher(args, attributes):
    path = os.path.join(MODEL_ROOT, args.teacher)
    if not os.path.isfile(path):
        raise UserError(f"--teacher {args.teacher}: no {path}; {_existing_checkpoints()}")
    net, _ = load_network(path, args.clip_model, args.prompts)
    differences = net.attributes.differences(attributes)
    if differences:
        raise UserError(
            f"--teacher {args.teacher}: other attributes than the student's; of the teacher (first) and the student "
            f"(second):\n{shortened(differences)}"
        )
    return net


def _existing_checkpoints():
    folders = sorted(os.listdir(MODEL_ROOT)) if os.path.isdir(MODEL_ROOT) else []
    found = {folder: epoch_files(os.path.join(MODEL_ROOT, folder)) for folder in folders}
    lists = [f"{name}/model_{{{','.join(map(str, epochs))}}}.pt" for name, epochs in found.items() if epochs]
    return f"there are: {'  '.join(lists)}" if lists else f"there is no checkpoint under {MODEL_ROOT}/ yet"
