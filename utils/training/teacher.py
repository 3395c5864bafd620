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
from utils.data.attributes import named, places, sizes_of, unknown_classes
from utils.data.prior import prior_of, smoothed_of
from utils.nets.checkpoint import MODEL_ROOT, epoch_files
from utils.nets.hub import BEST, ZERO_SHOT, find_checkpoint, is_hub_id
from utils.training import engine
from utils.training.answers import Answers

LOGITS_VERSION = 7  # part of the cache's key: raise it when a network's logits, or their form, change
PREFIX = "logits."  # of an array's name in a file, before the attribute's
PRIOR = "prior."


class Teacher:
    """What teaches: `logits(images, between_steps)` are its own, of a view of the images; before, `prepare(names, images,
    views)` raises UserError if what is there of them already is not of these images and `utils.data.views.Views`.

    Attributes: `taught`, names of the student's attributes that it tells; `identity`, hash of a network's weights or of a file;
        `prior`, the log-prior in its logits, attribute -> list of floats, None where that is not known; `smoothed`, attributes
        from whose logits it cannot be taken off.
    """

    identity, prior, shift = None, None, None  # the last is added to the logits
    taught, smoothed = (), ()

    def shift_prior_to(self, prior):
        """From now on teach logits with this log-prior in them. Raises: UserError if that of its own is not known, or cannot be
        taken off."""
        if self.prior is None:
            problem = "does not say which prior is in its logits; train it anew"
            way_out = f"give {PRIOR}<attribute>, log-probabilities by class, in --teacher-logits"
            raise UserError(f"--logit-adjustment: the teacher {problem}, or {way_out}")
        if self.smoothed:
            gaining = f"label smoothing, which the rare classes of {', '.join(self.smoothed)} would gain by"
            raise UserError(f"--logit-adjustment: the teacher was trained with {gaining}; use --ls 0 for it")
        self.shift = {key: torch.tensor(prior[key]) - torch.tensor(self.prior[key]) for key in self.prior}

    def fingerprint(self):
        """What a run keeps of its teacher, plain values."""
        return {"identity": self.identity, "prior": self.prior}

    def teach(self, images, between_steps=None):
        """Dict attribute -> float32 tensor `(N, classes)` for a view of the images. Args: as of `logits`."""
        logits = self.logits(images, between_steps)
        return {key: values + (self.shift or {}).get(key, 0) for key, values in logits.items()}


class LogitsFile(Teacher):
    """A teacher that has spoken: a .npz file of arrays `image_name` `(M,)` and, for each attribute, `logits.<attribute>`,
    `(M, classes)`, where the prefix may be left out; or `(K, M, classes)` for views 0 to K - 1, with `views`, JSON of
    what makes them (see `utils.data.views`). `prior.<attribute>` `(classes,)` may say which log-prior is in the logits.

    Args: `sizes`, attribute -> number of classes, of which the file may lack some; `saved`, of a resumed run: what `fingerprint`
        gave.
    Raises: UserError for a file that is none, does not fit, or is another than that of the run.
    """

    def __init__(self, path, sizes, saved=None):
        self.path = path
        try:
            with np.load(path) as file:
                names = file["image_name"].ravel()
                names = np.char.decode(names, "utf-8") if names.dtype.kind == "S" else names
                self.names = list(map(str, names))
                stored = {key: PREFIX + key if PREFIX + key in file.files else key for key in sizes}
                self.arrays = {key: file[name] for key, name in stored.items() if name in file.files}
                has_prior = [key for key in self.arrays if PRIOR + key in file.files]
                prior = {key: file[PRIOR + key].astype(float).tolist() for key in has_prior}
                self.views = json.loads(str(file["views"])) if "views" in file.files else None
        except KeyError as error:
            raise UserError(f"{path}: {error.args[0]}; it needs image_name") from error
        except Exception as error:  # what a damaged one raises depends on where it is damaged
            # NumPy says so of objects, which it would have to run as a program.
            way_out = "; save names as np.array(names, dtype=str)" if "pickle" in str(error) else ""
            raise UserError(f"{path}: not a readable .npz file ({error}){way_out}") from error
        if not self.arrays:
            names = ", ".join(PREFIX + key for key in sizes)
            raise UserError(f"{path}: holds nothing of the student's attributes; it needs some of {names}")
        self.by_view = all(values.ndim == 3 for values in self.arrays.values())
        for key, values in self.arrays.items():
            expected = (len(self.names), sizes[key])
            shape = values.shape[1:] if self.by_view else values.shape
            if shape != expected or values.dtype.kind not in "fiu" or not np.isfinite(values).all():
                found = f"{values.dtype} {values.shape}"
                raise UserError(f"{path}: {key} is {found}; it needs finite numbers {expected}")
        self.taught = list(self.arrays)
        self.prior = prior_of({"prior": prior}, {key: sizes[key] for key in self.taught})
        numbers = b"".join(values.tobytes() for values in self.arrays.values())
        content = repr((self.names, prior)).encode() + numbers
        self.identity = hashlib.blake2b(content, digest_size=16).hexdigest()
        if saved and saved["identity"] != self.identity:
            raise UserError(f"--teacher-logits {path}: not the file that the run began with")
        unknown = [key for key in sizes if key not in self.arrays]
        if unknown:
            logger.info(f"{path}: says nothing of {', '.join(unknown)}: learned from the labels alone")

    def prepare(self, names, images, views):
        self.chosen = self._rows(names)
        have = min(map(len, self.arrays.values())) if self.by_view else 1
        if have < views.count:
            raise UserError(f"{self.path}: logits of {have} views; --views {views.count} needs them all")
        if views.count > 1 and self.views != views.key:
            problem = f"logits of other views, {self.views}; this run's are {views.key}"
            raise UserError(f"{self.path}: {problem}: make it anew")

    def _rows(self, names):
        """The rows of these images. Raises: UserError unless there is one for each."""
        if self.names == names:
            return slice(None)
        if self.by_view:
            raise UserError(f"{self.path}: not the training table's images in its order, by which views go")
        rows = {name: row for row, name in enumerate(self.names)}
        if len(rows) < len(self.names):
            raise UserError(f"{self.path}: {len(self.names) - len(rows)} names occur more than once")
        missing = [name for name in names if name not in rows]
        if missing:
            raise UserError(f"{self.path}: no row for {len(missing)} of the images:\n{shortened(missing)}")
        return [rows[name] for name in names]

    def logits(self, images, between_steps=None):
        view = images.number if self.by_view else ...
        arrays = {key: values[view][self.chosen].astype(np.float32) for key, values in self.arrays.items()}
        return {key: torch.from_numpy(values) for key, values in arrays.items()}


class AskedTeacher(Teacher):
    """A network that is asked once for each view of an image; what it says is kept in the cache.

    Args: `load`, a function that returns the network, frozen, and its meta; `attributes` of the student, of which it tells those
        whose classes it knows, in whatever order; of a resumed run those that it tells; `setup`, `utils.training.engine.Setup`:
        each process asks it about its share of the images; `saved`, of a resumed run: what `fingerprint` gave, so that the network
        is not loaded for views that are in the cache.
    """

    def __init__(self, load, attributes, setup, cache_dir, saved=None):
        self.load, self.attributes, self.setup = load, dict(attributes), setup
        self.cache_dir, self.net = cache_dir, None
        if saved:
            self.identity, self.prior = saved["identity"], prior_of(saved, sizes_of(attributes))
        else:
            self.net, meta = load()
            self._choose(attributes)
            sizes = self.net.attributes.sizes
            prior = prior_of(meta, sizes)
            self.prior = prior and {key: [prior[key][i] for i in self._order(key)] for key in self.attributes}
            self.smoothed = [key for key in smoothed_of(meta, sizes) if key in self.attributes]
            self.identity = identity_of(self.net)
        self.taught = list(self.attributes)

    def _choose(self, attributes):
        """Keep the attributes of which the network knows all classes; the log names the others, and its further classes."""
        known = self.net.attributes
        unknown, more = unknown_classes(attributes, known), unknown_classes(known, attributes)
        self.attributes = {key: one for key, one in attributes.items() if key not in unknown}
        if not self.attributes:
            problem = "--teacher: other attributes (first) than the student's (second)"
            raise UserError(f"{problem}:\n{shortened(known.differences(attributes))}")
        if unknown:
            logger.info(
                f"the teacher does not know {named(unknown)}: all of it is learned from the labels alone"
            )
        further = {key: more[key] for key in self.attributes if key in more}
        if further:
            logger.info(f"of the teacher's classes, {named(further)} are left out of its softmax")

    def prepare(self, names, images, views):
        classes = {key: attribute.classes for key, attribute in self.attributes.items()}
        computed = self.setup.precision.name, images.device.type  # float32 is TF32 on a GPU
        teacher = LOGITS_VERSION, computed, self.identity, classes
        self.answers = Answers(self.cache_dir, teacher, images, sizes_of(self.attributes))
        self.answers.check(map(views.key_of, range(views.count)))
        self.has_more = views.count > 1

    def logits(self, images, between_steps=None):
        """Dict attribute -> float32 tensor `(N, classes)` for a view of the images.

        Args: `between_steps` is called between two batches.
        Raises: UserError if they are not finite, or the cache is damaged, or the teacher is another than it was.
        """
        view = images.key[1]
        path, kept = self.answers.path(view), self.answers.read(view)
        if not self.setup.world.all_reduce_max(int(kept is None)):  # every machine has a cache
            logger.debug(f"teacher's logits: read from {path}")
            return {key: torch.from_numpy(values) for key, values in kept.items()}
        logits = self._ask(images, between_steps)
        with self.setup.world.first_alone():  # the others may read it next
            if self.setup.world.local_rank == 0:
                self.answers.save(view, {key: values.numpy() for key, values in logits.items()})
                logger.debug(f"teacher's logits: written to {path}")
        return logits

    def _order(self, key):
        """The student's classes of an attribute, in its order, as the network numbers them."""
        return places(self.attributes[key].classes, self.net.attributes[key].classes)

    def _ask(self, images, between_steps):
        if self.net is None:
            # Training's random numbers go on as in a run that has not loaded it again.
            with torch.random.fork_rng(devices=[]):
                self.net, _ = self.load()
            if identity_of(self.net) != self.identity:
                raise UserError("--teacher: not the one that the run began with")
        view = f"view {images.number} of " if images.number else ""
        logger.debug(f"teacher's logits: computed for {view}{len(images)} images, once")
        self.net.to(images.device)
        share, rows = engine.predict_share(self.net, images, self.setup, "teacher's logits", between_steps)
        logits = {}
        for key in self.attributes:
            whole = torch.zeros(len(images), share[key].shape[1]).index_copy(0, rows, share[key])
            whole = self.setup.world.sum(whole).cpu()
            if not torch.isfinite(whole).all():
                raise UserError(f"--teacher: its logits of {key} are not finite; choose another checkpoint")
            logits[key] = whole[:, self._order(key)]
        if not self.has_more:  # the cache answers from now on, and FashionCLIP takes 600 MB
            self.net = None
        return logits


def identity_of(net):
    """Hash of all of a network that its logits depend on."""
    digest = hashlib.blake2b(digest_size=16)
    prompts = [list(map(len, attribute.prompts)) for attribute in net.attributes.values()]
    classes = [attribute.classes for attribute in net.attributes.values()]
    digest.update(repr((net.describe(), prompts, classes)).encode())
    for name, value in net.state_dict().items():
        digest.update(name.encode())
        digest.update(value.cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def load_teacher(path, attributes, clip_model, prompts, seed):
    """(The network of --teacher, frozen; its meta).

    Args: `path` of a checkpoint, relative to model/ or else from here, or zero-shot; `attributes` of the student; `clip_model`,
        `prompts` for FashionCLIP and published teachers; `seed` of a random CLIP, the same one when a run is resumed.
    Raises: UserError if it does not exist, or has none of the attributes.
    """
    if path == ZERO_SHOT:
        prior = {key: [0.0] * size for key, size in attributes.sizes.items()}  # it has seen no labels
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            net = FashionCLIP(attributes, clip_model)
        return net.requires_grad_(False).eval(), {"prior": prior}
    local = os.path.join(MODEL_ROOT, path)
    if not (os.path.exists(local) or os.path.exists(path) or is_hub_id(path)):
        raise UserError(f"--teacher {path}: neither {local} nor {path} is there; {_existing_checkpoints()}")
    found = find_checkpoint(local if os.path.exists(local) else path)
    return load_network(found, clip_model, prompts)


def _existing_checkpoints():
    lists = []
    for name in sorted(os.listdir(MODEL_ROOT)) if os.path.isdir(MODEL_ROOT) else []:
        folder = os.path.join(MODEL_ROOT, name)
        epochs = ",".join(map(str, epoch_files(folder)))
        lists += [f"{name}/{BEST}"] if os.path.isfile(os.path.join(folder, BEST)) else []
        lists += [f"{name}/model_{{{epochs}}}.pt"] if epochs else []
    return f"there are: {'  '.join(lists)}" if lists else f"there is no checkpoint under {MODEL_ROOT}/ yet"


def find_teacher(args, net, setup, progress):
    """The Teacher of the options of train.py; None if nothing teaches, or if a resumed run, with its `progress`, has all that it says.

    Args: `net`, the student, with heads for all that a teacher can tell, of a resumed run for what it tells; `setup` as of `AskedTeacher`.
    Raises: UserError if it does not exist, has none of the attributes, or is not the one that the run began with.
    """
    has_all = progress.get("teacher_logits") and args.views == 1 and not args.save_teacher_logits
    if has_all or not args.distils:
        return None
    saved = progress.get("teacher")
    if args.teacher_logits:
        return LogitsFile(args.teacher_logits, net.attributes.sizes, saved)
    how = args.teacher, net.attributes, args.clip_model, args.prompts, args.seed
    load, taught = functools.partial(load_teacher, *how), {key: net.attributes[key] for key in net.taught}
    return AskedTeacher(load, taught, setup, args.cache_dir, saved)


class Targets:
    """A teacher's logits of the view that is trained on, on the device; a run keeps them, and need not ask again when resumed.

    Args: `teacher`, None for a run that has none, or has kept all that it says; `world`, `utils.training.distributed.World`.
    """

    def __init__(self, teacher, world):
        self.teacher, self.world = teacher, world
        self.view, self.logits, self.fingerprint = None, None, None

    def of(self, images, between_steps=None):
        """Dict attribute -> float32 `(N, classes)` of a view of the training images; None without a teacher."""
        if self.teacher and self.view != images.number:
            logits = self.teacher.teach(images, between_steps)
            self.logits = {key: values.to(self.world.device) for key, values in logits.items()}
            self.view, self.fingerprint = images.number, self.teacher.fingerprint()
        return self.logits

    def state_dict(self):
        return {"teacher_logits": self.logits, "view": self.view, "teacher": self.fingerprint}

    def load_state_dict(self, saved):
        logits = saved["teacher_logits"]
        self.logits = logits and {key: values.to(self.world.device) for key, values in logits.items()}
        self.view, self.fingerprint = saved.get("view", 0 if logits else None), saved.get("teacher")


# --- files of logits ---------------------------------------------------------------------------------


def save_logits(path, names, logits, prior=None, views=None):
    """Write the file that `LogitsFile` reads. Args: `logits`, with `views` (a key of `Views`) `(K, N, classes)`."""
    arrays = {PREFIX + key: values.cpu().numpy() for key, values in logits.items()}
    arrays.update({PRIOR + key: np.array(values) for key, values in (prior or {}).items()})
    if views:
        arrays["views"] = json.dumps(views)
    with atomic(path, binary=True) as file:
        np.savez(file, **{MARK.decode(): 0, "image_name": np.array(names), **arrays})
    logger.info(f"teacher's logits: written to {path}")


def said_of_views(teacher, images, views):
    """What `save_logits` keeps of all views of the training images. A file says no prior that cannot be taken off."""
    each, prior = [teacher.logits(views.view(images, n)) for n in range(views.count)], teacher.prior
    stacked = {key: torch.stack([one[key] for one in each]) for key in each[0]}
    several = views.count > 1
    logits, key = (stacked, views.key) if several else (each[0], None)
    return logits, None if teacher.smoothed else prior, key
