"""Muon: which weights it moves, and how far."""

import math

import numpy as np
import pytest
import torch
from conftest import ATTRIBUTES
from torch import nn

from clip_model import FashionCLIP
from networks import Student
from utils.training.optimizer import Muon, build_optimizer, orthogonal


@pytest.mark.parametrize("shape", [(40, 40), (12, 90), (90, 12)])
def test_orthogonal(shape):
    """All singular values become about 1, and the singular vectors stay."""
    draw, size = np.random.default_rng(0), min(shape)
    left, right = (np.linalg.qr(draw.normal(size=(side, size)))[0] for side in shape)
    matrix = left * np.geomspace(0.1, 10, size) @ right.T
    matrices = torch.from_numpy(np.stack([0 * matrix, matrix])).float()
    nothing, made = orthogonal(matrices).numpy()
    among = left.T @ made @ right
    assert among.shape == (min(shape),) * 2
    assert among.diagonal().min() > 0.6 and among.diagonal().max() < 1.25
    assert abs(among - np.diag(among.diagonal())).max() < 1e-3
    assert not nothing.any()


def test_which_weights_are_matrices():
    for net in (Student(ATTRIBUTES, True), FashionCLIP(ATTRIBUTES, "random")):
        chosen = {id(weight) for weight in Muon(net, lr=1.0).matrices}
        names = {name for name, weight in net.named_parameters() if id(weight) in chosen}
        others = {name for name, _ in net.named_parameters()} - names
        assert names and all(name.endswith(".weight") for name in names)
        assert not any(
            part in name
            for name in names
            for part in ("heads", "norm", "bias", "token_embedding", "position_embedding", "local_conv")
        )
        if net.role == "student":
            assert {
                "backbone.patch_embed.conv1.conv.weight",
                "backbone.stages.2.blocks.0.mlp.fc1.weight",
            } <= names
        assert len(others) > len(names)


def test_a_step_by_hand():
    torch.manual_seed(0)
    matrices = [
        nn.Conv2d(6, 6, 3, bias=False) for _ in range(2)
    ]  # of one shape: they are made orthogonal at once
    net = nn.Sequential(*matrices, nn.Conv2d(6, 6, 3, groups=6), nn.Flatten(), nn.LayerNorm(6))
    muon = build_optimizer(net, "Muon", lr=0.1, weight_decay=0.5)
    rest = [nn.Parameter(value.detach().clone()) for value in list(net.parameters())[2:]]
    adamw = build_optimizer(nn.ParameterList(rest), "AdamW", lr=0.1, weight_decay=0.5)
    weights, averages = [one.weight.detach().clone() for one in matrices], [0, 0]
    for _ in range(3):
        muon.zero_grad()
        net(torch.randn(4, 6, 7, 7)).square().sum().backward()
        grads = [one.weight.grad.clone() for one in matrices]
        for one, parameter in zip(rest, list(net.parameters())[2:]):
            one.grad = parameter.grad.clone()
        muon.step(), adamw.step()
        for i, grad in enumerate(grads):
            averages[i] = 0.95 * averages[i] + 0.05 * grad
            direction = orthogonal((0.05 * grad + 0.95 * averages[i]).reshape(1, 6, 54)).reshape(6, 6, 3, 3)
            weights[i] = weights[i] * (1 - 0.1 * 0.5) - 0.1 * 0.2 * math.sqrt(54) * direction
            assert torch.allclose(matrices[i].weight, weights[i], atol=1e-5)
        assert all(torch.equal(one, other) for one, other in zip(rest, list(net.parameters())[2:]))


@pytest.mark.parametrize("name, betas", [("Adam", (0.9, 0.98)), ("AdamW", (0.9, 0.999))])
def test_the_betas_of_the_recipe(name, betas):
    optimizer = build_optimizer(nn.Linear(2, 2), name, lr=0.1, weight_decay=0.5)
    assert type(optimizer).__name__ == name and optimizer.defaults["betas"] == betas
