"""What a run says of itself."""

import warnings
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import ATTRIBUTES

from train import parse_args
from utils.base import log
from utils.data.attributes import Attributes
from utils.evaluation.metrics import score_table
from utils.losses import LossOptions
from utils.training import advice, record
from utils.training.state import TrainState, build_state

COUNTS = {"a": [3, 0, 5], "b": [1, 1]}


def row(epoch, attributes):
    return {
        "epoch": epoch,
        "seconds": 61.25,
        "train_loss": 12.5,
        "val_top1": 0.5,
        "val_acsa": 0.25,
        **{f"val_top1_{key}": 0.125 for key in attributes},
    }


@pytest.mark.parametrize(
    "columns, shown",
    [
        ("80", ["daily", "gender", "embellishment"]),
        ("60", ["daily"]),
        ("40", []),
    ],
)
def test_a_line_an_epoch(monkeypatch, capsys, columns, shown):
    monkeypatch.setenv("COLUMNS", columns)
    log.start()
    lines = record.EpochLines(ATTRIBUTES, 10)
    lines.add(row(1, ATTRIBUTES), True)
    lines.add(row(10, ATTRIBUTES), False)
    log.stop()
    heading, first, left, last = capsys.readouterr().out.splitlines()
    assert heading.split() == ["epoch", "loss", "Top-1", "ACSA", *shown, "seconds"]
    assert first.split() == ["1/10", "12.500", "0.500", "0.250", *["0.125"] * len(shown), "61.2", "best"]
    assert left == "about 9 min to go"
    assert last.split() == ["10/10", *first.split()[1:-1]] and len(last) == len(heading)
    assert len(first) <= max(int(columns), 46)


def test_classes_without_photos_are_named():
    names = {"a": ("coat", "cape", "hat"), "b": ("yes", "no"), "c": ("x", "y")}
    content = {key: {"classes": {name: {} for name in its}} for key, its in names.items()}
    attributes = Attributes({"attributes": content}, "here")
    counts = {"train": {**COUNTS, "c": [0, 0]}, "val": {"a": [1, 1, 0], "b": [0, 0], "c": [4, 1]}}
    tables = {"train": SimpleNamespace(labels=dict.fromkeys(names, np.array([0])))}
    args = parse_args(["--version", "a", "--device", "cpu"])
    said = advice.before(args, LossOptions(), tables, attributes, counts, torch.device("cpu"))
    assert [line.rpartition(": ")[0] for line in said] == [
        "a: no training photo of cape",
        "c: no label in training",
        "a: no validation photo of hat",
        "b: no label in validation",
    ]


def test_the_majority_stands_beside_the_scores():
    top1, acsa, majorities = {"a": 0.125, "b": 0.125}, {"a": 0.5, "b": 0.75}, {"a": 0.625, "b": None}
    table = score_table("best: epoch 1", {"Top-1": top1, "ACSA": acsa, "majority": majorities})
    assert [line.split()[-3:] for line in table] == [
        ["Top-1", "ACSA", "majority"],
        ["0.1250", "0.5000", "0.6250"],
        ["0.1250", "0.7500", "-"],
        ["0.1250", "0.6250", "0.6250"],
    ]


def test_options_that_are_told():
    args = parse_args("--version a --lr 1e-4 --views epochs --epochs 3".split())
    assert args.told() == {"--version": "a", "--lr": 1e-4, "--views": 3, "--epochs": 3}


def test_a_schedule_after_a_resume_does_not_warn():
    """Behind the last step of epoch 1, of an optimizer that has made none yet."""
    net = torch.nn.Linear(2, 2)
    net.attributes = ATTRIBUTES
    args = parse_args("--version a --scheduler --epochs 3 --decay-epoch 3 --warmup-epoch 1".split())
    state = build_state(args, net, 10)
    assert isinstance(state, TrainState)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        state.finish_epoch()
    assert state.epoch == 2
