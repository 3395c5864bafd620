"""Reads what torch.save wrote as data: tensors and plain values, on every PyTorch. Its own `weights_only` does not exist in 1.12,
and before 2.10 a file that is read with it can run code (CVE-2025-32434) or damage memory (CVE-2026-24747)."""

import io
import os
import pickle
import tarfile
import warnings
import zipfile
from collections import Counter, OrderedDict

import torch
from torch._utils import _rebuild_parameter, _rebuild_tensor_v2


class Options:
    """What an argparse.Namespace is read as: timm's own script keeps its options beside the weights."""


# What the pickle of a checkpoint may call, besides the types of storage: what tensors are built with.
KNOWN = Counter, OrderedDict, torch.device, torch.Size, _rebuild_tensor_v2, _rebuild_parameter
BUILDERS = {f"{one.__module__}.{one.__qualname__}": one for one in KNOWN}
BUILDERS["argparse.Namespace"] = Options


def load(path):
    """Content of a file of torch.save, on the CPU. Raises: whatever a file that is none, or would run something, causes."""
    with open(path, "rb") as file:
        is_archive = file.read(4) == b"PK\x03\x04"  # as since 1.6, and not the older row of pickles
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about storages, and pickles that torch.save did not write
        if is_archive:
            return _read_archive(path)
        if tarfile.is_tarfile(path):
            raise ValueError("of a PyTorch older than 0.4")
        # The reader is this one.
        options = {} if torch.__version__.startswith("1.") else {"weights_only": False}
        return torch.load(path, map_location="cpu", pickle_module=_DataPickle, **options)


class _DataUnpickler(pickle._Unpickler):
    """In Python, since C can be made to crash."""

    def find_class(self, module, name):
        found = vars(torch).get(name) if module == "torch" else None
        if isinstance(found, torch.dtype) or (found and name.endswith("Storage")):
            return found
        name = f"{module}.{name}"
        if not all(part.isidentifier() for part in name.split(".")):
            raise LookupError(name)  # of a text, for example
        if name not in BUILDERS:
            raise pickle.UnpicklingError(f"refused: it would run {name}; if you trust it, save it anew")
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
        if sum(record.file_size for record in archive.infolist()) > os.path.getsize(path):
            raise ValueError("its records are larger than the file")  # torch.save compresses nothing
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
