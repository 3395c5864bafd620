"""TinyViT (Wu et al., arXiv:2207.10666): timm's network computed faster, and the published names of its weights."""

import re

import timm
import timm.models.tiny_vit

from utils.layers import attend


def tiny_vit(name):
    """A TinyViT of timm with random weights and without a classifier: float `(B, 3, 224, 224)` -> features `(B, width)`.

    Args: `name`, timm's: tiny_vit_5m_224 (320 features), tiny_vit_11m_224 (448), tiny_vit_21m_224 (576).
    """
    net = timm.create_model(name, pretrained=False, num_classes=0, drop_path_rate=0.0)
    # The same weights under the same names, computed faster.
    for module in net.modules():
        if type(module) is timm.models.tiny_vit.Attention:
            module.__class__ = _Attention
    return net


class _Attention(timm.models.tiny_vit.Attention):
    """timm's, computed as all attention here."""

    def forward(self, x):
        """`(B, N, features)` -> the same."""
        count = int(x.shape[1])  # a constant of an exported graph, which would compute it otherwise
        width = 2 * self.key_dim + self.val_dim
        heads = self.qkv(self.norm(x)).view(-1, count, self.num_heads, width).transpose(1, 2)
        parts = heads.split([self.key_dim, self.key_dim, self.val_dim], dim=-1)
        attended = attend(*parts, bias=self.get_attention_biases(x.device))
        return self.proj(attended.transpose(1, 2).reshape(-1, count, self.out_dim))


def timm_names(state):
    """The state dict of a TinyViT under timm's names; it may have the published ones."""
    return {_timm_name(name): value for name, value in state.items() if "attention_bias_idxs" not in name}


def _timm_name(name):
    name = name.replace("embed.seq.0.", "embed.conv1.").replace("embed.seq.2.", "embed.conv2.")
    name = re.sub(r"^layers\.(\d+)\.blocks\.", r"stages.\1.blocks.", name)
    name = re.sub(r"^layers\.(\d+)\.downsample\.", lambda m: f"stages.{int(m[1]) + 1}.downsample.", name)
    name = re.sub(r"^norm_head\.", "head.norm.", name)
    return re.sub(r"^head\.(weight|bias)$", r"head.fc.\1", name).replace(".c.", ".conv.")
