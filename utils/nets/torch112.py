"""Reads a checkpoint as data without torch's `weights_only`, which PyTorch 1.12 does not have, and which is not safe before
2.10: tensors and plain values.

Since 2.10 it is asked only about checkpoints that torch refuses itself.
"""

import io
import os
import pickle
import tarfile
import zipfile
from collections import OrderedDict

import torch


class Options:
    """What an argparse.Namespace is read as: timm's own script keeps its options beside the weights."""


# What the pickle of a checkpoint may call, besides the types of storage: what tensors are built with.
BUILDERS = {
    "argparse.Namespace": Options,
    "collections.OrderedDict": OrderedDict,
    "torch.Size": torch.Size,
    "torch._utils._rebuild_tensor_v2": torch._utils._rebuild_tensor_v2,
    "torch._utils._rebuild_parameter": torch._utils._rebuild_parameter,
}


def is_archive(path):
    """Whether a file is a zip archive, as torch.save has written since 1.6, and not the older row of pickles."""
    with open(path, "rb") as file:
        return file.read(4) == b"PK\x03\x04"


def load(path):
    """Content of what torch.save wrote. Raises: whatever a file that is none, or would run something, causes."""
    if is_archive(path):
        return _read_archive(path)
    if tarfile.is_tarfile(path):
        raise ValueError("of a PyTorch older than 0.4")
    options = {} if torch.__version__.startswith("1.") else {"weights_only": False}  # the reader is this one
    return torch.load(path, map_location="cpu", pickle_module=_DataPickle, **options)


class _DataUnpickler(pickle._Unpickler):
    """In Python, since C can be made to crash."""

    def find_class(self, module, name):
        if module == "torch" and name.endswith("Storage") and name.isidentifier():
            return getattr(torch, name)
        if module == "torch" and isinstance(vars(torch).get(name), torch.dtype):
            return vars(torch)[name]
        name = f"{module}.{name}"
        if not all(part.isidentifier() for part in name.split(".")):
            raise LookupError(name)  # of a text, for example
        if name not in BUILDERS:
            problem = f"refused, since reading it would run {name}; where you trust it, save its tensors anew"
            raise pickle.UnpicklingError(problem)
        return BUILDERS[name]

    def load_build(self):
        """Sets attributes: of what is read, and not of a builder, which would keep them."""
        if type(self.stack[-2]) not in (OrderedDict, Options):
            raise LookupError("BUILD")
        super().load_build()

    dispatch = {**pickle._Unpickler.dispatch, pickle.BUILD[0]: load_build}


class _DataPickle:
    """What torch.load uses of a pickle module."""

    Unpickler = _DataUnpickler

    @staticmethod
    def load(file, **options):
        return _DataUnpickler(file, **options).load()


def _read_archive(path):
    """Torch 1.12 itself takes a storage to be as long as the pickle says, and reads beyond its end."""
    with zipfile.ZipFile(path) as archive:
        pickled = [name for name in archive.namelist() if name.endswith("/data.pkl")]
        if len(pickled) != 1:
            raise ValueError("an archive, but not one of torch.save")
        folder, storages = os.path.dirname(pickled[0]), {}

        def read_storage(saved):
            _, kind, key, _, length = saved
            if key not in storages:
                content = bytearray(archive.read(f"{folder}/data/{key}"))
                empty = torch.empty(0, dtype=kind.dtype)
                storages[key] = (torch.frombuffer(content, dtype=kind.dtype) if content else empty).storage()
            if len(storages[key]) != length:
                raise ValueError(f"storage {key} has {len(storages[key])} values instead of {length}")
            return storages[key]

        unpickler = _DataUnpickler(io.BytesIO(archive.read(pickled[0])))
        unpickler.persistent_load = read_storage
        return unpickler.load()
