"""One epoch of training, and predictions over a whole data set."""

import math
import time

import torch
from tqdm import tqdm

from utils import metrics
from utils.attributes import ATTRIBUTES
from utils.errors import NonFiniteLoss
from utils.logging import logger

GRADIENT_NORM = 5.0  # of --clipping


def train_one_epoch(
    net, criterion, data, teacher_logits, optimizer, order, *, args, progress, precision, world
):
    """Train on every image once, in a resumed epoch on those whose turn has not come yet.

    Args:
        net: `Student` or `FashionCLIP`, on its device, as `world.parallel` gives it.
        criterion: `DistillationLoss`.
        data: `utils.dataset.Split`, with `utils.pixels.Images` as its pixels.
        teacher_logits: dict attribute -> float32 `(N, classes)`, or None for a loss of kind none.
        order: int64 tensor `(N,)` on the CPU, the images in the epoch's order.
        args: options (batch_size over all processes, epochs, clipping, log_interval).
        progress: `utils.resume.Progress`; knows the epoch, and is told the losses of each step.
        precision: `utils.hardware.Precision`.
        world: `utils.distributed.World`; each process takes its part of every batch.
    Returns: dict attribute -> loss, the mean over the steps.
    Raises: NonFiniteLoss, at the latest at the next log line.
    """
    net.train()
    device = data.pixels.device
    labels = {key: torch.as_tensor(values, device=device) for key, values in data.labels.items()}
    steps = math.ceil(len(order) / args.batch_size)
    history = torch.zeros(steps, len(ATTRIBUTES), device=device)
    epoch, done = progress.epoch, len(progress.losses)
    history[:done] = progress.losses
    start = time.perf_counter()
    bar = tqdm(order.split(args.batch_size)[done:], f"epoch {epoch}/{args.epochs}", disable=None, leave=False)
    for step, batch in enumerate(bar, done + 1):
        progress.poll()
        part, counts = world.part(batch)
        pixels, part, batch = data.pixels.fetch(part), part.to(device), batch.to(device)
        with precision.autocast(device):
            outputs = net(pixels)
        class_logits, distillation_logits = outputs if isinstance(outputs, tuple) else (outputs, None)
        losses = criterion(
            class_logits,
            distillation_logits,
            teacher_logits and {key: logits[part] for key, logits in teacher_logits.items()},
            {key: values[part] for key, values in labels.items()},
            {key: values[batch] for key, values in labels.items()},
        )
        losses = torch.stack([losses[key] for key in ATTRIBUTES]) * counts
        optimizer.zero_grad(set_to_none=True)
        (world.size * losses.sum()).backward()  # since the processes' gradients are averaged
        if args.clipping:
            torch.nn.utils.clip_grad_norm_(net.parameters(), GRADIENT_NORM)
        optimizer.step()
        history[step - 1] = world.sum(losses.detach())
        progress.losses = history[:step]

        # Not every step, since reading a value waits for the device.
        if step % args.log_interval == 0 or step == steps:
            check_finite(history[:step], epoch)
            images = min(step * args.batch_size, len(order)) - done * args.batch_size
            speed = images / (time.perf_counter() - start)
            _log_step(epoch, args.epochs, step, steps, history[step - 1], optimizer, speed)
    return dict(zip(ATTRIBUTES, history.mean(dim=0).tolist()))


def check_finite(history, epoch):
    """NonFiniteLoss for the first loss that is not finite; `history` float `(steps, attributes)`."""
    bad = (~torch.isfinite(history)).nonzero().tolist()
    if bad:
        step, attribute = bad[0]
        raise NonFiniteLoss(
            f"epoch {epoch}, step {step + 1}: the loss of {list(ATTRIBUTES)[attribute]} is "
            f"{history[step, attribute].item()}; try a lower --lr, --clipping True or --precision fp32"
        )


def _log_step(epoch, epochs, step, steps, losses, optimizer, speed):
    parts = ", ".join(f"{key} {loss:.4f}" for key, loss in zip(ATTRIBUTES, losses.tolist()))
    lr = optimizer.param_groups[0]["lr"]
    logger.info(
        f"epoch {epoch}/{epochs}  step {step}/{steps}  loss {losses.sum().item():.4f} ({parts})  "
        f"lr {lr:.3g}  {speed:.1f} images/s"
    )


def validate(net, data, batch_size, precision, world, poll):
    """Scores of a data set, see `utils.metrics.scores`; each process predicts its part. Args: as of `predict`."""
    share, counts = world.share(len(data.names))  # as many batches in each process, since they poll together
    logits = predict(net, data.pixels, batch_size, precision, "validation", poll, share)
    matrices = metrics.confusion_matrices(
        {key: values[counts] for key, values in logits.items()},
        {key: values[share[counts]] for key, values in data.labels.items()},
    )
    sums = {key: world.sum(torch.from_numpy(matrix)) for key, matrix in matrices.items()}
    return metrics.scores({key: matrix.cpu().numpy() for key, matrix in sums.items()})


@torch.no_grad()
def predict(net, pixels, batch_size, precision, name, poll=None, indices=None):
    """Logits of a whole data set, in evaluation mode.

    Args:
        net: `Student` or `FashionCLIP`, on the images' device.
        pixels: `utils.pixels.Images`.
        name: on the progress bar.
        poll: called before each batch; see `utils.resume.Progress`.
        indices: of the images, int64; all by default.
    Returns: dict attribute -> float32 `(N, classes)`, on the CPU.
    """
    net.eval()
    parts = []
    with precision.autocast(pixels.device):
        classify = net.inference()
        indices = torch.arange(len(pixels)) if indices is None else indices
        for batch in tqdm(indices.split(batch_size), name, disable=None, leave=False):
            if poll:
                poll()
            parts.append(classify(pixels.fetch(batch)))
    return {key: torch.cat([part[key] for part in parts]).cpu() for key in ATTRIBUTES}
