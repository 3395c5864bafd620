"""A trained network for use: the same small function from a checkpoint (.pt) or an exported file (.onnx).

PyTorch is imported for checkpoints only: an exported file needs numpy and onnxruntime.
"""

import json
import os

import numpy as np
from tqdm import tqdm

from utils.attributes import Attributes, attributes_of, read_attributes
from utils.errors import UserError, first_line, shortened
from utils.photos import SIZE

INPUT = "pixels"  # name of the exported graph's input
META = "meta"  # key of the exported file's metadata, a JSON object


class Classifier:
    """Letterboxed photos -> probabilities. Made by `load_classifier`.

    Attributes:
        path: file it came from.
        role: "student" or "teacher".
        attributes: `utils.attributes.Attributes` that it tells.
        meta: plain values: of a checkpoint its `meta` (options, metrics, epoch ...; empty for a published one),
            of an exported file the same and what the export added (see export.py).
    """

    def __init__(self, path, role, attributes, meta, function):
        self.path, self.role, self.attributes, self.meta = path, role, attributes, meta
        self._function = function

    def __call__(self, pixels):
        """RGB uint8 `(N, 224, 224, 3)` array -> dict attribute -> float32 probabilities `(N, classes)`.

        Raises: UserError if there is a NaN among them.
        """
        probabilities = self._function(pixels)
        for key, values in probabilities.items():
            if not np.isfinite(values).all():
                broken = int((~np.isfinite(values)).any(axis=1).sum())
                raise UserError(
                    f"{self.path}: {key} is NaN for {broken} of {len(values)} images: broken weights"
                )
        return probabilities

    def predict(self, pixels, batch_size):
        """The same of a whole data set, `batch_size` images at a time, with a progress bar."""
        starts = range(0, len(pixels), batch_size)
        bar = tqdm(starts, os.path.basename(self.path), disable=None, leave=False)
        parts = [self(pixels[start : start + batch_size]) for start in bar]
        return {key: np.concatenate([part[key] for part in parts]) for key in self.attributes}


def load_classifier(path, threads=None, clip_model=None, prompts=None):
    """The network in a file, in float32 on the CPU.

    Args:
        path: `.onnx` of export.py; any other name is a checkpoint, ours (student, teacher, or export.py's
            `--format pt`) or a published one.
        threads: of the processor to use, for an `.onnx`; None for all. PyTorch's are set by torch.set_num_threads.
        clip_model, prompts: for a published teacher, see `networks.load_network`.
    Returns: Classifier.
    Raises: UserError if the file is missing, is none, or is another model's.
    """
    path = str(path)
    if not os.path.isfile(path):
        raise UserError(
            f"checkpoint {path}: no such file; give a checkpoint (.pt) or an exported file (.onnx)"
        )
    return (
        _from_onnx(path, threads) if path.endswith(".onnx") else _from_checkpoint(path, clip_model, prompts)
    )


def data_attributes(attributes, path):
    """The attributes that a data set is read by: a network's, with tables, columns and cells as in the file `path`, if any.

    Raises: UserError if the file has other attributes or classes; their order may differ.
    """
    if path is None:
        return attributes
    given = read_attributes(path)
    differences = attributes.differences(given)
    if differences:
        raise UserError(
            f"--attributes {path}: not the network's; of the network (first) and the file (second):\n"
            + shortened(differences)
        )
    own, other = attributes.content["attributes"], given.content["attributes"]
    each = {name: dict(other[name], classes=own[name]["classes"]) for name in attributes}
    return Attributes(dict(given.content, exif=attributes.layout.exif, attributes=each), path)


def prediction_header(attributes, labels=False, probabilities=False):
    """Columns of a table of predictions, no two alike: photo, class of each attribute, and what is asked for.

    Args: with `labels`, `daily_label` ... follow; with `probabilities`, one for each class, `daily_0` ...
    """
    shorts = [attribute.short for attribute in attributes.values()]
    wanted = [attributes.layout.image, *shorts]
    wanted += [f"{short}_label" for short in shorts if labels]
    sizes = attributes.sizes.values() if probabilities else ()
    wanted += [f"{short}_{number}" for short, size in zip(shorts, sizes) for number in range(size)]
    columns = {}  # as keys, in order
    for name in wanted:
        column, count = name, 1
        while column in columns or (count > 1 and column in wanted):
            count += 1
            column = f"{name}_{count}"
        columns[column] = None
    return list(columns)


# --- ONNX --------------------------------------------------------------------------------------------


def _from_onnx(path, threads):
    session = _open_session(path, threads)
    try:
        meta = json.loads(session.get_modelmeta().custom_metadata_map.get(META, "{}"))
        if not isinstance(meta, dict):
            raise ValueError("no JSON object")
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: its metadata are not readable ({error}); export it again") from error
    attributes = attributes_of(meta, path)
    found = {x.name: (x.type, len(x.shape)) for x in session.get_inputs()}
    outputs = [(x.name, x.shape[-1] if x.shape else None) for x in session.get_outputs()]
    sizes = list(attributes.sizes.items())
    if "attributes" in meta:  # in their order: not every name can be a tensor's
        fits = [classes for _, classes in outputs] == [classes for _, classes in sizes]
    else:
        fits = sorted(outputs, key=repr) == sorted(sizes)
        outputs = sizes
    if found != {INPUT: ("tensor(uint8)", 4)} or not fits:
        wanted = ", ".join(f"{key} ({classes})" for key, classes in sizes)
        raise UserError(
            f"{path}: an ONNX file of another model: it needs the input {INPUT}, uint8 (N, {SIZE}, {SIZE}, 3), "
            f"and the outputs {wanted}; export.py writes such files"
        )
    names = [name for name, _ in outputs]

    def classify(pixels):
        return dict(zip(attributes, session.run(names, {INPUT: np.ascontiguousarray(pixels)})))

    return Classifier(path, "student", attributes, meta, classify)


def _open_session(path, threads):
    try:
        import onnxruntime
    except ImportError as error:
        raise UserError(f"{path}: reading an ONNX file needs onnxruntime: pip install onnxruntime") from error
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors only
    if threads:
        options.intra_op_num_threads = threads
    try:
        return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # what a file that is none raises depends on its bytes
        raise UserError(f"{path}: not a readable ONNX file ({first_line(error)})") from error


# --- PyTorch -----------------------------------------------------------------------------------------


def _from_checkpoint(path, clip_model, prompts):
    try:
        import torch
    except ImportError as error:
        raise UserError(
            f"checkpoint {path}: reading it needs PyTorch (pip install torch); an exported .onnx does not"
        ) from error
    from networks import Student, load_network
    from utils.hardware import keep_freed_memory
    from utils.pixels import to_device

    keep_freed_memory()
    net, meta = load_network(path, clip_model, prompts)
    if net.role == Student.role:
        net = net.folded()
    function = None  # of the network: made at the first call, kept from then on

    @torch.no_grad()
    def classify(pixels):
        nonlocal function
        function = function or net.inference()
        # A copy, since memory-mapped arrays are read-only.
        logits = function(to_device(np.array(pixels), torch.device("cpu")))
        return {key: values.softmax(dim=1).numpy() for key, values in logits.items()}

    return Classifier(path, net.role, net.attributes, meta, classify)
