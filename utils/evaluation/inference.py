"""A trained network for use: the same small function from a checkpoint (.pt) or an exported file (.onnx).

PyTorch is imported for checkpoints only: an exported file needs numpy, scipy, pillow, tqdm and onnxruntime.
"""

import json
import os

import numpy as np
from tqdm import tqdm

from utils.base.errors import UserError, first_line, shortened
from utils.data.attributes import UNKNOWN, Attributes, attributes_of, is_number, read_attributes
from utils.data.dataset import read_tables
from utils.data.photos import SIZE
from utils.data.prior import prior_of, smoothed_of
from utils.nets.hub import CLIP_MODEL, ZERO_SHOT, find_checkpoint

INPUT = "pixels"  # name of the exported graph's input
FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠")  # Excel takes wide ones for these
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
    """

    def __init__(self, path, attributes, meta, function, net=None):
        self.path, self.attributes, self.meta, self.net = path, attributes, meta, net
        self.role = net.role if net else "student"
        self._function = function

    def __call__(self, pixels):
        """RGB uint8 `(N, 224, 224, 3)` array -> dict attribute -> float32 probabilities `(N, classes)`.

        Raises: UserError if there is a NaN among them.
        """
        probabilities = self._function(pixels)
        for key, values in probabilities.items():
            if not np.isfinite(values).all():
                broken = int((~np.isfinite(values)).any(axis=1).sum())
                raise UserError(f"{self.path}: {key} is NaN for {broken} of {len(values)} images")
        return probabilities

    def predict(self, pixels, batch_size):
        """The same of a whole data set, `batch_size` images at a time, with a progress bar."""
        starts = range(0, len(pixels), batch_size)
        bar = tqdm(starts, os.path.basename(self.path), disable=None, leave=False)
        parts = [self(pixels[start : start + batch_size]) for start in bar]
        return {key: np.concatenate([part[key] for part in parts]) for key in self.attributes}


def load_classifier(path, threads=None, clip_model=None, prompts=None, attributes=None, prior="trained"):
    """The network in a file, in float32 on the CPU.

    Args:
        path: `.onnx` of export.py; any other name is a checkpoint, ours (student, teacher, or export.py's
            `--format pt`) or a published one; a folder of `--format hub`, or such a one's `owner/name` on the hub.
            "zero-shot" is FashionCLIP as it comes, whatever file has that name.
        threads: of the processor to use, for an `.onnx`; None for all. PyTorch's are set by torch.set_num_threads.
        clip_model, prompts: for zero-shot and a published teacher, see `networks.load_network`.
        attributes: for zero-shot, `utils.data.attributes.Attributes` with its prompts; None for the competition's.
        prior: "balanced" takes the prior off the logits that its meta name, see `utils.losses.log_prior`.
    Returns: Classifier.
    Raises: UserError if the file is missing, is none, or is another model's; or does not say its prior.
    """
    path = str(path)
    found = path if path == ZERO_SHOT else find_checkpoint(path)
    if path != ZERO_SHOT and not os.path.exists(found):
        raise UserError(f"checkpoint {path}: no such file; it needs a .pt, an .onnx, or a hub's owner/name")
    if path.endswith(".onnx"):
        classifier = _from_onnx(path, threads)
    else:
        classifier = _from_checkpoint(path, found, clip_model, prompts, attributes or read_attributes())
    # Zero-shot has seen no labels.
    return classifier if prior == "trained" or path == ZERO_SHOT else _balanced(classifier)


def _balanced(classifier):
    """The same as if all classes were equally frequent (Menon et al., arXiv:2007.07314, section 4). Its meta then name
    no prior, so that none is taken off twice."""
    sizes, net = classifier.attributes.sizes, classifier.net
    prior = prior_of(classifier.meta, sizes)
    if prior is None:
        problem = "does not say which prior is in its logits; train it anew"
        raise UserError(f"--prior balanced: {classifier.path} {problem}")
    smoothed = smoothed_of(classifier.meta, sizes)
    if smoothed:
        problem = (
            f"was trained with label smoothing, which the rare classes of {', '.join(smoothed)} would gain by"
        )
        way_out = "train it anew, with --ls 0 or with --logit-adjustment 1"
        raise UserError(f"--prior balanced: {classifier.path} {problem}; {way_out}")

    def reweighted(pixels):
        said = classifier._function(pixels)
        values = {key: p * np.exp(-np.array(prior[key], np.float32)) for key, p in said.items()}
        return {key: p / p.sum(axis=1, keepdims=True) for key, p in values.items()}

    function = reweighted
    if net is not None and classifier.role == "student":
        net.subtract_prior(prior)
        function = classifier._function
    meta = dict(classifier.meta, prior={key: [0.0] * size for key, size in sizes.items()})
    return Classifier(classifier.path, classifier.attributes, meta, function, net)


def read_data(classifiers, args, split):
    """A part of the data set as each network was trained on it: photos turned or not, labels in the order of its classes.

    The tables are read as the file of `--attributes` says; without one, as the first network was trained on them.
    An exported file does not tell where they were: the competition's classes mean the competition's tables.
    Zero-shot has been trained on none.

    Args: `args` with the options `attributes`, `data_dir`, `skip_unreadable` and `follow_links`; `split`, "train" or "val".
    Returns: for each network a `utils.data.dataset.Table`.
    Raises: UserError if a network has other attributes or classes, whose order may differ, and as `read_tables`.
    """
    first = next((one for one in classifiers if one.path != ZERO_SHOT), classifiers[0])
    given, source = first.attributes, first.path
    if args.attributes:
        given, source = read_attributes(args.attributes), args.attributes
    elif "export" in first.meta:
        competition = read_attributes()
        given = given if competition.differences(given) else competition
        table = os.path.join(args.data_dir, given.layout.part(split).table)
        if os.path.isdir(args.data_dir) and not os.path.isfile(table):
            raise UserError(f"no table {table}, and {source} names none: give a file with --attributes")
    for classifier in classifiers:
        differences = given.differences(classifier.attributes)
        if differences:
            problem = f"{source} and {classifier.path} have different attributes or classes"
            raise UserError(f"{problem}:\n{shortened(differences)}")
    return [_read_as_trained(classifier, given, args, split) for classifier in classifiers]


def _read_as_trained(classifier, given, args, split):
    own = classifier.attributes
    turned = Attributes(dict(given.content, exif=own.layout.exif), classifier.path)
    how = {"skip_unreadable": args.skip_unreadable, "follow_links": args.follow_links}
    data = read_tables(args.data_dir, turned, (split,), **how)[split]
    labels = {}
    for key, attribute in own.items():  # read first: a cell may be a number in the other order of classes
        numbers = [attribute.classes.index(name) for name in given[key].classes]
        labels[key] = np.array([*numbers, UNKNOWN])[data.labels[key]]  # -1, not known, is the last
    return data._replace(labels=labels)


def table_text(cell):
    """A text as a cell of a table of predictions: one that a spreadsheet would take for a formula gets an apostrophe, as OWASP
    advises ("CSV injection"). Not for cells of a user's own table, which are found there again as they are."""
    return f"'{cell}" if cell.startswith(FORMULA) and not is_number(cell) else cell


def prediction_header(attributes, labels=False, probabilities=False):
    """Columns of a table of predictions, no two alike: photo, class of each attribute, and what is asked for.

    Args: with `labels`, `daily_label` ... follow; with `probabilities`, one for each class, `daily_0` ...
    """
    shorts = [attribute.short for attribute in attributes.values()]
    wanted = [attributes.layout.image, *shorts]
    if labels:
        wanted += [f"{short}_label" for short in shorts]
    if probabilities:
        wanted += [f"{a.short}_{number}" for a in attributes.values() for number in range(len(a.classes))]
    columns = []
    for name in map(table_text, wanted):
        column, count = name, 1
        while column in columns or (count > 1 and column in wanted):
            count += 1
            column = f"{name}_{count}"
        columns.append(column)
    return columns


def probability_columns(results):
    """Cells of the columns of probabilities, in the header's order. Args: `results` of a `Classifier`."""
    return [[f"{p:.6f}" for p in column] for values in results.values() for column in values.T]


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
    outputs, sizes = {x.name: x.shape[-1:] for x in session.get_outputs()}, attributes.sizes
    # In the attributes' order, since not every name of one can be a tensor's; earlier versions had the names.
    names = list(outputs if "attributes" in meta else sizes)
    fits = [outputs.get(name) for name in names] == [[classes] for classes in sizes.values()]
    if found != {INPUT: ("tensor(uint8)", 4)} or not fits:
        wanted = ", ".join(f"{key} ({classes})" for key, classes in sizes.items())
        raise UserError(
            f"{path}: an ONNX file of another model: it needs the input {INPUT}, uint8 (N, {SIZE}, {SIZE}, 3), "
            f"and the outputs {wanted}; export.py writes such files"
        )

    def classify(pixels):
        return dict(zip(attributes, session.run(names, {INPUT: np.ascontiguousarray(pixels)})))

    return Classifier(path, attributes, meta, classify)


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


def _from_checkpoint(path, found, clip_model, prompts, attributes):
    """Args: `path` as it was given, `found` where that is on this machine."""
    try:
        import torch
    except ImportError as error:
        raise UserError(
            f"checkpoint {path}: reading it needs PyTorch (pip install torch); an exported .onnx does not"
        ) from error
    from clip_model import FashionCLIP
    from networks import Student, load_network
    from utils.base.hardware import keep_freed_memory
    from utils.data.pixels import to_device

    keep_freed_memory()
    if path == ZERO_SHOT:
        if prompts is not None:
            attributes = attributes.with_prompts(prompts)
        net, meta = FashionCLIP(attributes, clip_model or CLIP_MODEL).requires_grad_(False).eval(), {}
    else:
        net, meta = load_network(found, clip_model, prompts)
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

    return Classifier(path, net.attributes, meta, classify, net)
