"""The student: a TinyViT backbone, and per attribute a class head and a distillation head."""

import torch
from torch import nn

from tiny_vit import timm_names, tiny_vit_5m_224
from utils.attributes import ATTRIBUTES
from utils.pixels import Normalize

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


class Student(nn.Module):
    """TinyViT-5M with linear heads (5,080,752 parameters with distillation heads, 20 MB).

    Args:
        distillation: whether each attribute has a second head that learns from the teacher
            (DeiT, arXiv:2012.12877, section 4).
        weights: of the backbone, see `tiny_vit.tiny_vit_5m_224`.
    """

    role = "student"

    def __init__(self, distillation=True, weights=None):
        super().__init__()
        self.distillation = distillation
        self.normalize = Normalize(IMAGENET_MEAN, IMAGENET_STD)
        self.backbone = tiny_vit_5m_224(weights)
        self.class_heads = self._heads()
        if distillation:
            self.distillation_heads = self._heads()

    def _heads(self):
        features = self.backbone.num_features
        return nn.ModuleDict({k: nn.Linear(features, len(a.classes)) for k, a in ATTRIBUTES.items()})

    def forward(self, pixels):
        """Letterboxed RGB pixels, uint8 `(B, 3, 224, 224)` -> dict attribute -> float32 logits `(B, classes)`.

        With distillation heads: in training a pair of such dicts, (class logits, distillation logits);
        in evaluation their average.
        """
        features = self.backbone(self.normalize(pixels))
        with torch.autocast(features.device.type, enabled=False):
            features = features.float()
            class_logits = {key: head(features) for key, head in self.class_heads.items()}
            if not self.distillation:
                return class_logits
            distillation_logits = {key: head(features) for key, head in self.distillation_heads.items()}
        if self.training:
            return class_logits, distillation_logits
        return {key: (class_logits[key] + distillation_logits[key]) / 2 for key in class_logits}

    def inference(self):
        """A function of pixels for many batches with unchanged weights (the student has nothing to prepare)."""
        return self

    def describe(self):
        """Plain values from which the network can be built again (see `from_meta`)."""
        return {"distillation": self.distillation}

    @classmethod
    def from_meta(cls, meta):
        return cls(distillation=bool(meta.get("distillation")))

    @staticmethod
    def own_names(state):
        """A published student's state dict under this class's names; one of this class as it is."""
        if not any(name.startswith("base_model.") for name in state):
            return state
        heads = {}
        for key, attribute in ATTRIBUTES.items():
            heads[f"head_{attribute.short}."] = f"class_heads.{key}."
            heads[f"dist_head_{attribute.short}."] = f"distillation_heads.{key}."
        backbone, own = {}, {}
        for name, value in state.items():
            prefix = next((p for p in heads if name.startswith(p)), None)
            if prefix:
                own[heads[prefix] + name[len(prefix) :]] = value
            elif name.startswith("base_model."):
                backbone[name[len("base_model.") :]] = value
            else:
                own[name] = value
        own.update({f"backbone.{name}": value for name, value in timm_names(backbone).items()})
        return own
