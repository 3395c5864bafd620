"""Adam, AdamW, and Muon."""

import torch
from torch import nn

from utils.hardware import TORCH


def build_optimizer(net, args):
    """The optimizer of the options. With a scheduler its own learning rate is --min-lr, where each cycle starts."""
    settings = {"lr": args.min_lr if args.scheduler else args.lr, "weight_decay": args.weight_decay}
    if TORCH >= (2, 4):  # the first that has it on CPUs, too: one pass over the weights instead of ten
        settings["fused"] = True
    if args.optimizer == "Muon":
        return Muon(net, **settings)
    if args.optimizer == "Adam":
        return torch.optim.Adam(net.parameters(), betas=(0.9, 0.98), **settings)  # the recipe's betas
    return torch.optim.AdamW(net.parameters(), **settings)


class Muon(torch.optim.AdamW):
    """Matrices move by their averaged gradient made orthogonal, so that no direction is left behind; all else by AdamW.

    Jordan et al., "Muon: An optimizer for hidden layers in neural networks" (kellerjordan.github.io/posts/muon, 2024);
    scaled as by Liu et al. (arXiv:2502.16982, section 2.2), so that AdamW's learning rate and weight decay fit. PyTorch's own
    computes in bf16, which many CPUs have not, and leaves convolutions out.

    Args: `net`, whose linear layers and convolutions are the matrices, `(out, all else)`; not its heads, nor convolutions
        in groups. The other settings are AdamW's.
    """

    MOMENTUM = 0.95  # Nesterov's

    def __init__(self, net, **settings):
        self.matrices = [
            module.weight
            for name, module in net.named_modules()
            if isinstance(module, (nn.Linear, nn.Conv2d))
            and getattr(module, "groups", 1) == 1
            and "heads" not in name
        ]
        super().__init__(net.parameters(), **settings)

    @torch.no_grad()
    def step(self):
        group = self.param_groups[0]
        for weight in self.matrices:
            if weight.grad is None:
                continue
            state = self.state[weight]
            if not state:  # torch 1.12 wants a step in it
                state.update(step=torch.tensor(0.0), average=torch.zeros_like(weight))
            average = state["average"]
            average.lerp_(weight.grad, 1 - self.MOMENTUM)
            update = orthogonal(weight.grad.lerp(average, self.MOMENTUM).flatten(1)).view_as(weight)
            weight.mul_(1 - group["lr"] * group["weight_decay"])
            weight.sub_(update, alpha=group["lr"] * 0.2 * max(len(weight), weight[0].numel()) ** 0.5)
            weight.grad = None  # AdamW leaves it alone
        super().step()


def orthogonal(matrix, steps=5):
    """Roughly U V^T of a matrix U S V^T, float32 `(rows, columns)`: its singular values become 0.7 to 1.2, by a polynomial
    of odd degree that is applied a few times (Jordan et al., as above)."""
    wide = matrix if len(matrix) <= matrix.shape[1] else matrix.t()
    wide = wide / (wide.norm() + 1e-7)
    for _ in range(steps):
        square = wide @ wide.t()
        wide = 3.4445 * wide + (-4.7750 * square + 2.0315 * square @ square) @ wide
    return wide if wide.shape == matrix.shape else wide.t()
