"""Learning rate: linear warm-up, half a cosine down, and again, with a lower peak each time."""

import math

from torch.optim.lr_scheduler import _LRScheduler  # the one name that torch 1.12 has, too


def learning_rate(epoch, base, eta_max, T_0, T_mult=1, T_up=0, gamma=1.0):
    """Learning rate of an epoch (counted from 0).

    A cycle starts at `base`, rises linearly to the peak over `T_up` epochs, and falls along half a
    cosine back to `base` at its end. Cycle 0 lasts `T_0` epochs; the falling part of each cycle is `T_mult`
    times as long as the one before. Cycle n peaks at `eta_max * gamma**n`. Loshchilov and Hutter, "SGDR" (arXiv:1608.03983), section 3, with a warm-up.
    """
    cycle, length = 0, T_0
    while epoch >= length:
        epoch -= length
        cycle += 1
        length = (length - T_up) * T_mult + T_up
    peak = eta_max * gamma**cycle
    if epoch < T_up:
        return base + (peak - base) * epoch / T_up
    return base + (peak - base) * (1 + math.cos(math.pi * (epoch - T_up) / (length - T_up))) / 2


class CosineAnnealingWarmUpRestarts(_LRScheduler):
    """`learning_rate` as a PyTorch scheduler, stepped once an epoch; or once a step, and then its epochs are steps.

    Args:
        optimizer: its own lr is where each cycle starts and ends.
        T_0: epochs of the first cycle, warm-up included.
        T_mult: the falling part of a cycle is this many times as long as the one before.
        eta_max: peak of the first cycle.
        T_up: epochs of warm-up, below `T_0`.
        gamma: each peak is this many times the one before.
    """

    def __init__(self, optimizer, T_0, T_mult=1, eta_max=0.1, T_up=0, gamma=1.0):
        self.cycle = dict(eta_max=eta_max, T_0=T_0, T_mult=T_mult, T_up=T_up, gamma=gamma)
        super().__init__(optimizer)

    def get_lr(self):
        return [learning_rate(self.last_epoch, base, **self.cycle) for base in self.base_lrs]
