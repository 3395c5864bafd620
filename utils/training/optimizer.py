"""Adam, AdamW, and Muon."""

from collections import defaultdict

import torch
from torch import nn

from utils.base.hardware import TORCH


def build_optimizer(net, name, lr, weight_decay):
    """Adam, AdamW or Muon, by `name`; with a schedule `lr` is where each of its cycles starts."""
    settings = {"lr": lr, "weight_decay": weight_decay}
    if TORCH >= (2, 4):  # the first that has it on CPUs, too: one pass over the weights instead of ten
        settings["fused"] = True
    if name == "Adam":
        return torch.optim.Adam(net.parameters(), betas=(0.9, 0.98), **settings)  # the recipe's betas
    return Muon(net, **settings) if name == "Muon" else torch.optim.AdamW(net.parameters(), **settings)


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
        modules = [module for name, module in net.named_modules() if "heads" not in name]
        layers = [module for module in modules if isinstance(module, (nn.Linear, nn.Conv2d))]
        self.matrices = [layer.weight for layer in layers if getattr(layer, "groups", 1) == 1]
        super().__init__(net.parameters(), **settings)

    @torch.no_grad()
    def step(self):
        group = self.param_groups[0]
        alike = defaultdict(list)  # matrices of a shape are made orthogonal at once: a GPU waits less
        for weight in self.matrices:
            if weight.grad is not None:
                alike[weight.flatten(1).shape].append(weight)
        for shape, weights in alike.items():
            updates = orthogonal(torch.stack([self._averaged(weight).flatten(1) for weight in weights]))
            for weight, update in zip(weights, updates):
                weight.mul_(1 - group["lr"] * group["weight_decay"])
                weight.sub_(update.view_as(weight), alpha=group["lr"] * 0.2 * max(shape) ** 0.5)
        super().step()

    def _averaged(self, weight):
        """The averaged gradient of a weight, which it gives up: AdamW leaves it alone then."""
        gradient, weight.grad = weight.grad, None
        state = self.state[weight]
        if not state:  # torch 1.12 wants a step in it
            state.update(step=torch.tensor(0.0), average=torch.zeros_like(weight))
        state["average"].lerp_(gradient, 1 - self.MOMENTUM)
        return gradient.lerp(state["average"], self.MOMENTUM)


def orthogonal(matrices, steps=5):
    """Roughly U V^T of matrices U S V^T, float32 `(N, rows, columns)`: their singular values become 0.7 to 1.2, by a polynomial
    of odd degree that is applied a few times (Jordan et al., as above)."""
    rows, columns = matrices.shape[1:]
    wide = matrices if rows <= columns else matrices.transpose(1, 2)
    wide = wide / (wide.norm(dim=(1, 2), keepdim=True) + 1e-7)
    for _ in range(steps):
        square = wide @ wide.transpose(1, 2)
        square = torch.baddbmm(square, square, square, beta=-4.7750, alpha=2.0315)
        wide = torch.baddbmm(wide, square, wide, beta=3.4445)
    return wide if rows <= columns else wide.transpose(1, 2)
