"""Checkpoints: read as data, checked name by name, written whole or not at all."""

import inspect
import io
import os
import pickle
import pickletools
import tarfile
import warnings
import zipfile
from collections import OrderedDict

import torch

from utils.errors import UserError, shortened
from utils.files import atomic, failure

# What the pickle of a checkpoint may call, besides the types of storage: what tensors are built with.
BUILDERS = {
    "collections.OrderedDict": OrderedDict,
    "torch._utils._rebuild_tensor_v2": torch._utils._rebuild_tensor_v2,
    "torch._utils._rebuild_parameter": torch._utils._rebuild_parameter,
}
PICKLE_BYTES = 1 << 22  # of a pickle that was refused, looked at for the reason


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
        return _torch_load(path)
    except Exception as error:  # what a file that is none raises depends on its bytes
        foreign = _foreign_name(path)
        if foreign:
            raise UserError(
                f"checkpoint {path}: refused, since reading it would run {foreign}; a checkpoint holds tensors and "
                "plain values only: where you trust it, load it with torch and save its state dict anew"
            ) from error
        reason = str(error).strip().split("\n")[0]
        if isinstance(error, pickle.UnpicklingError):  # torch's own advice is to run it all the same
            reason = "no pickle of tensors and plain values, as torch.save writes it"
        raise UserError(
            f"checkpoint {path}: not a readable checkpoint ({reason or type(error).__name__})"
        ) from error


def _torch_load(path):
    is_archive = _is_archive(path)
    if is_archive:
        with zipfile.ZipFile(path) as archive:
            if sum(record.file_size for record in archive.infolist()) > os.path.getsize(path):
                raise ValueError("its records are larger than the file")  # torch.save compresses nothing
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about pickles that torch.save did not write
        if "weights_only" in inspect.signature(torch.load).parameters:
            return torch.load(path, map_location="cpu", weights_only=True)
        if is_archive:
            return _read_archive(path)
        if tarfile.is_tarfile(path):
            raise ValueError("of a PyTorch older than 0.4")
        return torch.load(path, map_location="cpu", pickle_module=_DataPickle)


def _is_archive(path):
    """Whether a file is a zip archive, as torch.save has written since 1.6, and not the older row of pickles."""
    with open(path, "rb") as file:
        return file.read(4) == b"PK\x03\x04"


class _DataUnpickler(pickle._Unpickler):
    """For torch 1.12, which has no `weights_only`: tensors and plain values. In Python, since C can be made to crash."""

    def find_class(self, module, name):
        if module == "torch" and name.endswith("Storage") and name.isidentifier():
            return getattr(torch, name)
        if f"{module}.{name}" not in BUILDERS:
            raise pickle.UnpicklingError(f"{module}.{name}")
        return BUILDERS[f"{module}.{name}"]


class _DataPickle:
    """What torch.load uses of a pickle module."""

    Unpickler = _DataUnpickler

    @staticmethod
    def load(file, **options):
        return _DataUnpickler(file, **options).load()


def _read_archive(path):
    """torch.load for torch 1.12, which takes a storage to be as long as the pickle says, and reads beyond its end."""
    with zipfile.ZipFile(path) as archive:
        pickled = _pickle_record(archive)
        folder, storages = os.path.dirname(pickled), {}

        def read_storage(saved):
            _, kind, key, _, length = saved
            if key not in storages:
                content = bytearray(archive.read(f"{folder}/data/{key}"))
                values = (
                    torch.frombuffer(content, dtype=kind.dtype)
                    if content
                    else torch.empty(0, dtype=kind.dtype)
                )
                storages[key] = values.storage()
            if len(storages[key]) != length:
                raise ValueError(f"storage {key} has {len(storages[key])} values instead of {length}")
            return storages[key]

        unpickler = _DataUnpickler(io.BytesIO(archive.read(pickled)))
        unpickler.persistent_load = read_storage
        return unpickler.load()


def _pickle_record(archive):
    found = [name for name in archive.namelist() if name.endswith("/data.pkl")]
    if len(found) != 1:
        raise ValueError("an archive, but not one of torch.save")
    return found[0]


def _foreign_name(path):
    """What a checkpoint would run: the first name in its pickles that builds no tensor. Nothing is run for it."""
    try:
        for name in _names(path):
            if not all(part.isidentifier() for part in name.split(".")):
                return None  # no pickle: bytes that look like one
            if name not in BUILDERS and not (name.startswith("torch.") and name.endswith("Storage")):
                return name
    except Exception:  # as above, and here it is about the reason only
        return None


def _names(path):
    """The names that the pickles of a checkpoint call, one after the other."""
    with open(path, "rb") as file:
        if _is_archive(path):
            archive = zipfile.ZipFile(file)
            file = archive.open(_pickle_record(archive))
        pickles, strings = io.BytesIO(file.read(PICKLE_BYTES)), []
    # An archive holds one, the older format five, then the tensors' bytes, which raise ValueError.
    while True:
        for opcode, value, _ in pickletools.genops(pickles):
            if opcode.name in ("GLOBAL", "INST"):
                yield value.replace(" ", ".")
            elif opcode.name == "STACK_GLOBAL":
                yield ".".join(strings[-2:])
            elif isinstance(value, str):
                strings.append(value)


def as_state_dict(content, path):
    """The state dict in a checkpoint's content: bare, or under `model`, as we and TinyViT's authors write it."""
    state = content.get("model", content) if isinstance(content, dict) else None
    if not isinstance(state, dict) or not state or not all(map(_is_weight, *zip(*state.items()))):
        raise UserError(f"checkpoint {path}: holds no state dict (names -> tensors), bare or under 'model'")
    return state


def _is_weight(name, value):
    """Whether it is a named tensor of real numbers, all of them in memory."""
    if not (isinstance(name, str) and torch.is_tensor(value)):
        return False
    dense = value.layout == torch.strided and value.device.type == "cpu" and not value.is_quantized
    return dense and not value.is_complex()


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
    try:
        if os.path.lexists(temporary):
            os.remove(temporary)
        os.symlink(os.path.basename(target), temporary)
        os.replace(temporary, path)
    except OSError as error:
        raise failure(path, error) from error
