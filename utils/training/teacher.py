"""What teaches a student: the logits of a network, asked once per view and kept in the cache, or those of a file."""

import functools
import hashlib
import json
import os

import numpy as np
import torch

from clip_model import FashionCLIP
from networks import load_network
from utils.base.errors import UserError, shortened
from utils.base.files import MARK, atomic
from utils.base.log import logger
from utils.data.prior import prior_of, smoothed_of
from utils.nets.checkpoint import MODEL_ROOT, epoch_files
from utils.nets.hub import ZERO_SHOT, find_checkpoint, is_hub_id
from utils.training import engine
from utils.training.answers import Answers

LOGITS_VERSION = 7  # part of the cache's key: raise it when a network's logits, or their form, change
PREFIX = "logits."  # of an array's name in a file, before the attribute's
PRIOR = "prior."


class Teacher:
    """What teaches: `logits(images, poll)` are its own, of a view of the images; before, `prepare(table, images, views)` raises
    UserError if what is there of them already is not of these images and `utils.data.views.Views`.

    Attributes: `identity`, hash of a network's weights or of a file; `prior`, the log-prior in its logits, attribute -> list of
        floats, None where that is not known; `smoothed`, attributes from whose logits it cannot be taken off.
    """

    identity, prior, shift = None, None, None  # the last is added to the logits
    smoothed = ()

    def bring_to(self, prior):
        """From now on teach logits with this log-prior in them. Raises: UserError if that of its own is not known, or cannot be
        taken off."""
        if self.prior is None:
            raise UserError(
                "--logit-adjustment: the teacher does not say which prior is in its logits; train it anew, or give "
                f"{PRIOR}<attribute> in --teacher-logits, log-probabilities by class, all the same for none"
            )
        if self.smoothed:
            problem = (
                f"with label smoothing, which the rare classes of {', '.join(self.smoothed)} would gain by"
            )
            raise UserError(
                f"--logit-adjustment: the teacher was trained {problem}; train it anew with --ls 0"
            )
        self.shift = {key: torch.tensor(prior[key]) - torch.tensor(self.prior[key]) for key in prior}

    def kept(self):
        """What a run keeps of its teacher, plain values."""
        return {"identity": self.identity, "prior": self.prior}

    def teach(self, images, poll=None):
        """Dict attribute -> float32 tensor `(N, classes)` for a view of the images. Args: as of `logits`."""
        logits = self.logits(images, poll)
        return {key: values + (self.shift or {}).get(key, 0) for key, values in logits.items()}


class LogitsFile(Teacher):
    """A teacher that has spoken: a .npz file of arrays `image_name` `(M,)` and, for each attribute, `logits.<attribute>`,
    `(M, classes)`, where the prefix may be left out; or `(K, M, classes)` for views 0 to K - 1, with `views`, JSON of
    what makes them (see `utils.data.views`). `prior.<attribute>` `(classes,)` may say which log-prior is in the logits.

    Args: `sizes`, attribute -> number of classes. Raises: UserError for a file that is none or does not fit.
    """

    def __init__(self, path, sizes):
        self.path = path
        try:
            with np.load(path) as file:
                names = file["image_name"].ravel()
                names = np.char.decode(names, "utf-8") if names.dtype.kind == "S" else names
                self.names = [str(name) for name in names]
                stored = {key: PREFIX + key if PREFIX + key in file.files else key for key in sizes}
                self.arrays = {key: file[name] for key, name in stored.items()}
                has_prior = [key for key in sizes if PRIOR + key in file.files]
                prior = {key: file[PRIOR + key].astype(float).tolist() for key in has_prior}
                self.views = json.loads(str(file["views"])) if "views" in file.files else None
        except KeyError as error:
            raise UserError(f"{path}: {error.args[0]}; it needs image_name, {', '.join(sizes)}") from error
        except Exception as error:  # what a damaged one raises depends on where it is damaged
            # NumPy says so of objects, which it would have to run as a program.
            objects = (
                "; save names as np.array(names, dtype=str), logits as float32"
                if "pickle" in str(error)
                else ""
            )
            raise UserError(f"{path}: not a readable .npz file ({error}){objects}") from error
        self.by_view = all(values.ndim == 3 for values in self.arrays.values())
        for key, values in self.arrays.items():
            expected = (len(self.names), sizes[key])
            shape = values.shape[1:] if self.by_view else values.shape
            if shape != expected or values.dtype.kind not in "fiu" or not np.isfinite(values).all():
                found = f"{values.dtype} {values.shape}"
                raise UserError(f"{path}: {key} is {found}; it needs finite numbers {expected}")
        self.prior = prior_of({"prior": prior}, sizes)
        content = repr((self.names, prior)).encode() + b"".join(self.arrays[key].tobytes() for key in sizes)
        self.identity = hashlib.blake2b(content, digest_size=16).hexdigest()

    def prepare(self, table, images, views):
        self.chosen = self.rows(table.names)
        have = min(map(len, self.arrays.values())) if self.by_view else 1
        if have < views.count:
            raise UserError(f"{self.path}: logits of {have} views; --views {views.count} needs them all")
        if views.count > 1 and self.views != views.key:
            problem = f"logits of other views, {self.views}; this run's are {views.key}"
            raise UserError(f"{self.path}: {problem}: make it anew")

    def rows(self, names):
        """The rows of these images. Raises: UserError unless there is one for each."""
        if self.names == names:
            return slice(None)
        if self.by_view:
            problem = "other images than the training table's, or in another order: views go by row"
            raise UserError(f"{self.path}: {problem}")
        rows = {name: row for row, name in enumerate(self.names)}
        if len(rows) < len(self.names):
            raise UserError(f"{self.path}: {len(self.names) - len(rows)} names occur more than once")
        missing = [name for name in names if name not in rows]
        if missing:
            raise UserError(f"{self.path}: no row for {len(missing)} of the images:\n{shortened(missing)}")
        return [rows[name] for name in names]

    def logits(self, images, poll=None):
        """Dict attribute -> float32 tensor `(N, classes)` for a view of the images."""
        view = images.number if self.by_view else ...
        arrays = {key: values[view][self.chosen].astype(np.float32) for key, values in self.arrays.items()}
        return {key: torch.from_numpy(values) for key, values in arrays.items()}


class Network(Teacher):
    """A teacher that is asked once for each view of an image; what it says is kept in the cache.

    Args: `load`, a function that returns the network, frozen; `attributes` of the student, whose classes may have another
        order; `args`, options of train.py; `precision`, `utils.base.hardware.Precision`; `saved`, of a resumed run: what
        `kept` gave, so that it is not loaded for views that are in the cache.
    """

    def __init__(self, load, attributes, args, precision, saved=None):
        self.load, self.attributes, self.args, self.precision = load, attributes, args, precision
        self.net, self.answers = None, None
        if saved:
            self.identity, self.prior = saved["identity"], prior_of(saved, attributes.sizes)
        else:
            self.net, meta = load()
            prior = prior_of(meta, self.net.attributes.sizes)
            self.prior = prior and {key: [prior[key][i] for i in self._order(key)] for key in attributes}
            self.smoothed = smoothed_of(meta, self.net.attributes.sizes)
            self.identity = _identity(self.net)

    def teach(self, images, poll=None):
        """As of `Teacher`. With one view the network is let go, since the cache answers from now on: FashionCLIP takes 600 MB."""
        logits = super().teach(images, poll)
        if self.args.views == 1:
            self.net = None
        return logits

    def logits(self, images, poll=None):
        """Dict attribute -> float32 tensor `(N, classes)` for a view of the images.

        Args: `poll` is called between two batches.
        Raises: UserError if they are not finite, or the cache is damaged, or the teacher is another than it was.
        """
        view = images.key[1]
        kept = self.answers.read(view)
        if kept is not None:
            logger.info(f"teacher's logits: read from {self.answers.path(view)}")
            return {key: torch.from_numpy(values) for key, values in kept.items()}
        logits = self._ask(images, poll)
        self.answers.save(view, {key: values.cpu().numpy() for key, values in logits.items()})
        logger.info(f"teacher's logits: written to {self.answers.path(view)}")
        return logits

    def prepare(self, table, images, views):
        classes = {key: attribute.classes for key, attribute in self.attributes.items()}
        computed = self.precision.name, images.device.type  # float32 is TF32 on a GPU
        teacher = table.source, (LOGITS_VERSION, computed, self.identity, classes)
        # What the cache has of this teacher and these photos, held from now on.
        self.answers = Answers(self.args.cache_dir, teacher, images, self.attributes.sizes)
        self.answers.check(map(views.key_of, range(views.count)))

    def _order(self, key):
        """The student's classes of an attribute, in its order, as the network numbers them."""
        return [self.net.attributes[key].classes.index(name) for name in self.attributes[key].classes]

    def _ask(self, images, poll):
        if self.net is None:
            # Training's random numbers go on as in a run that has not loaded it again.
            with torch.random.fork_rng(devices=[]):
                self.net, _ = self.load()
            if _identity(self.net) != self.identity:
                raise UserError(f"--teacher {self.args.teacher}: not the one that the run began with")
        view = f"view {images.number} of " if images.number else ""
        logger.info(f"teacher's logits: computed for {view}{len(images)} images, once")
        self.net.to(images.device)
        batches = torch.arange(len(images)).split(self.args.val_batch_size)
        logits = engine.predict(self.net, images, self.precision, batches, "teacher's logits", poll)
        for key, values in logits.items():
            if not torch.isfinite(values).all():
                raise UserError(f"--teacher {self.args.teacher}: its logits of {key} are not finite")
        return {key: logits[key][:, self._order(key)] for key in self.attributes}


def _identity(net):
    """Hash of all of a network that its logits depend on."""
    digest = hashlib.blake2b(digest_size=16)
    prompts = [list(map(len, attribute.prompts)) for attribute in net.attributes.values()]
    classes = [attribute.classes for attribute in net.attributes.values()]
    digest.update(repr((net.describe(), prompts, classes)).encode())
    for name, value in net.state_dict().items():
        digest.update(name.encode())
        digest.update(value.cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def save_logits(path, names, logits, prior=None, options=None):
    """Write the file that `LogitsFile` reads. Args: `logits`, with the `options` of several views `(K, N, classes)`."""
    arrays = {PREFIX + key: values.cpu().numpy() for key, values in logits.items()}
    arrays.update({PRIOR + key: np.array(values) for key, values in (prior or {}).items()})
    if options:
        arrays["views"] = json.dumps(options)
    with atomic(path, binary=True) as file:
        np.savez(file, **{MARK.decode(): 0, "image_name": np.array(names), **arrays})
    logger.info(f"teacher's logits: written to {path}")


def write_logits(args, teacher, names, images, views):
    """Write the file of --save-teacher-logits. Args: `names`, `images` of training; `views`, `utils.data.views.Views`."""
    each = [teacher.logits(views.view(images, number)) for number in range(views.count)]
    path, options = args.save_teacher_logits, views.key if views.count > 1 else None
    logits = {key: torch.stack([one[key] for one in each]) for key in each[0]} if options else each[0]
    # A file says no prior that cannot be taken off.
    save_logits(path, names, logits, None if teacher.smoothed else teacher.prior, options)


def find_teacher(args, attributes, precision, saved=None):
    """What teaches the student of a run, a `Teacher`; None if nothing does.

    Args: `args`, options of train.py; `attributes` of the student; `saved`, of a resumed run: see `kept`.
    Raises: UserError if the teacher does not exist, or has other attributes.
    """
    if not args.distils:
        return None
    if args.teacher_logits:
        file = LogitsFile(args.teacher_logits, attributes.sizes)
        if saved and saved["identity"] != file.identity:
            raise UserError(f"--teacher-logits {args.teacher_logits}: not the file that the run began with")
        return file
    return Network(functools.partial(_load_teacher, args, attributes), attributes, args, precision, saved)


def _load_teacher(args, attributes):
    """(The network of --teacher, frozen; its meta)."""
    if args.teacher == ZERO_SHOT:
        prior = {key: [0.0] * size for key, size in attributes.sizes.items()}  # it has seen no labels
        with torch.random.fork_rng(devices=[]):  # --clip-model random: the same one when a run is resumed
            torch.default_generator.manual_seed(args.seed)
            net = FashionCLIP(attributes, args.clip_model)
        return net.requires_grad_(False).eval(), {"prior": prior}
    path = os.path.join(MODEL_ROOT, args.teacher)
    if not os.path.exists(path):
        path = args.teacher  # a folder of export.py --format hub, or the hub's
        if not (os.path.isdir(path) or is_hub_id(path)):
            raise UserError(f"--teacher {path}: no {MODEL_ROOT}/{path}; {_existing_checkpoints()}")
    net, meta = load_network(find_checkpoint(path), args.clip_model, args.prompts)
    differences = net.attributes.differences(attributes)
    if differences:
        problem = f"--teacher {args.teacher}: other attributes (first) than the student's (second)"
        raise UserError(f"{problem}:\n{shortened(differences)}")
    return net, meta


def _existing_checkpoints():
    folders = sorted(os.listdir(MODEL_ROOT)) if os.path.isdir(MODEL_ROOT) else []
    found = {folder: epoch_files(os.path.join(MODEL_ROOT, folder)) for folder in folders}
    lists = [f"{name}/model_{{{','.join(map(str, epochs))}}}.pt" for name, epochs in found.items() if epochs]
    return f"there are: {'  '.join(lists)}" if lists else f"there is no checkpoint under {MODEL_ROOT}/ yet"
