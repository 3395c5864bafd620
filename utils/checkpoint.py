"""Checkpoints: read, checked name by name, written whole or not at all."""

import inspect
import os

import torch

from utils.errors import UserError, shortened
from utils.files import atomic


def read_file(path):
    """Content of a checkpoint file (.safetensors, or anything that torch.save wrote), on the CPU.

    Raises: UserError if the file is missing or no checkpoint.
    """
    if not os.path.isfile(path):
        raise UserError(f"checkpoint {path}: no such file")
    try:
        if str(path).endswith(".safetensors"):
            from safetensors.torch import load_file

            return load_file(path)
        # torch 1.12 does not know the option; everywhere else it is asked for, whatever the default.
        safe = {"weights_only": True} if "weights_only" in inspect.signature(torch.load).parameters else {}
        return torch.load(path, map_location="cpu", **safe)
    except Exception as error:  # what a file that is none raises depends on its bytes
        reason = str(error).strip().splitlines()[0] if str(error).strip() else "unreadable"
        raise UserError(f"checkpoint {path}: not a readable checkpoint ({reason})") from error


def as_state_dict(content, path):
    """The state dict in a checkpoint's content: bare, or under `model`, as we and TinyViT's authors write it."""
    state = content.get("model", content) if isinstance(content, dict) else None
    if not isinstance(state, dict) or not state or not all(torch.is_tensor(v) for v in state.values()):
        raise UserError(f"checkpoint {path}: holds no state dict (names -> tensors), bare or under 'model'")
    return state


def read_meta(path):
    """The `meta` of one of our own checkpoints; empty for a published one."""
    return split(read_file(path), path)[1]


def split(content, path):
    """(state dict, meta) of a checkpoint's content."""
    meta = content.get("meta", {}) if isinstance(content, dict) else {}
    return as_state_dict(content, path), meta if isinstance(meta, dict) else {}


def load_weights(net, path):
    """Load a checkpoint into a `Student` or `FashionCLIP`, ours or a published one, strictly.

    Returns: the checkpoint's meta, a dict of plain values, empty for a published checkpoint.
    Raises: UserError that lists the names that are missing or left over and the shapes that differ.
    """
    state, meta = split(read_file(path), path)
    load_state(net, net.own_names(state), path)
    return meta


def load_state(net, state, path):
    """Strict `load_state_dict`, with an error that lists everything that does not fit, and where from."""
    own = net.state_dict()
    problems = [f"missing: {name}" for name in own if name not in state]
    problems += [f"left over: {name}" for name in state if name not in own]
    problems += [
        f"shape of {name}: {tuple(state[name].shape)} in the file, {tuple(own[name].shape)} in the network"
        for name in own
        if name in state and state[name].shape != own[name].shape
    ]
    if problems:
        raise UserError(
            f"checkpoint {path} does not fit {type(net).__name__}; {len(problems)} differences:\n"
            + shortened(problems)
        )
    net.load_state_dict(state)
    # timm 1.0.9 keeps the attention biases of the old weights cached in evaluation mode; train() drops them.
    training = net.training
    net.train().train(training)


def size(tensors):
    """Bytes that tensors take in a file, 512 for each one's own entry included (measured: 310 to 370)."""
    return sum(value.numel() * value.element_size() + 512 for value in tensors)


def save_checkpoint(path, net, meta, **more):
    """Write `{"model": state dict, "meta": meta, **more}`, whole or not at all."""
    state = {name: value.detach().cpu().contiguous() for name, value in net.state_dict().items()}
    with atomic(path, binary=True) as file:
        torch.save({"model": state, "meta": meta, **more}, file)


def link(target, path):
    """Make `path` a symbolic link to `target`, a file in the same folder, in place of what it was."""
    temporary = f"{path}.tmp"
    if os.path.lexists(temporary):
        os.remove(temporary)
    os.symlink(os.path.basename(target), temporary)
    os.replace(temporary, path)
