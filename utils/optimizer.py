"""Optimizer and learning-rate schedule, from the options."""

import torch

from utils.hardware import TORCH
from utils.scheduler import CosineAnnealingWarmUpRestarts

# The recipe's betas come with the optimizer; None leaves PyTorch's own.
OPTIMIZERS = {"Adam": (torch.optim.Adam, (0.9, 0.98)), "AdamW": (torch.optim.AdamW, None)}


def build_optimizer(net, args):
    """Adam or AdamW. With a scheduler its own learning rate is --min-lr, where each cycle starts."""
    kind, betas = OPTIMIZERS[args.optimizer]
    settings = {"lr": args.min_lr if args.scheduler else args.lr, "weight_decay": args.weight_decay}
    if TORCH >= (2, 4):  # the first that has it on CPUs, too: one pass over the weights instead of ten
        settings["fused"] = True
    if betas:
        settings["betas"] = betas
    return kind(net.parameters(), **settings)


def build_scheduler(optimizer, args):
    """The schedule of --scheduler True, or None."""
    if not args.scheduler:
        return None
    return CosineAnnealingWarmUpRestarts(
        optimizer, T_0=args.decay_epoch, eta_max=args.lr, T_up=args.warmup_epoch, gamma=args.cos_gamma
    )
