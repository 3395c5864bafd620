"""Attributes of all kinds, a student of each with random weights, and a small teacher as the hub has one."""

import json

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
    for head in [*net.class_heads, *net.distillation_heads.values()]:
        torch.nn.init.normal_(head.weight, std=head.in_features**-0.5)
    save_checkpoint(path, net, dict(net.describe(), attributes=attributes.to_meta(), **meta))
    return attributes


def write_vocabulary(folder):
    """CLIP's vocabulary in small: every byte, also at the end of a word, and two merges. Returns its size."""
    from tokenizers.pre_tokenizers import ByteLevel

    letters = sorted(ByteLevel.alphabet())
    merges = [("t", "h"), ("th", "e</w>")]
    start, end = "<|startoftext|>", "<|endoftext|>"
    tokens = [*letters, *(f"{letter}</w>" for letter in letters), *map("".join, merges), start, end]
    special = {"bos_token": start, "eos_token": end, "unk_token": end, "pad_token": end}
    config = {**special, "model_max_length": 128, "do_lower_case": True, "tokenizer_class": "CLIPTokenizer"}
    (folder / "vocab.json").write_text(json.dumps({token: number for number, token in enumerate(tokens)}))
    (folder / "merges.txt").write_text("#version: 0.2\n" + "".join(f"{a} {b}\n" for a, b in merges))
    (folder / "special_tokens_map.json").write_text(json.dumps(special))
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return len(tokens)


def write_teacher(folder, side=224):
    """A small FashionCLIP, in the files of the published one."""
    from safetensors.torch import save_file
    from transformers import CLIPConfig, CLIPModel

    tokens = write_vocabulary(folder)
    layers = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4}
    config = CLIPConfig(
        text_config={
            **layers,
            "vocab_size": tokens,
            "max_position_embeddings": 128,  # so few merges make long sentences
            "bos_token_id": tokens - 2,
            "eos_token_id": tokens - 1,
        },
        vision_config={**layers, "image_size": side, "patch_size": 32},
        projection_dim=48,
    )
    config.architectures = ["CLIPModel"]
    config.save_pretrained(folder)
    state = CLIPModel(config).state_dict()
    # The published file has the two that today's transformers has no place for.
    state["text_model.embeddings.position_ids"] = torch.arange(128)[None]
    state["vision_model.embeddings.position_ids"] = torch.arange((side // 32) ** 2 + 1)[None]
    save_file(state, str(folder / "model.safetensors"), metadata={"format": "pt"})
