"""Learning rate: linear warm-up, half a cosine down, and again, with a lower peak each time."""

import math

from torch.optim.lr_scheduler import _LRScheduler  # the one name that torch 1.12 has, too


def learning_rate(epoch, base, eta_max, T_0, T_up=0, gamma=1.0):
    """Learning rate of an epoch (counted from 0).

    A cycle lasts `T_0` epochs: it starts at `base`, rises linearly to the peak over `T_up` epochs, fewer than `T_0`,
    and falls along half a cosine back to `base` at its end. Cycle n, counted from 0, peaks at `eta_max * gamma**n`.
    Loshchilov and Hutter, "SGDR" (arXiv:1608.03983), section 3, with a warm-up.
    """
    cycle, epoch = divmod(epoch, T_0)
    peak = eta_max * gamma**cycle
    if epoch < T_up:
        return base + (peak - base) * epoch / T_up
    return base + (peak - base) * (1 + math.cos(math.pi * (epoch - T_up) / (T_0 - T_up))) / 2


class CosineAnnealingWarmUpRestarts(_LRScheduler):
    """`learning_rate` as a PyTorch scheduler, stepped once an epoch.

    Args: `optimizer`, whose own lr is where each cycle starts and ends; the others as of `learning_rate`.
    """

    def __init__(self, optimizer, **shape):
        self.shape = shape
        super().__init__(optimizer)

    def get_lr(self):
        return [learning_rate(self.last_epoch, base, **self.shape) for base in self.base_lrs]
