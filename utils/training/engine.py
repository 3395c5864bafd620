"""One epoch of training, and a forward pass over a whole data set."""

import math
import time

import torch
from tqdm import tqdm

from utils.base.log import logger
from utils.evaluation import metrics

GRADIENT_NORM = 5.0  # of --clipping


def train_one_epoch(state, labels, images, criterion):
    """Train on every image once; in a resumed epoch, on those that are left.

    Args:
        state: `utils.training.state.TrainState`; knows the epoch and the teacher's logits, and is told the losses of each step.
        labels: dict attribute -> int64 array `(N,)`.
        images: `utils.data.pixels.Images`, or a `utils.data.views.View` of them.
        criterion: `utils.losses.DistillationLoss`.
    Returns: dict attribute -> loss, the mean over the steps.
    Raises: NonFiniteLoss, at the latest at the next log line.
    """
    state.net.train()
    args, world, device = state.args, state.world, images.device
    labels = {key: torch.as_tensor(values, device=device) for key, values in labels.items()}
    order = state.order(len(images))
    steps, done = math.ceil(len(order) / args.batch_size), len(state.losses)
    history = torch.zeros(steps, len(labels), device=device)
    history[:done] = state.losses
    start = time.perf_counter()
    batches = order.split(args.batch_size)[done:]
    bar = tqdm(batches, f"epoch {state.epoch}/{args.epochs}", disable=None, leave=False)
    for step, batch in enumerate(bar, done + 1):
        state.poll()
        part, counts = world.part(batch)
        pixels, part, batch = images.fetch(part), part.to(device), batch.to(device)
        with state.precision.autocast(device):
            outputs = state.parallel(pixels)
        losses = criterion(
            outputs,
            state.targets and {key: logits[part] for key, logits in state.targets.items()},
            {key: values[part] for key, values in labels.items()},
            {key: values[batch] for key, values in labels.items()},
        )
        losses = torch.stack([losses[key] for key in labels]) * counts
        (world.size * losses.sum()).backward()  # since the processes' gradients are averaged
        if args.clipping:
            torch.nn.utils.clip_grad_norm_(state.net.parameters(), GRADIENT_NORM)
        state.optimizer.step()
        state.optimizer.zero_grad(set_to_none=True)  # here, so that the next step finds memory in one piece
        history[step - 1] = world.sum(losses.detach())
        state.losses = history[:step]

        # Not every step, since reading a value waits for the device.
        if step % args.log_interval == 0 or step == steps:
            state.check_finite()
            count = min(step * args.batch_size, len(order)) - done * args.batch_size
            _log_step(state, f"step {step}/{steps}", count / (time.perf_counter() - start))
        state.finish_step()
    return dict(zip(labels, history.mean(dim=0).tolist()))


def _log_step(state, step, speed):
    """A line with the last step's losses; `speed` in images/s."""
    losses = state.losses[-1]
    parts = ", ".join(f"{key} {loss:.4f}" for key, loss in zip(state.net.attributes, losses.tolist()))
    lr = state.optimizer.param_groups[0]["lr"]
    logger.info(
        f"epoch {state.epoch}/{state.args.epochs}  {step}  loss {losses.sum().item():.4f} ({parts})  "
        f"lr {lr:.3g}  {speed:.1f} images/s"
    )


def validate(state, labels, images):
    """Scores of a data set, see `utils.evaluation.metrics.scores`; each process predicts its part of every batch.

    Args: `labels`, `images` as of `train_one_epoch`.
    """
    world = state.world
    batches = torch.arange(len(images)).split(state.args.val_batch_size * world.size)
    parts = [world.part(batch) for batch in batches]
    mine = [part for part, _ in parts]
    # timm keeps attention biases in evaluation mode: an average has new ones once it leaves that.
    net = state.averaged.train()
    world.share_figures(net)
    logits = predict(net, images, state.precision, mine, "validation", state.poll)
    rows = torch.cat([part if counts else part[:0] for part, counts in parts]).numpy()
    counted = torch.cat([torch.full((len(part),), counts) for part, counts in parts])
    matrices = metrics.confusion_matrices(
        {key: values[counted] for key, values in logits.items()},
        {key: values[rows] for key, values in labels.items()},
    )
    sums = {key: world.sum(torch.from_numpy(matrix)) for key, matrix in matrices.items()}
    return metrics.scores({key: matrix.cpu().numpy() for key, matrix in sums.items()})


@torch.no_grad()
def predict(net, images, precision, batches, title, poll=None):
    """Logits of images, in evaluation mode.

    Args:
        net: `Student` or `FashionCLIP`, on the images' device.
        images: `utils.data.pixels.Images`, or a `utils.data.views.View` of them.
        precision: `utils.base.hardware.Precision`.
        batches: list of int64 tensors, the images' indices.
        title: of the progress bar.
        poll: called before each batch; see `utils.training.state.TrainState`.
    Returns: dict attribute -> float32 `(N, classes)`, on the CPU, in the batches' order.
    """
    net.eval()
    parts = []
    with precision.autocast(images.device):
        classify = net.inference()
        for batch in tqdm(batches, title, disable=None, leave=False):
            if poll:
                poll()
            parts.append(classify(images.fetch(batch)))
    return {key: torch.cat([part[key] for part in parts]).cpu() for key in parts[0]}
