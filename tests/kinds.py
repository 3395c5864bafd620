"""Attributes of all kinds, and a student of each with random weights."""

import torch

from networks import Student
from utils.data.attributes import Attributes
from utils.nets.checkpoint import save_checkpoint

# The students that are tried; the larger TinyViTs are tried where they are exported.
BACKBONES = (
    "tiny_vit_5m_224",
    "mobilenetv4_conv_small",
    "tf_efficientnet_lite0",
    "vit_tiny_patch16_224",
    "fastvit_t8",
)

ODD = (
    "type",
    "keys",
    "file",
    "a.b",
    "sleeve type",
    "pixels",
    "grey",
    "__proto__",
    "constructor",
    "0",
    "소매",
)


def _classes(count):
    return {f"class {i}": {} for i in range(count)}


# Name -> content of a file of attributes.
KINDS = {
    "one": {"image": "photo", "exif": True, "attributes": {"sleeve": {"classes": {"short": {}, "long": {}}}}},
    "seven": {
        "attributes": {
            **{f"attribute {i}": {"classes": _classes(2 + i)} for i in range(6)},
            "kind": {
                "names": {"ko": "종류", "de": "Art"},
                "classes": {f"kind {i}": {"names": {"ko": f"종류 {i}", "de": f"Art {i}"}} for i in range(50)},
            },
        }
    },
    "lists": {
        "attributes": {
            "sleeve": {
                "column": "tags",
                "contains": "Long sleeve",
                "separator": "|",
                "classes": {"yes": {"names": {"ko": "긴팔"}}},
            },
            "constructor": {"column": "tags", "contains": "<b>", "separator": "|"},
            "tags cotton": {"column": "tags", "contains": "cotton", "separator": "|", "names": {"ko": "면"}},
        }
    },
    "odd": {"attributes": {name: {"classes": {"__proto__": {}, "<b>": {}, "length": {}}} for name in ODD}},
}
KINDS["seven"]["attributes"]["attribute 0"]["classes"]["class 0"] = {
    "names": {"ko": "첫째"}
}  # the other has none


def save_student(path, kind, backbone="test_efficientnet", **meta):
    """Write a student's checkpoint; returns its attributes."""
    attributes = Attributes(KINDS[kind], kind)
    torch.manual_seed(0)
    net = Student(attributes, backbone=backbone)
    for head in [*net.class_heads, *net.distillation_heads]:
        torch.nn.init.normal_(head.weight, std=head.in_features**-0.5)
    save_checkpoint(path, net, dict(net.describe(), attributes=attributes.to_meta(), **meta))
    return attributes
