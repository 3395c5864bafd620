"""Where a run computes, in which precision, and how it computes the same again; attention and other layers of all networks."""

import ctypes
import functools
import os
import platform
import time
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import nn

from utils.errors import UserError

WORTHWHILE = 1.3  # bf16 must be at least this many times as fast as float32 to be chosen
TORCH = tuple(int(part) for part in torch.__version__.split(".")[:2])


class Precision(NamedTuple):
    """Precision of the networks' forward passes; weights, losses and logits stay float32."""

    name: str  # "fp32" or "bf16"
    reason: str

    def autocast(self, device):
        return torch.autocast(device.type, dtype=torch.bfloat16, enabled=self.name == "bf16")


def keep_freed_memory():
    """Let glibc keep freed memory for the next tensor instead of handing it back to the system.

    By default every tensor of 32 MB and more is mapped anew, and each of its pages is faulted in and zeroed,
    in every step again: a quarter to two fifths of the student's time on a CPU. Elsewhere than on glibc nothing happens.
    """
    if platform.libc_ver()[0] == "glibc":
        mallopt, (mmap_max, trim_threshold) = ctypes.CDLL(None).mallopt, (-4, -1)  # of malloc.h
        mallopt(mmap_max, 0)
        mallopt(trim_threshold, -1)  # never


def make_reproducible(seed):
    """Same seed, machine, stack and precision: same numbers. To be called before anything is computed on a GPU."""
    torch.manual_seed(seed)
    # Without it, even CPUs add the gradients of TinyViT's attention biases in whatever order threads come.
    torch.use_deterministic_algorithms(True, warn_only=True)
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # what cuBLAS asks for to be deterministic
    torch.backends.cudnn.benchmark = False
    # Otherwise each new tensor would be filled first, for code that reads it too early.
    if hasattr(torch.utils, "deterministic"):
        torch.utils.deterministic.fill_uninitialized_memory = False


def choose_device(name):
    """torch.device for auto, cpu or cuda."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda" and not torch.cuda.is_available():
        raise UserError("--device cuda: PyTorch finds no CUDA device here; use --device cpu or auto")
    if name == "cuda":
        torch.set_float32_matmul_precision("high")  # TF32, where float32 is asked for
        # Kernels of attention, not all of whose gradients are reproducible; PyTorch 1.12 has none of them.
        for switch in ("enable_flash_sdp", "enable_mem_efficient_sdp", "enable_cudnn_sdp"):
            if hasattr(torch.backends.cuda, switch):
                getattr(torch.backends.cuda, switch)(False)
    return torch.device(name)


def choose_precision(name, device):
    """Precision for auto, fp32 or bf16. Processor flags do not tell whether bf16 pays, so auto measures on CPUs. GPUs spend more
    time on launching kernels than in them, and a product's time says little: 1.01 x and 1.78 x on two days of an H200."""
    if name == "bf16" and TORCH < (2, 0):
        raise UserError(
            "--precision bf16 needs PyTorch 2 or newer: before, not all layers can be trained in it"
        )
    if name != "auto":
        return Precision(name, "as asked for")
    if device.type == "cuda":
        return Precision("fp32", "TF32 where the GPU has it; bf16 saved a student 4 % of the time on an H200")
    if TORCH < (2, 0):
        return Precision("fp32", f"bf16 needs PyTorch 2, this is {torch.__version__}")
    speedup = bf16_speedup(device)
    reason = f"a bf16 matrix product ran at {speedup:.2f} x float32's speed, {WORTHWHILE} x is asked for"
    return Precision("bf16" if speedup >= WORTHWHILE else "fp32", reason)


def bf16_speedup(device):
    """Time of a float32 matrix product over that of the same in bf16."""
    seconds = product_seconds(device, 256, 768)
    return seconds[torch.float32] / seconds[torch.bfloat16]


def product_seconds(device, rows, size):
    """Dtype -> seconds of the product `(rows, size)` times `(size, size)`; float32 and bf16 in turns, the best of as many
    as fit into 0.3 s, and of two at least: the first may prepare something, and in bf16 take a second on some CPUs."""
    left, right = torch.ones(rows, size, device=device), torch.ones(size, size, device=device)
    best = {torch.float32: float("inf"), torch.bfloat16: float("inf")}
    operands = {dtype: (left.to(dtype), right.to(dtype)) for dtype in best}
    begin, turns = time.perf_counter(), 0
    while turns < 2 or time.perf_counter() - begin < 0.3:
        turns += 1
        for dtype, (a, b) in operands.items():
            start = time.perf_counter()
            (a @ b).sum().item()  # waits for the device
            best[dtype] = min(best[dtype], time.perf_counter() - start)
    return best


def keep_norms_float(net):
    """Have a network's layer norms computed in float32, as autocast has it on GPUs. In bf16 a CPU adds up the gradients of
    weight and bias in bf16, too, over all rows: those of 50,000 rows were 16 % and 66 % wrong (PyTorch 2.14)."""
    for module in net.modules():
        if isinstance(module, nn.LayerNorm):
            module.register_forward_pre_hook(_to_float)


def _to_float(module, inputs):
    return (inputs[0].float(),)


def keep_convolutions_float(net):
    """On CPUs, have two kinds of convolutions computed in float32: depthwise ones, whose backward pass can take ten times as
    long in bf16 (oneDNN 3.12); and those of 3 x 3 and few channels that halve the picture, as at a network's beginning: in
    bf16 they save no time, and make a fifth of the error in TinyViT's gradients."""
    for module in net.modules():
        if isinstance(module, nn.Conv2d):
            is_depthwise = 1 < module.groups == module.in_channels
            halves = module.stride == (2, 2) and module.kernel_size == (3, 3) and module.in_channels <= 48
            if is_depthwise or halves:
                module.__class__ = _float_kind(type(module))


@functools.lru_cache(maxsize=None)
def _float_kind(kind):
    """The class of convolutions of a `kind` that are computed in float32 on CPUs."""

    class InFloat32(kind):
        def forward(self, x):
            if x.device.type != "cpu":
                return super().forward(x)
            with torch.autocast("cpu", enabled=False):
                if x.dtype == torch.float32:  # an exported graph would hold the casts
                    return super().forward(x)
                return super().forward(x.float()).to(x.dtype)

    return InFloat32


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
