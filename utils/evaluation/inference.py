"""A trained network for use: the same small function from a checkpoint (.pt) or an exported file (.onnx).

PyTorch is imported for checkpoints only: an exported file needs numpy, scipy, pillow, tqdm and onnxruntime.
"""

import itertools
import json
import os

import numpy as np

from utils.base.errors import UserError, first_line
from utils.base.log import progress
from utils.data.attributes import attributes_of, read_attributes
from utils.data.photos import batches, read_photos
from utils.data.prior import options_of, prior_of, smoothed_of
from utils.nets.hub import CLIP_MODEL, STUDENT, ZERO_SHOT, find_checkpoint

INPUT = "pixels"  # name of the exported graph's input
META = "meta"  # key of the exported file's metadata, a JSON object


class Classifier:
    """Letterboxed photos -> probabilities. Made by `load_classifier`.

    Attributes:
        path: file it came from, or "zero-shot".
        role: "student" or "teacher".
        attributes: `utils.data.attributes.Attributes` that it tells.
        meta: plain values: of a checkpoint its `meta` (options, metrics, epoch ...; empty for a published one),
            of an exported file the same and what the export added (see export.py).
        net: of a checkpoint, the network itself, a student folded; otherwise None.
        taken_off: attribute -> log-prior by class that the answers are without, and `net` is with; empty for none.
    """

    def __init__(self, path, attributes, meta, function, net=None, taken_off=None):
        self.path, self.attributes, self.meta, self.net = path, attributes, meta, net
        self.role, self.taken_off, self._function = net.role if net else "student", taken_off or {}, function

    def __call__(self, pixels):
        """RGB uint8 `(N, 224, 224, 3)` array -> dict attribute -> float32 probabilities `(N, classes)`.

        Raises: UserError if there is a NaN among them.
        """
        probabilities = self._function(pixels)
        for key, prior in self.taken_off.items():
            odds = probabilities[key] * np.exp(-np.array(prior, np.float32))
            probabilities[key] = odds / odds.sum(axis=1, keepdims=True)
        for key, values in probabilities.items():
            broken = int((~np.isfinite(values)).any(axis=1).sum())
            if broken:
                raise UserError(f"{self.path}: {key} is NaN for {broken} of {len(values)} images")
        return probabilities

    def balanced(self):
        """The same as if all classes were equally frequent (Menon et al., arXiv:2007.07314, section 4). Its meta name no prior, so
        that none is taken off twice.

        Raises: UserError if the meta do not say the prior, or it cannot be taken off.
        """
        sizes, said = self.attributes.sizes, f"--prior balanced: {self.path}"
        prior, smoothed = prior_of(self.meta, sizes), smoothed_of(self.meta, sizes)
        if prior is None:
            raise UserError(f"{said} does not say which prior is in its logits; train it anew")
        if smoothed:
            problem = f"learned with label smoothing, so rare classes of {', '.join(smoothed)} would gain"
            raise UserError(f"{said} {problem}; train it anew, with --ls 0 or with --logit-adjustment 1")
        meta = dict(self.meta, prior={key: [0.0] * size for key, size in sizes.items()})
        return Classifier(self.path, self.attributes, meta, self._function, self.net, prior)

    @property
    def network(self):
        """What it is, for people: a network that learned from no teacher is nobody's student."""
        if self.path == ZERO_SHOT:
            return "FashionCLIP as it comes"
        if self.role == "teacher":
            return "teacher (FashionCLIP)"
        backbone, options = self.meta.get("backbone", STUDENT), options_of(self.meta)
        teacher = options.get("teacher") or options.get("teacher_logits")
        if options and (not teacher or options.get("distillation_type") == "none"):
            return f"network ({backbone}), trained by itself"
        return f"student ({backbone})" + (f", taught by {teacher}" if teacher else "")

    def predict(self, pixels, batch_size):
        """The same of a whole data set, `batch_size` images at a time, with a progress bar."""
        bar = progress(range(0, len(pixels), batch_size), os.path.basename(self.path))
        return joined([self(pixels[start : start + batch_size]) for start in bar])

    def features(self, pixels):
        """What the network sees in the same photos, before it says a class, float32 `(N, width)`. Raises: UserError for an `.onnx`."""
        if self.net is None:
            raise UserError(f"{self.path}: an .onnx does not tell what it sees; a checkpoint (.pt) does")
        from utils.data.pixels import to_device

        device = next(self.net.parameters()).device
        return self.net.features(to_device(np.array(pixels), device)).cpu().numpy()


def joined(parts):
    """The answers to several batches as one. Args: dicts attribute -> `(B, classes)`."""
    return {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}


def answered(photos, ask, batch_size, exif, refuse):
    """Yields (names, what `ask` says of their letterboxed pixels) of some photos at a time.

    Args: `photos`, any number of (name, path or image, as of `utils.data.photos.read_rgb`); `ask`, such as a `Classifier`; `exif` as of
        `read_rgb`; `refuse`, called with the name and the problem of a photo that cannot be read. It is left out.
    """
    photos, ahead = itertools.tee(photos)
    read = zip(photos, read_photos((photo for _, photo in ahead), exif))
    good = ((name, pixels) for (name, _), (pixels, problem) in read if not problem or refuse(name, problem))
    for some in batches(good, batch_size):
        names, pixels = zip(*some)
        yield names, ask(np.stack(pixels))


def load_classifier(path, threads=None, attributes=None, prior="trained", device="cpu", **clip):
    """The network in a file, in float32.

    Args:
        path: `.onnx` of export.py; any other name is a checkpoint, ours (student, teacher, or export.py's
            `--format pt`) or a published one; a folder of `--format hub`, or such a one's `owner/name` on the hub.
            "zero-shot" is FashionCLIP as it comes, whatever file has that name.
        threads: of the processor to use, for an `.onnx`; None for all. PyTorch's are set by torch.set_num_threads.
        attributes: for zero-shot, `utils.data.attributes.Attributes` with its prompts; None for the competition's.
        prior: "balanced" takes the prior off the logits that its meta name, see `utils.losses.log_prior`.
        device: of a checkpoint: auto, cpu or cuda, see `utils.base.hardware.choose_device`; an `.onnx` takes auto for cpu.
        clip: `clip_model`, `prompts`, for zero-shot and a published teacher, see `networks.load_network`.
    Returns: Classifier.
    Raises: UserError if the file is missing, is none, or is another model's; does not say its prior; or for a prior that is not known, or a
        device that is not, is not there, or not for it.
    """
    path = str(path)
    if prior not in ("trained", "balanced"):
        raise UserError(f"--prior {prior}: not known; there are trained, balanced")
    found = path if path == ZERO_SHOT else find_checkpoint(path)
    if path != ZERO_SHOT and not os.path.exists(found):
        raise UserError(f"checkpoint {path}: no such file; it needs a .pt, an .onnx, or a hub's owner/name")
    if path.endswith(".onnx"):
        if device not in ("auto", "cpu"):
            raise UserError(f"--device {device}: {path} runs on the CPU; a checkpoint (.pt) runs on CUDA")
        classifier = _from_onnx(path, threads)
    else:
        classifier = _from_checkpoint(path, found, device, attributes or read_attributes(), **clip)
    # Zero-shot has seen no labels.
    return classifier if prior == "trained" or path == ZERO_SHOT else classifier.balanced()


# --- ONNX --------------------------------------------------------------------------------------------


def _from_onnx(path, threads):
    try:
        import onnxruntime
    except ImportError as error:
        raise UserError(f"{path}: needs onnxruntime: pip install onnxruntime") from error
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors only
    options.intra_op_num_threads = threads or 0
    try:
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        meta = dict(json.loads(session.get_modelmeta().custom_metadata_map.get(META, "{}")))
    except Exception as error:  # what a file that is none raises depends on its bytes
        raise UserError(f"{path}: not a readable ONNX file of export.py ({first_line(error)})") from error
    attributes = attributes_of(meta, path)
    found = {x.name: (x.type, len(x.shape)) for x in session.get_inputs()}
    outputs, sizes = {x.name: x.shape[-1:] for x in session.get_outputs()}, attributes.sizes
    # In the attributes' order, since not every name of one can be a tensor's; earlier versions had the names.
    names = list(outputs if "attributes" in meta else sizes)
    fits = [outputs.get(name) for name in names] == [[classes] for classes in sizes.values()]
    if found != {INPUT: ("tensor(uint8)", 4)} or not fits:
        raise UserError(f"{path}: an ONNX file of another model; export.py writes those that are read")

    def classify(pixels):
        return dict(zip(attributes, session.run(names, {INPUT: np.ascontiguousarray(pixels)})))

    return Classifier(path, attributes, meta, classify)


# --- PyTorch -----------------------------------------------------------------------------------------


def _from_checkpoint(path, found, device, attributes, clip_model=None, prompts=None):
    """Args: `path` as it was given, `found` where that is on this machine."""
    try:
        from utils.base.hardware import choose_device, keep_freed_memory
    except ImportError as error:
        raise UserError(f"checkpoint {path}: needs PyTorch: pip install torch; an .onnx does not") from error
    from clip_model import FashionCLIP
    from networks import Student, load_network
    from utils.data.pixels import to_device

    keep_freed_memory()
    device = choose_device(device, tf32=False)
    if path == ZERO_SHOT:
        if prompts is not None:
            attributes = attributes.with_prompts(prompts)
        net, meta = FashionCLIP(attributes, clip_model or CLIP_MODEL).requires_grad_(False).eval(), {}
    else:
        net, meta = load_network(found, clip_model, prompts)
    if net.role == Student.role:
        net = net.folded()
    function = net.to(device).inference()

    def classify(pixels):
        # A copy, since memory-mapped arrays are read-only.
        logits = function(to_device(np.array(pixels), device))
        return {key: values.softmax(dim=1).cpu().numpy() for key, values in logits.items()}

    return Classifier(path, net.attributes, meta, classify, net)
