"""The student, and the only way from a file to a network."""

import copy
import os

import torch
from timm.utils.model import reparameterize_model
from torch import nn

from clip_model import FashionCLIP
from tiny_vit import timm_names
from utils.base.errors import UserError
from utils.base.log import logger
from utils.data.attributes import attributes_of, named, places, read_attributes, unknown_classes
from utils.layers import Normalize
from utils.nets.backbones import build_backbone, fitting, timm_name
from utils.nets.checkpoint import is_finite, load_state, read_checkpoint
from utils.nets.hub import CLIP_MODEL, STUDENT, find_checkpoint

SPLIT = ("val", "test", "fold", "group")  # keys of the attributes that say which photos are held out


class Student(nn.Module):
    """A backbone with linear heads (TinyViT-5M with distillation heads for the competition: 5,080,752 parameters, 20 MB).

    Args:
        attributes: `utils.data.attributes.Attributes`.
        distillation: whether each attribute has a second head that learns from the teacher
            (DeiT, arXiv:2012.12877, section 4), unless `keep_heads` leaves it out.
        weights, backbone: see `utils.nets.backbones.build_backbone`.
    """

    role = "student"

    def __init__(self, attributes, distillation=True, weights=None, backbone=STUDENT):
        super().__init__()
        self.attributes = attributes
        self.backbone, self.width, config = build_backbone(backbone, weights)
        self.backbone_name = ".".join(filter(None, (config["architecture"], config.get("tag"))))  # timm's
        self.title = f"{self.backbone_name}, {self.width} features"
        self.normalize = Normalize(config["mean"], config["std"])
        self.class_heads = self._heads()  # by number: a ModuleDict does not take every name
        heads = enumerate(self._heads() if distillation else ())
        self.distillation_heads = nn.ModuleDict((str(number), head) for number, head in heads)
        # Of the class head in what is said of an attribute: less if only one of the two has learned something.
        self.class_share = dict.fromkeys(attributes, 0.5 if distillation else 1.0)

    @property
    def taught(self):
        """The attributes that have a distillation head."""
        return [key for number, key in enumerate(self.attributes) if str(number) in self.distillation_heads]

    def keep_heads(self, taught):
        """Leave out the distillation heads of other attributes than these, of which a teacher tells nothing."""
        for number, key in enumerate(self.attributes):
            if str(number) in self.distillation_heads and key not in taught:
                del self.distillation_heads[str(number)]  # the others keep their numbers

    def weigh_heads(self, shares):
        """Set `class_share`. Args: attribute -> 0, 0.5 or 1, see `utils.losses.class_shares`."""
        self.class_share = {key: shares[key] for key in self.attributes}  # `folded` goes by their order

    def _second_heads(self):
        """Attribute -> distillation head, of those that have one."""
        return dict(zip(self.taught, self.distillation_heads.values()))

    def all_heads(self):
        """(Attribute, head) of each head."""
        return [*zip(self.attributes, self.class_heads), *self._second_heads().items()]

    def _heads(self):
        return nn.ModuleList(nn.Linear(self.width, classes) for classes in self.attributes.sizes.values())

    def forward(self, pixels):
        """Letterboxed RGB pixels, uint8 `(B, 3, 224, 224)` -> dict attribute -> float32 logits `(B, classes)`.

        With distillation heads: in training a pair of such dicts, (class logits, distillation logits), the second of the
        attributes that have such a head; in evaluation their average, by `class_share`.
        """
        features = self.features(pixels)
        with torch.autocast(features.device.type, enabled=False):
            class_logits = {key: head(features) for key, head in zip(self.attributes, self.class_heads)}
            if not self.taught:
                return class_logits
            distillation_logits = {key: head(features) for key, head in self._second_heads().items()}
        if self.training:
            return class_logits, distillation_logits
        said = dict(class_logits)
        for key, logits in distillation_logits.items():
            share = self.class_share[key]
            said[key] = share * class_logits[key] + (1 - share) * logits
        return said

    def features(self, pixels):
        """What the heads see of the same pixels, float32 `(B, width)`."""
        return self.backbone(self.normalize(pixels)).float()

    def inference(self):
        """A function of pixels for many batches with unchanged weights (the student has nothing to prepare)."""
        return self

    def describe(self):
        """Plain values from which the network can be built again (see `from_meta`)."""
        about = {"role": self.role, "distillation": bool(self.taught), "backbone": self.backbone_name}
        # What is usual is not said, as in files of earlier versions: a half, and all.
        if self.taught and {*self.class_share.values()} != {0.5}:
            about["class_share"] = self.class_share
        if self.taught and len(self.taught) < len(self.attributes):
            about["taught"] = self.taught
        return about

    @classmethod
    def from_meta(cls, meta, attributes, source="checkpoint"):
        """The network of a checkpoint, without its weights; earlier versions did not name the backbone."""
        try:
            net = cls(attributes, bool(meta.get("distillation")), backbone=str(meta.get("backbone", STUDENT)))
        except UserError as error:
            raise UserError(f"{source}: {error}") from error
        said, taught = meta.get("class_share"), meta.get("taught")
        if isinstance(taught, list):
            net.keep_heads(taught)
        if net.taught and "class_share" in meta:
            shares = [said.get(key) for key in attributes] if isinstance(said, dict) else [None]
            if not all(isinstance(share, (int, float)) and share in (0, 0.5, 1) for share in shares):
                raise UserError(f"{source}: its meta do not say which heads have learned")
            net.weigh_heads(said)
        return net.folded() if meta.get("folded") else net

    def folded(self):
        """The same function without batch norms and with one head per attribute, in evaluation mode, on the CPU.

        Each batch norm goes into the convolution before it. The average of a class head and a distillation
        head, both linear in the same features, is one head with the average weights and biases. The logits
        differ by rounding only (about 1e-5).
        """
        net = copy.deepcopy(self).eval()
        net.backbone = reparameterize_model(net.backbone, inplace=True)
        net.fold_heads()
        return net.requires_grad_(False)

    @torch.no_grad()
    def fold_heads(self):
        """Make one head of an attribute's two, which says what both say together; in place."""
        heads = dict(zip(self.attributes, self.class_heads))
        for key, second in self._second_heads().items():
            share = self.class_share[key]
            for own, other in zip(heads[key].parameters(), second.parameters()):
                own.copy_(share * own + (1 - share) * other)
        self.class_share = dict.fromkeys(self.attributes, 1.0)
        self.distillation_heads = nn.ModuleDict()

    @torch.no_grad()
    def begin_from(self, old):
        """Take over what another student with this backbone has learned; its two heads become one.

        A class that it knows, by `plain_name`, begins with its row in each head, so that the answers are the old ones. Another class
        of such an attribute begins with the mean of those rows and a fresh layer's: its logit is about the mean of theirs, by
        which it wins on no photo, and is not out of reach.
        """
        self.backbone.load_state_dict(old.backbone.state_dict())
        old.fold_heads()
        before = dict(zip(old.attributes, old.class_heads))
        for key, head in self.all_heads():
            found = places(self.attributes[key].classes, old.attributes[key].classes if key in before else ())
            kept = {number: place for number, place in enumerate(found) if place is not None}
            for own, its in zip(head.parameters(), before[key].parameters() if kept else ()):
                own += its[list(kept.values())].mean(dim=0)
                own[list(kept)] = its[list(kept.values())]

    @torch.no_grad()
    def without_prior(self, prior):
        """Itself, with a log-prior, attribute -> list by class, taken off the logits for good: off the heads' biases."""
        for key, head in self.all_heads():
            head.bias -= head.bias.new_tensor(prior.get(key, 0))
        return self

    def own_names(self, state):
        """A state dict of the first versions or of a published student, under this class's names."""
        heads = {}
        for number, (key, attribute) in enumerate(self.attributes.items()):
            for own, published in (("class_heads", "head"), ("distillation_heads", "dist_head")):
                heads[f"{published}_{attribute.short}"] = f"{own}.{number}"
                if not key.isdigit():  # the first versions had the attribute's name in place of its number
                    heads[f"{own}.{key}"] = f"{own}.{number}"
        renamed = {}
        for name, value in state.items():
            head, _, parameter = name.rpartition(".")
            if head in heads:
                renamed[f"{heads[head]}.{parameter}"] = value
            elif name.startswith("base_model."):
                renamed.update((f"backbone.{n}", v) for n, v in timm_names({name[11:]: value}).items())
            else:
                renamed[name] = value
        return renamed


ROLES = {Student.role: Student, FashionCLIP.role: FashionCLIP}


def build_network(args, attributes, meta=None, path=None):
    """The network that the options of train.py ask for; of a resumed run, with its last.pt's `meta` and `path`, without its weights."""
    if meta:
        with fitting(path):
            return ROLES[meta["role"]].from_meta(meta, attributes)
    if args.kd_learning:
        net, option = _new_student(args, attributes), "--student-weights"
    else:
        net, option = FashionCLIP(attributes, args.clip_model), "--clip-model"
    if not is_finite(net):
        raise UserError(f"weights to begin with that are not finite; name others with {option}")
    return net


def _new_student(args, attributes):
    """A student as training begins. Args: as of `build_network`."""
    weights, old = args.student_weights, None
    if weights not in (None, "none") and os.path.exists(weights):
        path = find_checkpoint(weights)
        state, meta = read_checkpoint(path)
        if meta.get("role") == FashionCLIP.role or any("text_model." in name for name in state):
            raise UserError(f"--student-weights {weights}: a teacher's; one learns from it with --teacher")
        if meta.get("role") == Student.role and not meta.get("folded"):
            old = load_network(path)[0]  # of ours, and no backbone's own weights
    if old is None:
        weights = None if weights == "none" else weights or True
        return Student(attributes, args.distils, weights, args.student)
    if "--student" not in args.given:
        args.student = old.backbone_name  # for the log; what is given stays, for a resume
    elif not f"{old.backbone_name}.".startswith(f"{timm_name(args.student)}."):
        problem = f"--student-weights {weights} is a {old.backbone_name}"
        raise UserError(f"--student {args.student}: {problem}; leave --student out, or name other weights")
    net = Student(attributes, args.distils, backbone=old.backbone_name)
    net.begin_from(old)
    kept = ", ".join(key for key in attributes if key in old.attributes) or "none"
    logger.info(f"the student goes on from {weights} ({old.backbone_name}), also with its heads of {kept}")
    anew, dropped = unknown_classes(attributes, old.attributes), unknown_classes(old.attributes, attributes)
    logger.info(f"classes that begin anew: {named(anew)}; that are dropped: {named(dropped)}")
    if any(attributes.content.get(key) != old.attributes.content.get(key) for key in SPLIT):
        problem = "it may have learned photos that are held out now: its scores are then too good"
        logger.warning(f"warning: {weights} does not say that it was trained on this split: {problem}")
    return net


def load_network(path, clip_model=None, prompts=None):
    """The network of a checkpoint: a student's or a teacher's, ours or a published one.

    Args: for a published teacher, which does not say what it began from: `clip_model`, hub name or local folder,
        None for FashionCLIP; `prompts`, a JSON file of its prompts, None for this project's.
    Returns: (`Student` or `FashionCLIP` in evaluation mode, without gradients, on the CPU; its meta, empty for a
        published one).
    Raises: UserError if the file is no checkpoint, or another network's.
    """
    state, meta = read_checkpoint(path)
    with fitting(path):
        net = _network_of(state, meta, path, clip_model, prompts)
    load_state(net, net.own_names(state), path)
    return net.requires_grad_(False).eval(), meta


def _network_of(state, meta, path, clip_model, prompts):
    """The network that a state dict fits, without its weights. Args: as of `load_network`."""
    source = f"checkpoint {path}"
    if meta.get("role") in list(ROLES):  # a list compares what a dict cannot look up
        return ROLES[meta["role"]].from_meta(meta, attributes_of(meta, source), source)
    # A published student names its heads head_* and dist_head_*.
    heads = [name for name in state if name.startswith(("head_", "dist_head_"))]
    if not meta and heads:
        return Student(read_attributes(), any(name.startswith("dist") for name in heads))
    if not meta and any("text_model." in name for name in state):
        return FashionCLIP(read_attributes(prompts=prompts), clip_model or CLIP_MODEL)
    raise UserError(f"{source}: neither a student's nor a teacher's; it needs one that train.py wrote")
