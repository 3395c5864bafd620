"""The student, and the only way from a file to a network."""

import copy

import torch
from timm.utils.model import reparameterize_model
from torch import nn

from clip_model import FashionCLIP
from tiny_vit import timm_names
from utils.base.errors import UserError
from utils.data.attributes import attributes_of, read_attributes
from utils.layers import Normalize
from utils.nets.backbones import build_backbone, fitting, full_name
from utils.nets.checkpoint import is_finite, load_state, read_checkpoint
from utils.nets.hub import CLIP_MODEL, STUDENT


class Student(nn.Module):
    """A backbone with linear heads (TinyViT-5M with distillation heads for the competition: 5,080,752 parameters, 20 MB).

    Args:
        attributes: `utils.data.attributes.Attributes`.
        distillation: whether each attribute has a second head that learns from the teacher
            (DeiT, arXiv:2012.12877, section 4).
        weights, backbone: see `utils.nets.backbones.build_backbone`.
    """

    role = "student"

    def __init__(self, attributes, distillation=True, weights=None, backbone=STUDENT):
        super().__init__()
        self.attributes = attributes
        self.distillation = distillation
        self.backbone, self.width, config = build_backbone(backbone, weights)
        self.backbone_name = full_name(config)
        self.title = f"{self.backbone_name}, {self.width} features"
        self.normalize = Normalize(config["mean"], config["std"])
        self.class_heads = self._heads()  # by number: a ModuleDict does not take every name
        if distillation:
            self.distillation_heads = self._heads()
        # Of the class head in what is said of an attribute: less if only one of the two has learned something.
        self.class_share = dict.fromkeys(attributes, 0.5 if distillation else 1.0)

    def weigh_heads(self, shares):
        """Set `class_share`. Args: attribute -> 0, 0.5 or 1, see `utils.losses.class_shares`."""
        self.class_share = {key: shares[key] for key in self.attributes}  # `folded` goes by their order

    def _heads(self):
        return nn.ModuleList(nn.Linear(self.width, classes) for classes in self.attributes.sizes.values())

    def forward(self, pixels):
        """Letterboxed RGB pixels, uint8 `(B, 3, 224, 224)` -> dict attribute -> float32 logits `(B, classes)`.

        With distillation heads: in training a pair of such dicts, (class logits, distillation logits);
        in evaluation their average, by `class_share`.
        """
        features = self.backbone(self.normalize(pixels))
        with torch.autocast(features.device.type, enabled=False):
            features = features.float()
            class_logits = self._logits(self.class_heads, features)
            if not self.distillation:
                return class_logits
            distillation_logits = self._logits(self.distillation_heads, features)
        if self.training:
            return class_logits, distillation_logits
        said = {}
        for key, share in self.class_share.items():
            said[key] = share * class_logits[key] + (1 - share) * distillation_logits[key]
        return said

    def _logits(self, heads, features):
        return {key: head(features) for key, head in zip(self.attributes, heads)}

    def inference(self):
        """A function of pixels for many batches with unchanged weights (the student has nothing to prepare)."""
        return self

    def describe(self):
        """Plain values from which the network can be built again (see `from_meta`)."""
        about = {"role": self.role, "distillation": self.distillation, "backbone": self.backbone_name}
        # Where it is a half, it is not said, as in files of earlier versions.
        is_usual = not self.distillation or {*self.class_share.values()} == {0.5}
        return about if is_usual else {**about, "class_share": self.class_share}

    @classmethod
    def from_meta(cls, meta, attributes, source="checkpoint"):
        """The network of a checkpoint, without its weights; earlier versions did not name the backbone."""
        try:
            net = cls(attributes, bool(meta.get("distillation")), backbone=str(meta.get("backbone", STUDENT)))
        except UserError as error:
            raise UserError(f"{source}: {error}") from error
        if net.distillation and "class_share" in meta:
            said = meta["class_share"]
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
        if net.distillation:
            for share, *heads in zip(net.class_share.values(), net.class_heads, net.distillation_heads):
                with torch.no_grad():
                    for own, other in zip(*(head.parameters() for head in heads)):
                        own.copy_(share * own + (1 - share) * other)
            net.class_share = dict.fromkeys(net.attributes, 1.0)
            del net.distillation_heads
            net.distillation = False
        return net.requires_grad_(False)

    def subtract_prior(self, prior):
        """Take a log-prior, attribute -> list by class, off the logits for good: off the heads' biases."""
        heads = [self.class_heads, self.distillation_heads] if self.distillation else [self.class_heads]
        with torch.no_grad():
            for key, *both in zip(self.attributes, *heads):
                for head in both:
                    head.bias -= head.bias.new_tensor(prior[key])

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
        weights = None if args.student_weights == "none" else args.student_weights or True
        net, option = Student(attributes, args.distils, weights, args.student), "--student-weights"
    else:
        net, option = FashionCLIP(attributes, args.clip_model), "--clip-model"
    if not is_finite(net):
        raise UserError(f"weights to begin with that are not finite; name others with {option}")
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
