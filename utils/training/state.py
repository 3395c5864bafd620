"""All that training changes, as one object: saved between two steps, it goes on to the same numbers."""

import signal
import time

import torch
from timm.utils.model_ema import ModelEmaV3

from utils.base.errors import Interrupted, NonFiniteLoss, UserError
from utils.base.log import logger
from utils.nets import checkpoint
from utils.scheduler import CosineAnnealingWarmUpRestarts
from utils.training.optimizer import build_optimizer
from utils.training.resume import data_fingerprint


def build_scheduler(optimizer, args, steps):
    """The schedule of --scheduler True, or None. Args: `steps` of an epoch, by which it is stepped, or 1."""
    if not args.scheduler:
        return None
    cycle = {"T_0": steps * args.decay_epoch, "T_up": steps * args.warmup_epoch}
    return CosineAnnealingWarmUpRestarts(optimizer, eta_max=args.lr, gamma=args.cos_gamma, **cycle)


class TrainState:
    """The network, its optimizer and schedule, and how far training is.

    Args:
        net: `Student` or `FashionCLIP`; it is moved to the device.
        args: options of train.py.
        precision: `utils.base.hardware.Precision`.
        world: `utils.training.distributed.World`.
        run: `utils.training.run.Run`, whose rows are part of the state; None for training that is not saved.
        signals: `utils.base.signals.StopSignals`, with `run`.
    """

    def __init__(self, net, args, precision, world, run=None, signals=None):
        self.net = net.to(world.device, memory_format=torch.channels_last)
        self.args, self.precision, self.world, self.run, self.signals = args, precision, world, run, signals
        self.optimizer = build_optimizer(net, args)
        self.scheduler = None  # until the number of steps is known, in `load_or_begin`
        # Without the warm-up, most of an average of few steps would be the random start.
        self.average = ModelEmaV3(self.net, args.ema, use_warmup=True) if args.ema else None
        self.step = 0  # finished ones, of all epochs
        self.shuffle = torch.Generator().manual_seed(args.seed)
        self.parallel = net  # as several processes train it
        self.targets = None  # the teacher's logits, dict attribute -> float32 (N, classes), on the device
        self.view = None  # number of the view that they are of
        self.teacher = None  # what is kept of it, see `utils.training.teacher.Teacher.kept`
        self.learned = {}  # what its checkpoints say of that, see `utils.losses.learned`
        self.fingerprint = None  # of the data set
        self.epoch = 1  # the running one
        self.saved_at = None  # time.monotonic() of the last save
        self._begin_epoch()

    def _begin_epoch(self):
        self.losses = torch.zeros(0, len(self.net.attributes))  # of the epoch's finished steps
        self.order_state = self.shuffle.get_state()
        self.started = time.perf_counter()

    def load_or_begin(self, data):
        """Go on from the run's last.pt if it is resumed; otherwise write the first one. Args: `data`, dict of tables."""
        self.fingerprint = data_fingerprint(data)
        saved = self.run.take_saved()
        steps = -(-len(data["train"].names) // self.args.batch_size)
        steps = steps if self.args.schedule_by == "step" else 1
        self.scheduler = build_scheduler(self.optimizer, self.args, steps)
        self.signals.defer(alone=self.world.size == 1, speaks=self.world.is_first)
        if saved:
            self._load(saved)
            path = self.run.last_file
            logger.info(f"resumed from {path}: epoch {self.epoch}, {len(self.losses)} steps done")
        else:
            self.save()
        self.saved_at = time.monotonic()
        self.parallel = self.world.parallel(self.net)

    def learn_from(self, teacher, images):
        """Have the teacher's logits of a view, unless they are there.

        Args: `teacher`, of `utils.training.teacher.find_teacher`, or None; `images` as the running epoch sees them.
        """
        if teacher is None or self.view == images.number:
            return
        alone = self.world.size == 1 and self.saved_at is not None
        with self.world.first_alone():  # the others then read the cache
            targets = teacher.teach(images, self.poll if alone else None)
        self.targets = {key: values.to(self.world.device) for key, values in targets.items()}
        self.view, self.teacher = images.number, teacher.kept()

    @property
    def averaged(self):
        """The network that is validated and kept: the average of its weights if there is one."""
        return self.average.module if self.average else self.net

    def finish_step(self):
        """To be called after each step of the optimizer."""
        self.step += 1
        if self.average:
            self.average.update(self.net, self.step)
        if self.scheduler and self.args.schedule_by == "step":
            self.scheduler.step()

    def epochs(self):
        """The numbers of the epochs that are left; each must be finished by `finish_epoch`."""
        while self.epoch <= self.args.epochs:
            yield self.epoch

    def order(self, images):
        """The running epoch's order of images, int64 `(images,)`; to be called once an epoch."""
        return torch.randperm(images, generator=self.shuffle)

    def finish_epoch(self, losses, scores):
        """Step the schedule, write the epoch's files, and save.

        Args: `losses` of `utils.training.engine.train_one_epoch`, `scores` of `utils.training.engine.validate`.
        """
        lr = self.optimizer.param_groups[0]["lr"]
        if self.scheduler and self.args.schedule_by == "epoch":
            self.scheduler.step()
        # Steps that were lost and done again do not count in the seconds.
        self.run.finish_epoch(self, lr, losses, scores)
        self.epoch += 1
        self._begin_epoch()
        self.save()
        self.run.prune()

    def check_finite(self):
        """Raises: NonFiniteLoss for the first of the epoch's losses that is not finite, or for the weights: of a finite loss
        the gradient may not be."""
        way_out = "try a lower --lr, --clipping True or --precision fp32"
        bad = (~torch.isfinite(self.losses)).nonzero().tolist()
        if bad:
            step, attribute = bad[0]
            raise NonFiniteLoss(
                f"epoch {self.epoch}, step {step + 1}: the loss of {list(self.net.attributes)[attribute]} is "
                f"{self.losses[step, attribute].item()}; {way_out}"
            )
        if not checkpoint.is_finite(self.net):
            raise NonFiniteLoss(
                f"epoch {self.epoch}, step {len(self.losses)}: the weights are not finite; {way_out}"
            )

    def poll(self):
        """To be called between two steps: saves if it is time to, and ends the run if a signal asked for it.

        Of several processes all call it equally often; a signal that one of them got ends all of them at this step.
        """
        if self.run is None:
            return
        received = self.world.largest(self.signals.received or 0)
        if received:
            self.save()
            self.world.largest(0)  # none ends before it is saved, since torchrun then ends the others
            raise Interrupted(
                signal.Signals(received),
                f"stopped in epoch {self.epoch}, after step {len(self.losses)}; "
                f"all is saved in {self.run.last_file}, go on with --resume True",
            )
        if time.monotonic() - self.saved_at >= 60 * self.args.save_every_minutes:
            self.save()
            logger.info(f"epoch {self.epoch}  step {len(self.losses)}  saved in {self.run.last_file}")

    def seconds(self):
        """Spent on the running epoch, without steps that were lost and done again."""
        return time.perf_counter() - self.started

    def save(self):
        """Write last.pt: an epoch's checkpoint, and under "progress" whatever else training changes.

        Raises: NonFiniteLoss rather than keep weights that are lost.
        """
        self.check_finite()
        self.saved_at = time.monotonic()
        if self.run.writes:
            meta = dict(self.run.meta(self), epoch=self.epoch - 1)
            checkpoint.save_checkpoint(self.run.last_file, self.net, meta, progress=self.state_dict())

    def state_dict(self):
        """All but the network's weights: tensors and plain values."""
        return {
            "epoch": self.epoch,
            "losses": self.losses.cpu().clone(),
            "seconds": self.seconds(),
            "rows": self.run.rows,
            "optimizer": self.optimizer.state_dict(),
            "scheduler": self.scheduler and self.scheduler.state_dict(),
            "order_state": self.order_state,
            "random_state": torch.get_rng_state(),
            "cuda_random_state": torch.cuda.get_rng_state() if torch.cuda.is_initialized() else None,
            "data": self.fingerprint,
            "teacher_logits": self.targets,
            "view": self.view,
            "teacher": self.teacher,
            "step": self.step,
            "average": self.average and self.average.module.state_dict(),
            "processes": self.world.size,
        }

    def _load(self, saved):
        """Args: the content of a last.pt, of whose form `utils.training.run.Run` has made sure."""
        progress, path = saved["progress"], self.run.last_file
        checkpoint.load_state(self.net, self.net.own_names(saved["model"]), path)
        try:  # a file of another make lacks something, or has it in another shape
            logits = progress["teacher_logits"]
            self.targets = logits and {key: values.to(self.world.device) for key, values in logits.items()}
            self.view = progress.get("view", 0 if logits else None)
            self.teacher, self.step = progress.get("teacher"), progress.get("step", 0)
            if self.average:
                self.average.module.load_state_dict(progress["average"])
            self.optimizer.load_state_dict(progress["optimizer"])
            if self.scheduler:
                self.scheduler.load_state_dict(progress["scheduler"])
            self.shuffle.set_state(progress["order_state"])
            self.epoch = progress["epoch"]
            self._begin_epoch()
            losses = progress["losses"]
            self.losses = self.losses.new_zeros(len(losses), self.losses.shape[1]).copy_(losses)
            self.started -= progress["seconds"]
            torch.set_rng_state(progress["random_state"])
            if progress["cuda_random_state"] is not None and torch.cuda.is_initialized():
                torch.cuda.set_rng_state(progress["cuda_random_state"])
        except Exception as error:  # what a crafted one raises depends on its content
            problem = f"not the state of this run ({error}); begin anew with --overwrite True"
            raise UserError(f"{path}: {problem}") from error
