"""A trained network for use: the same small function from a checkpoint (.pt) or an exported file (.onnx).

PyTorch is imported for checkpoints only: an exported file needs numpy and onnxruntime.
"""

import json
import os

import numpy as np
from tqdm import tqdm

from utils.attributes import ATTRIBUTES, num_classes
from utils.dataset import SIZE
from utils.errors import UserError

INPUT = "pixels"  # name of the exported graph's input
META = "meta"  # key of the exported file's metadata, a JSON object


class Classifier:
    """Letterboxed photos -> probabilities. Made by `load_classifier`.

    Attributes:
        path: file it came from.
        role: "student" or "teacher".
        meta: plain values: of a checkpoint its `meta` (options, metrics, epoch ...; empty for a published one),
            of an exported file the same and what the export added (see export.py).
    """

    def __init__(self, path, role, meta, function):
        self.path, self.role, self.meta, self._function = path, role, meta, function

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
        return {key: np.concatenate([part[key] for part in parts]) for key in ATTRIBUTES}


def load_classifier(path, threads=None, clip_model=None, prompts=None):
    """The network in a file, in float32 on the CPU.

    Args:
        path: `.onnx` of export.py; any other name is a checkpoint, ours (student, teacher, or export.py's
            `--format pt`) or a published one.
        clip_model: for a published teacher, hub name or local folder that it began from; None for FashionCLIP.
        prompts: for a published teacher, JSON file of its prompts; None for this project's.
        threads: of the processor to use, for an `.onnx`; None for all. PyTorch's are set by torch.set_num_threads.
    Returns: Classifier.
    Raises: UserError if the file is missing, is none, or is another model's.
    """
    if not os.path.isfile(path):
        raise UserError(
            f"checkpoint {path}: no such file; give a checkpoint (.pt) or an exported file (.onnx)"
        )
    return (
        _from_onnx(path, threads)
        if str(path).endswith(".onnx")
        else _from_checkpoint(path, clip_model, prompts)
    )


# --- ONNX --------------------------------------------------------------------------------------------


def _from_onnx(path, threads):
    session = _open_session(path, threads)
    found = {x.name: (x.type, len(x.shape)) for x in session.get_inputs()}
    outputs = {x.name: x.shape[-1] if x.shape else None for x in session.get_outputs()}
    if found != {INPUT: ("tensor(uint8)", 4)} or outputs != num_classes():
        wanted = ", ".join(f"{key} ({classes})" for key, classes in num_classes().items())
        raise UserError(
            f"{path}: an ONNX file of another model: it needs the input {INPUT}, uint8 (N, {SIZE}, {SIZE}, 3), "
            f"and the outputs {wanted}; export.py writes such files"
        )
    text = session.get_modelmeta().custom_metadata_map.get(META, "{}")
    try:
        meta = json.loads(text)
    except ValueError as error:
        raise UserError(f"{path}: its metadata are not readable ({error}); export it again") from error

    def classify(pixels):
        return dict(zip(ATTRIBUTES, session.run(list(ATTRIBUTES), {INPUT: np.ascontiguousarray(pixels)})))

    return Classifier(path, "student", meta, classify)


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
        return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # what a file that is none raises depends on its bytes
        raise UserError(f"{path}: not a readable ONNX file ({_first_line(error)})") from error


def _first_line(error):
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__


# --- PyTorch -----------------------------------------------------------------------------------------


def _from_checkpoint(path, clip_model, prompts):
    try:
        import torch
    except ImportError as error:
        raise UserError(
            f"checkpoint {path}: reading it needs PyTorch (pip install torch); an exported .onnx does not"
        ) from error
    from utils.pixels import to_device

    net, meta = load_network(path, clip_model, prompts)
    function = None  # of the network: made at the first call, kept from then on

    @torch.no_grad()
    def classify(pixels):
        nonlocal function
        function = function or net.inference()
        # A copy, since memory-mapped arrays are read-only.
        logits = function(to_device(np.array(pixels), torch.device("cpu")))
        return {key: logits[key].float().softmax(dim=1).numpy() for key in ATTRIBUTES}

    return Classifier(path, net.role, meta, classify)


def load_network(path, clip_model=None, prompts=None):
    """The network of a checkpoint.

    Args: as of `load_classifier`.
    Returns: (`Student` or `FashionCLIP` in evaluation mode, without gradients, on the CPU; its meta).
    Raises: UserError if the file is no checkpoint, or another network's.
    """
    from utils.checkpoint import load_state, read_file, split

    state, meta = split(read_file(path), path)
    net = _build(state, meta, path, clip_model, prompts)
    load_state(net, net.own_names(state), path)
    return net.requires_grad_(False).eval(), meta


def _build(state, meta, path, clip_model, prompts):
    """The network for a state dict, by its meta, or for a published one by the names of its tensors."""
    from clip_model import FashionCLIP, read_prompts
    from networks import Student
    from utils.folding import fold

    # Published students name their heads head_* and dist_head_*, ours class_heads.* and distillation_heads.*.
    heads = [name for name in state if "head_" in name or "_heads." in name]
    if meta.get("role") == Student.role or (not meta and heads):
        net = Student(meta.get("distillation", any(name.startswith("dist") for name in heads)))
        return fold(net) if meta.get("folded") else net
    if meta.get("role") == FashionCLIP.role:
        return FashionCLIP.from_meta(meta, f"checkpoint {path}")
    if not meta and any("text_model." in name for name in state):
        return FashionCLIP(
            clip_model or "patrickjohncyh/fashion-clip", read_prompts(prompts) if prompts else None
        )
    raise UserError(
        f"checkpoint {path}: neither a student's nor a teacher's; it needs one that train.py wrote"
    )
