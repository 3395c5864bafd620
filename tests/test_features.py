"""--feature-alpha: the student's features learn the teacher's embedding."""

import numpy as np
import pytest
import torch
from conftest import ATTRIBUTES, assert_same_run

import networks
from clip_model import EMBEDDING
from utils.errors import Interrupted
from utils.losses import DistillationLoss
from utils.state import TrainState

LEARNS = "--kd-learning True --teacher zero-shot --distillation-type soft --feature-alpha 2".split()


def test_the_loss_by_hand():
    torch.manual_seed(0)
    sizes, weight = {"a": 3, "b": 2}, 1.5
    labels = {"a": torch.tensor([0, 2, 1, 0]), "b": torch.tensor([1, 1, 0, 0])}
    heads = [{key: torch.randn(4, size) for key, size in sizes.items()} for _ in range(3)]
    features, embedding = torch.randn(4, 5), torch.randn(4, 5).half()
    loss = DistillationLoss("soft", alpha=0.3, tau=2.0)
    plain = loss(tuple(heads[:2]), heads[2], labels)
    loss.feature_alpha = weight
    learned = loss((*heads[:2], features), {**heads[2], EMBEDDING: embedding}, labels)
    a, b = features.numpy(), embedding.float().numpy()
    cosines = (a * b).sum(axis=1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)
    expected = sum(plain.values()) + weight * (1 - cosines.mean())
    assert sum(learned.values()).item() == pytest.approx(expected.item(), abs=1e-5)


def test_nothing_of_it_is_left_in_the_checkpoint(train):
    train("--version", "a", *LEARNS)
    train("--version", "b", *LEARNS[:-2])
    a, b = (torch.load(f"model/{version}/model_2.pt")["model"] for version in "ab")
    assert {name: one.shape for name, one in a.items()} == {name: one.shape for name, one in b.items()}
    changed = [name for name in a if "backbone" in name and not torch.equal(a[name], b[name])]
    assert changed, "the embedding teaches nothing"
    progress = torch.load("model/a/last.pt")["progress"]
    embedding = progress["teacher_logits"][EMBEDDING].float()
    assert progress["projection"]["weight"].shape == (embedding.shape[1], 320)
    assert embedding.mean(dim=0).abs().max() < 1e-3
    assert embedding.std(dim=0, unbiased=False) == pytest.approx(torch.ones(embedding.shape[1]), abs=1e-2)


def test_a_resumed_run_is_the_same(train, monkeypatch):
    options = [*LEARNS, "--views", "2", "--ema", "0.9", "--optimizer", "AdamW"]
    train("--version", "whole", *options)
    finish = TrainState.finish_step

    def stopped(self):
        finish(self)
        if self.step == 3:
            self.signals.received = 15

    monkeypatch.setattr(TrainState, "finish_step", stopped)
    with pytest.raises(Interrupted):
        train("--version", "cut", *options)
    monkeypatch.setattr(TrainState, "finish_step", finish)
    train("--version", "cut", *options, "--resume", "True")
    assert_same_run("cut", "whole", 2)


@pytest.mark.parametrize(
    "options",
    [
        "--feature-alpha 1",
        "--feature-alpha 1 --kd-learning True --distillation-type none",
        "--feature-alpha 1 --kd-learning True --teacher-logits taught.npz",
    ],
)
def test_it_needs_a_teacher_that_is_asked(fails, options):
    assert "--feature-alpha needs a teacher" in fails("--version", "a", *options.split())


def test_the_embedding_of_a_student_is_its_features():
    net = networks.Student(ATTRIBUTES).eval()
    pixels = torch.randint(0, 255, (2, 3, 224, 224), dtype=torch.uint8)
    with torch.no_grad():
        said = net.inference(embedding=True)(pixels)
        assert torch.equal(said[EMBEDDING], net.backbone(net.normalize(pixels)))
        assert torch.equal(said["daily"], net(pixels)["daily"])
