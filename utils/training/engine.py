"""One epoch of training, and a forward pass over a whole data set."""

import math
import time
from typing import Any, Dict, NamedTuple, Optional

import numpy as np
import torch

from utils.base.hardware import Precision
from utils.base.log import logger, progress
from utils.data.pixels import placed
from utils.evaluation import metrics
from utils.training.distributed import World

GRADIENT_NORM = 5.0  # of --clipping


class Examples(NamedTuple):
    """Images and what is learned of them, or compared."""

    images: Any  # on a device: `utils.data.pixels.Images`, or a `utils.data.views.View` of them
    labels: Dict[str, np.ndarray]  # attribute -> int64 (N,), -1 where it is not known
    targets: Optional[Dict[str, torch.Tensor]] = None  # a teacher's logits, attribute -> float32 (N, classes)


class Setup(NamedTuple):
    """How epochs are computed, the same in all of them."""

    world: World
    precision: Precision
    batch_size: int = 64  # images per step, over all processes
    val_batch_size: int = 32  # images per step of a process in validation
    clipping: bool = False
    log_interval: int = 10  # steps between two lines of the log
    epochs: int = 1  # for the log


def build_setup(args, world, precision):
    """The Setup of the options of train.py."""
    sizes = args.batch_size, args.val_batch_size
    return Setup(world, precision, *sizes, args.clipping, args.log_interval, args.epochs)


def train_one_epoch(state, criterion, examples, setup, parallel, between_steps):
    """Train on every image once; in a resumed epoch, on those that are left.

    Args:
        state: `utils.training.state.TrainState`; knows the epoch, and is told the losses of each step.
        criterion: `utils.losses.DistillationLoss`.
        parallel: the state's network as several processes train it, see `World.parallel`.
        between_steps: is called before each step.
    Returns: dict attribute -> loss, the mean over the steps.
    Raises: NonFiniteLoss, at the latest at the next log line.
    """
    state.net.train()
    images, device, world = examples.images, examples.images.device, setup.world
    labels = {key: torch.as_tensor(values, device=device) for key, values in examples.labels.items()}
    order = state.order(len(images))
    steps, done = math.ceil(len(order) / setup.batch_size), len(state.losses)
    history = torch.zeros(steps, len(labels), device=device)
    history[:done] = state.losses
    start = time.perf_counter()
    title, begin = f"epoch {state.epoch}/{setup.epochs}", done * setup.batch_size
    bar = progress(None, title, len(order), unit=" photos", initial=begin)
    batches = order.split(setup.batch_size)[done:]
    shares, counted = _shares(batches, world)
    each = zip(images.fetch(shares), placed(shares, device), placed(batches, device), counted)
    for step, (pixels, mine, batch, counts) in enumerate(each, done + 1):
        between_steps()
        with setup.precision.autocast(device):
            outputs = parallel(pixels)
        targets = examples.targets and _rows(examples.targets, mine)
        losses = criterion(outputs, targets, _rows(labels, mine), _rows(labels, batch))
        losses = torch.stack([losses[key] for key in labels]) * counts
        (world.size * losses.sum()).backward()  # since the processes' gradients are averaged
        if setup.clipping:
            torch.nn.utils.clip_grad_norm_(state.net.parameters(), GRADIENT_NORM)
        state.optimizer.step()
        state.optimizer.zero_grad(set_to_none=True)  # here, so that the next step finds memory in one piece
        history[step - 1] = world.sum(losses.detach())
        state.losses = history[:step]

        # Not every step, since reading a value waits for the device.
        if step % setup.log_interval == 0 or step == steps:
            state.check_finite()
            trained = min(step * setup.batch_size, len(order)) - begin
            _log_step(state, setup.epochs, f"{step}/{steps}", trained / (time.perf_counter() - start))
            bar.set_postfix_str(f"loss {state.losses[-1].sum().item():.3f}", refresh=False)
        state.finish_step()
        bar.update(len(batch))
    bar.close()
    return dict(zip(labels, history.mean(dim=0).tolist()))


def _shares(batches, world):
    """This process's part of each batch, and whether it counts, two lists; see `World.shard`."""
    shares = list(map(world.shard, batches))
    return [rows for rows, _ in shares], [counts for _, counts in shares]


def _rows(by_attribute, chosen):
    return {key: values[chosen] for key, values in by_attribute.items()}


def _log_step(state, epochs, step, speed):
    """A line with the last step's losses; `speed` in images/s."""
    losses = state.losses[-1]
    parts = ", ".join(f"{key} {loss:.4f}" for key, loss in zip(state.net.attributes, losses.tolist()))
    of = f"epoch {state.epoch}/{epochs}  step {step}  loss {losses.sum().item():.4f} ({parts})"
    logger.debug(f"{of}  lr {state.lr:.3g}  {speed:.1f} images/s")


def validate(net, examples, setup, between_steps):
    """Scores of a data set, see `utils.evaluation.metrics.scores`; each process predicts its part of every batch."""
    # timm keeps attention biases in evaluation mode: an average has new ones once it leaves that.
    setup.world.share_figures(net.train())
    logits, rows = predict_share(net, examples.images, setup, "validation", between_steps)
    matrices = metrics.confusion_matrices(logits, _rows(examples.labels, rows.numpy()))
    sums = {key: setup.world.sum(torch.from_numpy(matrix)) for key, matrix in matrices.items()}
    return metrics.scores({key: matrix.cpu().numpy() for key, matrix in sums.items()})


def predict_share(net, images, setup, title, between_steps=None):
    """(Logits of this process's share of images, as of `predict`; which they are, int64). All shares make the whole."""
    whole = torch.arange(len(images)).split(setup.val_batch_size * setup.world.size)
    batches, counted = _shares(whole, setup.world)
    logits = predict(net, images, setup.precision, batches, title, between_steps)
    counted = torch.tensor(counted).repeat_interleave(torch.tensor(list(map(len, batches))))
    return _rows(logits, counted), torch.cat(batches)[counted]


@torch.no_grad()
def predict(net, images, precision, batches, title, between_steps=None):
    """Logits of images, in evaluation mode.

    Args:
        net: `Student` or `FashionCLIP`, on the images' device.
        images: as of `Examples`.
        precision: `utils.base.hardware.Precision`.
        batches: list of int64 tensors, the images' indices.
        title: of the progress bar.
        between_steps: is called before each batch.
    Returns: dict attribute -> float32 `(N, classes)`, on the CPU, in the batches' order.
    """
    net.eval()
    parts, bar = [], progress(None, title, sum(map(len, batches)), unit=" photos")
    with precision.autocast(images.device):
        classify = net.inference()
        for pixels in images.fetch(batches):
            if between_steps:
                between_steps()
            parts.append(classify(pixels))
            bar.update(len(pixels))
    bar.close()
    return {key: torch.cat([part[key] for part in parts]).cpu() for key in parts[0]}
