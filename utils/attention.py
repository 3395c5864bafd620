"""Attention of both networks."""

import torch
import torch.nn.functional as F


def attend(queries, keys, values, bias=None, causal=False):
    """softmax(queries keys^T / sqrt(d) + bias) values, heads apart.

    Computed in float32 on CPUs, whatever autocast says: there bf16 is slower, since the products are small.

    Args:
        queries, keys, values: `(B, heads, N, d)`; values may have another d, and queries another N.
        bias: float32 `(heads, N, N)`, trained with the rest, or None.
        causal: each row looks at none after it.
    Returns: `(B, heads, N, d)`.
    """
    if queries.device.type != "cpu":
        return _attend(queries, keys, values, bias, causal)
    with torch.autocast("cpu", enabled=False):
        return _attend(queries.float(), keys.float(), values.float(), bias, causal)


def _attend(queries, keys, values, bias, causal):
    # PyTorch 1.12 does not have the fused one, and the fused one does not train a bias.
    if bias is None and hasattr(F, "scaled_dot_product_attention"):
        return F.scaled_dot_product_attention(queries, keys, values, is_causal=causal)
    scores = queries @ keys.transpose(-2, -1) * queries.shape[-1] ** -0.5
    if causal:
        rows, columns = scores.shape[-2:]
        future = torch.ones(rows, columns, dtype=torch.bool, device=scores.device).triu(1)
        scores = scores.masked_fill(future, float("-inf"))
    if bias is not None:
        scores = scores + bias
    return scores.softmax(dim=-1) @ values
