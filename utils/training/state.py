"""All that training changes, as one object: saved between two steps, it goes on to the same numbers."""

import time
import warnings

import torch
from timm.utils.model_ema import ModelEmaV3

from utils.base.errors import NonFiniteLoss
from utils.nets.checkpoint import is_finite
from utils.scheduler import CosineAnnealingWarmUpRestarts
from utils.training.optimizer import build_optimizer

WAY_OUT = "try a lower --lr, --clipping True or --precision fp32"


def build_state(args, net, images):
    """The TrainState of the options of train.py. Args: `net`, on its device; `images`, number of those in training."""
    lr, by_step = args.min_lr if args.scheduler else args.lr, args.schedule_by == "step"
    optimizer, schedule = build_optimizer(net, args.optimizer, lr, args.weight_decay), None
    if args.scheduler:
        steps = -(-images // args.batch_size) if by_step else 1
        cycle = {"T_0": steps * args.decay_epoch, "T_up": steps * args.warmup_epoch}
        schedule = CosineAnnealingWarmUpRestarts(optimizer, eta_max=args.lr, gamma=args.cos_gamma, **cycle)
    return TrainState(net, optimizer, schedule, by_step, args.ema, args.seed)


class TrainState:
    """The network, its optimizer, schedule and average, the random numbers, and how far training is. It knows no file.

    Args:
        net: `Student` or `FashionCLIP`, on its device.
        optimizer: of the network's weights.
        schedule: of the optimizer's learning rate, `by_step` stepped once a step, otherwise once an epoch; None for a constant one.
        decay: of a moving average of the weights; None for none.
        seed: of the order of images.
    """

    def __init__(self, net, optimizer, schedule=None, by_step=False, decay=None, seed=0):
        self.net, self.optimizer, self.schedule, self.by_step = net, optimizer, schedule, by_step
        # Without the warm-up, most of an average of few steps would be the random start.
        self.average = ModelEmaV3(net, decay, use_warmup=True) if decay else None
        self.shuffle = torch.Generator().manual_seed(seed)
        self.step = 0  # finished ones, of all epochs
        self.epoch = 1  # the running one
        self._begin_epoch()

    def _begin_epoch(self):
        self.losses = torch.zeros(0, len(self.net.attributes))  # of the epoch's finished steps, on the device
        self.order_state = self.shuffle.get_state()
        self.started = time.perf_counter()

    def order(self, images):
        """The running epoch's order of images, int64 `(images,)`; to be called once an epoch."""
        return torch.randperm(images, generator=self.shuffle)

    def finish_step(self):
        """To be called after each step of the optimizer."""
        self.step += 1
        if self.average:
            self.average.update(self.net, self.step)
        if self.schedule and self.by_step:
            self.schedule.step()

    def finish_epoch(self):
        if self.schedule and not self.by_step:
            with warnings.catch_warnings():
                # Of a run that was resumed behind the last step of epoch 1, this optimizer has made none.
                warnings.filterwarnings("ignore", "Detected call of `lr_scheduler.step")
                self.schedule.step()
        self.epoch += 1
        self._begin_epoch()

    @property
    def averaged(self):
        """The network that is validated and kept: the average of its weights if there is one."""
        return self.average.module if self.average else self.net

    @property
    def lr(self):
        return self.optimizer.param_groups[0]["lr"]

    def seconds(self):
        """Spent on the running epoch, without steps that were lost and done again."""
        return time.perf_counter() - self.started

    def check_finite(self):
        """Raises: NonFiniteLoss for the first of the epoch's losses that is not finite, or for the weights: of a finite loss
        the gradient may not be."""
        bad = (~torch.isfinite(self.losses)).nonzero().tolist()
        if bad:
            step, attribute = bad[0]
            key, loss = list(self.net.attributes)[attribute], self.losses[step, attribute].item()
            where = f"epoch {self.epoch}, step {step + 1}"
            raise NonFiniteLoss(f"{where}: the loss of {key} is {loss}; {WAY_OUT}")
        if not is_finite(self.net):
            where = f"epoch {self.epoch}, step {len(self.losses)}"
            raise NonFiniteLoss(f"{where}: the weights are not finite; {WAY_OUT}")

    def state_dict(self):
        """All but the network's weights: tensors and plain values."""
        return {
            "epoch": self.epoch,
            "step": self.step,
            "losses": self.losses.cpu().clone(),
            "seconds": self.seconds(),
            "optimizer": self.optimizer.state_dict(),
            "scheduler": self.schedule and self.schedule.state_dict(),
            "average": self.average and self.average.module.state_dict(),
            "order_state": self.order_state,
            "random_state": torch.get_rng_state(),
            "cuda_random_state": torch.cuda.get_rng_state() if torch.cuda.is_initialized() else None,
        }

    def load_state_dict(self, saved):
        """Go on from there. Raises: whatever values do that are not of this network."""
        if self.average:
            self.average.module.load_state_dict(saved["average"])
        self.optimizer.load_state_dict(saved["optimizer"])
        if self.schedule:
            self.schedule.load_state_dict(saved["scheduler"])
        self.shuffle.set_state(saved["order_state"])
        self.epoch, self.step = saved["epoch"], saved.get("step", 0)
        self._begin_epoch()
        self.losses = self.losses.new_zeros(len(saved["losses"]), self.losses.shape[1]).copy_(saved["losses"])
        self.started -= saved["seconds"]
        torch.set_rng_state(saved["random_state"])
        if saved["cuda_random_state"] is not None and torch.cuda.is_initialized():
            torch.cuda.set_rng_state(saved["cuda_random_state"])
