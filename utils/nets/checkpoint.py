"""Checkpoints: read as data, checked name by name, written whole or not at all."""

import os
import re

import torch

from utils.base.errors import UserError, first_line, shortened
from utils.base.files import atomic, read_json
from utils.base.log import logger
from utils.nets import pickles
from utils.nets.hub import BEST, CONFIG, WEIGHTS, is_hub_id

# Where a file may have its state dict, the first one counts: averages before what they are of, as in timm's own script.
STATES = ("state_dict_ema", "model_ema", "state_dict", "model")

MODEL_ROOT = "model"
EPOCH_FILE = re.compile(r"model_(\d+)\.pt")
# Options that say nothing about a network and how it was trained: they are not in its checkpoints.
LOCAL = "cache_dir data_dir device folds keep log_interval overwrite resume tensorboard".split()
LOCAL += "save_every_minutes save_teacher_logits".split()
PATHS = ("attributes", "prompts", "teacher_logits", "unlabelled")  # options that name a file, or folders
SOURCES = ("clip_model", "student_weights")  # that may, or a repository of the hub

# --- reading -----------------------------------------------------------------------------------------


def read_file(path):
    """Content of a checkpoint file (.safetensors, or anything that torch.save wrote), on the CPU.

    It is data: nothing that the file names is imported or run.

    Raises: UserError if the file is missing or no checkpoint, or would run something, which is named.
    """
    if not os.path.isfile(path):
        raise UserError(f"checkpoint {path}: no such file")
    try:
        if str(path).endswith(".safetensors"):
            from safetensors.torch import load_file

            return load_file(path)
        return pickles.load(path)
    except Exception as error:  # what a file that is none raises depends on its bytes
        known = not isinstance(error, LookupError)  # of no opcode or name of a pickle's
        reason = first_line(error) if known else "no tensors and plain values, as torch.save writes them"
        raise UserError(f"checkpoint {path}: not a readable checkpoint ({reason})") from error


def read_checkpoint(path):
    """(State dict, meta) of a checkpoint: a file, or a folder to share (see `utils.deployment.share`).

    A file's state dict may be bare, or under one of the names in `STATES`, and the meta are empty for one that is not ours.
    """
    if not os.path.isdir(path):
        return split(read_file(path), path)
    config = os.path.join(path, CONFIG)
    if not os.path.isfile(config):
        raise UserError(f"checkpoint {path}: a folder without {BEST} or {CONFIG}; name a file in it")
    meta = read_json(config, "checkpoint")
    if not isinstance(meta, dict) or "role" not in meta:
        raise UserError(f"checkpoint {config}: another project's; export.py --format hub writes such folders")
    return split({"model": read_file(os.path.join(path, WEIGHTS)), "meta": meta}, path)


def _is_weight(name, value):
    """Whether it is a named tensor of real numbers."""
    is_dense = torch.is_tensor(value) and value.layout == torch.strided and not value.is_quantized
    return isinstance(name, str) and is_dense and not value.is_complex()


def split(content, path):
    """(State dict, meta) of a checkpoint's content."""
    content = content if isinstance(content, dict) else {}
    found = [name for name in STATES if isinstance(content.get(name), dict) and content[name]]
    state, meta = content[found[0]] if found else content, content.get("meta", {})
    if not state or not all(map(_is_weight, *zip(*state.items()))):
        raise UserError(f"checkpoint {path}: holds no state dict, bare or under {', '.join(STATES)}")
    if len(found) > 1:
        logger.info(f"{path}: weights of {found[0]}, not of {', '.join(found[1:])}")
    return _unwrapped(state), meta if isinstance(meta, dict) else {}


def _unwrapped(state):
    """A state dict without what torch.compile and DistributedDataParallel put before the names."""
    names = [name.replace("_orig_mod.", "") for name in state]
    while all(name.startswith("module.") for name in names):
        names = [name[len("module.") :] for name in names]
    return dict(zip(names, state.values())) if len(set(names)) == len(state) else state


def load_state(net, state, path):
    """Strict `load_state_dict`. Raises: UserError that lists what does not fit, and where from."""
    try:
        net.load_state_dict(state)
    except RuntimeError as error:
        problems = shortened(map(str.strip, str(error).splitlines()[1:]))
        raise UserError(f"checkpoint {path} does not fit {type(net).__name__}:\n{problems}") from error
    # timm 1.0.9 keeps the attention biases of the old weights cached in evaluation mode; train() drops them.
    training = net.training
    net.train().train(training)


def is_finite(net):
    """Whether all weights are finite; by their sums, which takes one read of the device."""
    return bool(torch.stack([weight.detach().sum() for weight in net.parameters()]).isfinite().all())


def size(tensors):
    """Bytes that tensors take in a file, 512 for each one's own entry included (measured: 310 to 370)."""
    return sum(value.numel() * value.element_size() + 512 for value in tensors)


def save_checkpoint(path, net, meta, **more):
    """Write `{**more, "model": state dict, "meta": meta}`, whole or not at all."""
    state = {name: value.detach().cpu().contiguous() for name, value in net.state_dict().items()}
    with atomic(path, binary=True) as file:
        torch.save({**more, "model": state, "meta": meta}, file)


# --- their names, and what they tell of a run ---------------------------------------------------------


def public_options(options):
    """The options for a checkpoint, which others will read: of a path on this machine only its last part, of --teacher, which
    begins in model/, version and file."""
    return {name: _public(name, value) for name, value in options.items() if name not in LOCAL}


def _public(name, value):
    if isinstance(value, list):
        return [_public(name, one) for one in value]
    if not (isinstance(value, str) and value):
        return value
    parts = os.path.normpath(value).split(os.sep)
    is_path = name in PATHS or value.startswith((os.sep, "./", "../", "~")) or parts[0] == os.pardir
    is_path = is_path or (name in SOURCES and (os.path.exists(value) or not is_hub_id(value)))
    if not is_path and name != "teacher":
        return value
    return "/".join(parts[-1:] if is_path else parts[-2:])


def epoch_files(folder):
    """Dict epoch -> path of the checkpoints `model_<epoch>.pt` in a folder, in order of epochs."""
    names = os.listdir(folder) if os.path.isdir(folder) else []
    matches = filter(None, map(EPOCH_FILE.fullmatch, names))
    return dict(sorted((int(match[1]), os.path.join(folder, match[0])) for match in matches))
