"""Averaged weights, a schedule by the step, and the score that best.pt follows."""

import os

import pytest
import torch
from conftest import rows, same

from networks import load_network
from utils.nets import checkpoint
from utils.scheduler import learning_rate
from utils.training import engine
from utils.training.state import TrainState

STUDENT = "--kd-learning True --distillation-type none --optimizer AdamW".split()
SMALL = [*STUDENT]


@pytest.fixture
def steps(monkeypatch):
    """(Learning rate, weights) of each step of a run."""
    real, taken = TrainState.finish_step, []

    def finish_step(self):
        for module in self.net.modules():
            if hasattr(module, "attention_biases"):  # far from what they were, as after many steps
                module.attention_biases.data.normal_()
        weights = {name: value.clone() for name, value in self.net.state_dict().items()}
        taken.append((self.optimizer.param_groups[0]["lr"], weights))
        real(self)

    monkeypatch.setattr(TrainState, "finish_step", finish_step)
    return taken


@pytest.mark.cuda
@pytest.mark.parametrize("by", ["step", "epoch"])
def test_rates(train, steps, by):
    """Two steps an epoch, a cycle of two epochs; the second cycle has half the peak."""
    schedule = (
        "--scheduler --lr 0.01 --min-lr 0.001 --warmup-epoch 1 --decay-epoch 2 --cos-gamma 0.5 --epochs 3"
    )
    train("--version", "a", *SMALL, *schedule.split(), "--schedule-by", by)
    times = [0, 0.5, 1, 1.5, 2, 2.5] if by == "step" else [0, 0, 1, 1, 2, 2]
    cycle = {"base": 0.001, "eta_max": 0.01, "T_0": 2, "T_up": 1, "gamma": 0.5}
    assert [rate for rate, _ in steps] == pytest.approx([learning_rate(time, **cycle) for time in times])
    by_hand = (
        [0.001, 0.0055, 0.01, 0.0055, 0.001, 0.003]
        if by == "step"
        else [0.001] * 2 + [0.01] * 2 + [0.001] * 2
    )
    assert [rate for rate, _ in steps] == pytest.approx(by_hand)


def test_the_average_is_validated_and_kept(train, steps, monkeypatch):
    """The first step's weights, then of each next one 1 - min(D, 1 - step^(-2/3)) is mixed in."""
    validated, real = [], engine.predict

    def predict(net, images, *rest, **more):
        logits = real(net, images, *rest, **more)
        validated.append((images, logits))
        return logits

    monkeypatch.setattr(engine, "predict", predict)
    train("--version", "a", *STUDENT, "--lr", "0.05", "--ema", "0.5")
    average = {}
    for step, (_, weights) in enumerate(steps, 1):
        decay = min(0.5, 1 - step ** (-2 / 3))
        for name, value in weights.items():
            mixed = average.get(name, value) * decay + value * (1 - decay)
            average[name] = mixed if value.is_floating_point() else value
        if step % 2 == 0:
            saved = checkpoint.read_file(f"model/a/model_{step // 2}.pt")["model"]
            assert saved.keys() == average.keys()
            for name, value in average.items():
                assert torch.allclose(saved[name], value, rtol=1e-4, atol=1e-6), (step, name)
    assert not same(saved, steps[-1][1])
    last = checkpoint.read_file("model/a/last.pt")
    assert same(last["model"], steps[-1][1]) and same(last["progress"]["average"], saved)
    assert last["progress"]["step"] == 4

    assert len(validated) == 2
    for epoch, (images, logits) in enumerate(validated, 1):
        fresh, _ = load_network(f"model/a/model_{epoch}.pt")
        with torch.no_grad():
            expected = fresh(next(images.fetch([torch.arange(len(images))])))
        for key, values in expected.items():
            assert torch.allclose(values, logits[key], rtol=1e-3, atol=1e-4), (
                "not what was saved is validated"
            )


def test_which_score_best_follows(train, monkeypatch):
    real, epochs = engine.validate, []

    def validate(*args):
        first = len(epochs) % 3 == 0
        epochs.append(first)
        return {**real(*args), "mean_top1": 0.9 if first else 0.1, "mean_acsa": 0.1 if first else 0.9}

    monkeypatch.setattr(engine, "validate", validate)
    for best, epoch in (("top1", 1), ("acsa", 2)):
        train("--version", best, *SMALL, "--best", best, "--keep", "1", "--epochs", "3")
        assert os.readlink(f"model/{best}/best.pt") == f"model_{epoch}.pt"
        assert sorted(os.listdir(f"model/{best}"))[2:] == [f"model_{epoch}.pt", "model_3.pt"]
        assert [row["val_acsa"] for row in rows(best)] == ["0.1", "0.9", "0.9"]
