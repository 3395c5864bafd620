"""How fast both networks train on a GPU, how long its kernels run meanwhile, and how much of its memory they take."""

import gc
import sys
import tempfile
import time

import torch
from torch.profiler import ProfilerActivity, profile

from benchmarks import works
from utils.base.cli import Parser, exit_code, number
from utils.base.hardware import choose_device, choose_precision, machine
from utils.base.log import logger, start
from utils.data import pixels
from utils.data.attributes import read_attributes
from utils.data.dataset import read_tables
from utils.tools.sample import make_sample

NETWORKS = {"teacher": 64, "student": 128}  # photos a step, the recipes'
WHERE = {"on the GPU": pixels.RESIDENT_SHARE, "gathered": 0}  # the photos
OTHERS = "Memcpy", "Memset", "Optimizer.", "ProfilerStep"  # on a GPU, that are no kernels
HEADER = """\
| network | precision | photos     | photos/s | kernels run | GB   |
| ---     | ---       | ---        |      --: |         --: |  --: |"""
ROW = "| {:7} | {:9} | {:10} | {:8.1f} | {:11.0%} | {:4.1f} |"


# fmt: off
def get_args_parser():
    p = Parser(prog="python -m benchmarks.gpu", description=__doc__)
    p.add_argument("--device", choices=("cuda", "cpu"), default="cuda", help="cpu: only whether this program works")
    p.add_argument("--steps", type=number(int, 1), default=8, help="of an epoch", metavar="N")
    p.add_argument("--epochs", type=number(int, 1), default=5, help="that are timed, after two to warm up", metavar="N")
    return p
# fmt: on


def main(argv=None):
    args = get_args_parser().parse_args(argv)
    start()
    device, attributes = choose_device(args.device), read_attributes()
    machine(device, choose_precision("fp32", device))
    logger.info(f"drawn photos; in each of {args.epochs} epochs {args.steps} steps\n{HEADER}")
    with tempfile.TemporaryDirectory() as folder:
        make_sample(folder, train=args.steps * max(NETWORKS.values()), val=1)
        photos = read_tables(folder, attributes, ["train"])["train"]
        for role, size in NETWORKS.items():
            for name in ("fp32", "bf16"):
                how = attributes, size, choose_precision(name, device), role
                job = works.Job(photos, *how, device=device).spread(args.steps * size)
                for where, share in WHERE.items():
                    pixels.RESIDENT_SHARE = share
                    logger.info(ROW.format(role, name, where, *measure(job, args.epochs)))


def measure(job, epochs):
    """Photos a second, the share of this time in which kernels run, and the most memory that was taken, GB."""
    gc.collect()
    if job.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    run = works.project_training(job)
    for _ in range(2):
        run()
    begin = time.perf_counter()
    for _ in range(epochs):
        run()  # its losses are read from the GPU at the end
    seconds = (time.perf_counter() - begin) / epochs
    with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as profiled:
        run()
    busy = sum(event.time_range.elapsed_us() for event in profiled.events() if is_kernel(event)) / 1e6
    memory = torch.cuda.max_memory_allocated() if job.device.type == "cuda" else 0
    return len(job.photos.names) / seconds, busy / seconds, memory / 1e9


def is_kernel(event):
    """Whether the GPU computes: one thing after the other, but for copies, and names of parts of the program."""
    return event.device_type == torch.autograd.DeviceType.CUDA and not event.name.startswith(OTHERS)


if __name__ == "__main__":
    sys.exit(exit_code(main))
