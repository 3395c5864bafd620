"""TinyViT (Wu et al., arXiv:2207.10666): timm's network, and its weights under timm's and the published names."""

import os
import re

import timm
import timm.models.tiny_vit
import torch
from torch import nn

from utils.checkpoint import load_state, read_checkpoint
from utils.errors import UserError, first_line
from utils.hardware import attend


def tiny_vit(variant, weights=None):
    """A TinyViT without a classifier: float `(B, 3, 224, 224)` -> features `(B, width)`.

    Args:
        variant: timm's name: tiny_vit_5m_224 (320 features), tiny_vit_11m_224 (448), tiny_vit_21m_224 (576).
        weights: None for random ones, a hub id ("owner/name"), or a file (.pth, .pt, .bin, .safetensors).
    Raises: UserError if the weights cannot be had or do not fit.
    """
    net = timm.create_model(variant, pretrained=False, num_classes=0, drop_path_rate=0.0)
    # The same weights under the same names, computed faster.
    for module in net.modules():
        if type(module) is timm.models.tiny_vit.Attention:
            module.__class__ = _Attention
        elif type(module) is nn.Conv2d and module.groups > 1 and module.stride != (1, 1):
            module.__class__ = _StridedDepthwise
    if weights is not None:
        path = weights if os.path.isfile(weights) else download(weights)
        state = timm_names(read_checkpoint(path)[0])
        load_state(net, {name: value for name, value in state.items() if not _is_classifier(name)}, path)
    return net


class _Attention(timm.models.tiny_vit.Attention):
    """timm's, computed as all attention here."""

    def forward(self, x):
        """`(B, N, features)` -> the same."""
        batch, count, _ = x.shape  # 1.12 cannot export unflatten
        heads = self.qkv(self.norm(x)).view(batch, count, self.num_heads, -1).transpose(1, 2)
        parts = heads.split([self.key_dim, self.key_dim, self.val_dim], dim=-1)
        attended = attend(*parts, bias=self.get_attention_biases(x.device))
        return self.proj(attended.transpose(1, 2).flatten(2))


class _StridedDepthwise(nn.Conv2d):
    """Computed in float32 on CPUs: in bf16 its backward pass takes ten times as long there (oneDNN 3.12)."""

    def forward(self, x):
        if x.device.type != "cpu":
            return super().forward(x)
        with torch.autocast("cpu", enabled=False):
            return super().forward(x.float()).to(x.dtype)


def _is_classifier(name):
    return name.startswith("head.") and not name.startswith("head.norm.")


def timm_names(state):
    """The state dict of a TinyViT under timm's names; it may have the published ones."""
    return {_timm_name(name): value for name, value in state.items() if "attention_bias_idxs" not in name}


def _timm_name(name):
    name = name.replace("embed.seq.0.", "embed.conv1.").replace("embed.seq.2.", "embed.conv2.")
    name = re.sub(r"^layers\.(\d+)\.blocks\.", r"stages.\1.blocks.", name)
    name = re.sub(r"^layers\.(\d+)\.downsample\.", lambda m: f"stages.{int(m[1]) + 1}.downsample.", name)
    name = re.sub(r"^norm_head\.", "head.norm.", name)
    return name.replace(".c.", ".conv.")


def download(hub_id):
    """Path of a hub model's weights, from the local hub cache or fetched into it."""
    from huggingface_hub import hf_hub_download
    from huggingface_hub.utils import EntryNotFoundError, LocalEntryNotFoundError

    way_out = "give a file with --student-weights FILE, or none for random weights"
    if hub_id.count("/") != 1 or hub_id.endswith((".pth", ".pt", ".bin", ".safetensors")):
        raise UserError(f"student weights {hub_id}: no such file; {way_out}")
    try:
        try:
            return hf_hub_download(hub_id, "model.safetensors")
        except LocalEntryNotFoundError:  # no network: a kind of the next, but no answer about the file
            raise
        except EntryNotFoundError:
            return hf_hub_download(hub_id, "pytorch_model.bin")
    except Exception as error:  # without a network: the hub client's, the HTTP library's or the system's
        problem = f"cannot be fetched from the hub ({first_line(error)})"
        raise UserError(f"student weights {hub_id} {problem}; {way_out}") from error
