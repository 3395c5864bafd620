"""Where a run computes, in which precision, and how it computes the same again."""

import ctypes
import os
import platform
import sys
import time
from typing import NamedTuple

import torch

from utils.base.errors import UserError, counted
from utils.base.log import logger

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
        ctypes.CDLL(None).mallopt(-4, 0)  # malloc.h's M_MMAP_MAX
        ctypes.CDLL(None).mallopt(-1, -1)  # M_TRIM_THRESHOLD: never


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


def choose_device(name, tf32=True):
    """torch.device for auto, cpu or cuda; there, float32 is TF32 where it is asked for, or else as on a CPU."""
    if name not in ("auto", "cpu", "cuda"):
        raise UserError(f"--device {name}: not known; there are auto, cpu, cuda")
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda":
        if not torch.cuda.is_available():
            raise UserError("--device cuda: PyTorch finds no CUDA device here; use --device cpu or auto")
        torch.set_float32_matmul_precision("high" if tf32 else "highest")
        torch.backends.cudnn.allow_tf32 = tf32
        # Kernels of attention, not all of whose gradients are reproducible; PyTorch 1.12 has none of them.
        for switch in ("enable_flash_sdp", "enable_mem_efficient_sdp", "enable_cudnn_sdp"):
            if hasattr(torch.backends.cuda, switch):
                getattr(torch.backends.cuda, switch)(False)
    return torch.device(name)


def choose_precision(name, device):
    """Precision for auto, fp32 or bf16. Processor flags do not tell whether bf16 pays, so auto measures on CPUs. GPUs spend more
    time on launching kernels than in them, and a product's time says little: 1.01 x and 1.78 x on two days of an H200."""
    if name == "bf16" and TORCH < (2, 0):
        raise UserError("--precision bf16 needs PyTorch 2: before, not all layers can be trained in it")
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
    """Time of the float32 matrix product `(256, 768)` times `(768, 768)` over that of the same in bf16. In turns, the best
    of as many as fit into 0.3 s, and of two at least: the first may prepare something, and in bf16 take a second on some
    CPUs."""
    ones = torch.ones(256, 768, device=device), torch.ones(768, 768, device=device)
    operands = {dtype: [one.to(dtype) for one in ones] for dtype in (torch.float32, torch.bfloat16)}
    seconds, begin = {dtype: [] for dtype in operands}, time.perf_counter()
    while len(seconds[torch.bfloat16]) < 2 or time.perf_counter() - begin < 0.3:
        for dtype, (left, right) in operands.items():
            start = time.perf_counter()
            (left @ right).sum().item()  # waits for the device
            seconds[dtype].append(time.perf_counter() - start)
    return min(seconds[torch.float32]) / min(seconds[torch.bfloat16])


def machine(device, precision, size=1):
    """Log what computes: the installed packages that are imported by now, device, threads, precision; `size` is the number of processes."""
    processes = f"{size} processes, each with " if size > 1 else ""
    computes = torch.cuda.get_device_name(device) if device.type == "cuda" else f"cpu, {platform.machine()}"
    threads = counted(torch.get_num_threads(), "thread", "threads")
    packages = [f"python {platform.python_version()}"]
    for name, module in sorted(sys.modules.items()):
        about = vars(module)
        if "." not in name and "-packages" in (about.get("__file__") or "") and "__version__" in about:
            packages.append(f"{name} {about['__version__']}")
    logger.debug("  ".join(packages))
    logger.info(f"device: {processes}{computes}, {threads}, {precision.name}")
    logger.debug(f"precision: {precision.name} ({precision.reason})")
