"""The whole main() on 16 drawn photos, and what it leaves behind."""

import csv
import json
import os
import platform
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from conftest import ATTRIBUTES, assert_same_run, same

from clip_model import FashionCLIP
from networks import load_network
from utils.base import hardware
from utils.base.cli import exit_code
from utils.losses import class_weights
from utils.nets import checkpoint
from utils.tools.sample import make_sample
from utils.training.record import columns

ROOT = Path(__file__).parents[1]
STUDENT = "--kd-learning True --optimizer AdamW --lr 1e-3 --scheduler True --warmup-epoch 1".split()


def rows(version):
    with open(f"logs/{version}/metrics.csv", newline="") as file:
        return list(csv.DictReader(file))


def weights(path):
    return torch.load(path, map_location="cpu")["model"]


@pytest.mark.cuda
def test_teacher_then_students(train, photos, capsys):
    train("--version", "teacher", "--loss-weight")
    out = capsys.readouterr()
    log = Path("logs/teacher/teacher_training.log").read_text(encoding="utf-8")
    for line in (
        "training the teacher",
        "photos: 16 for training, 8 for validation",
        "log: logs/teacher/teacher_training.log",
        "epoch    loss   Top-1    ACSA   daily  gender  embellishment  seconds",
        "  best",
        "majority",
    ):
        assert line in log and line in out.out
    for line in (
        "options: --version teacher  --epochs 2  ",
        "--loss-weight True",
        "command: train.py --epochs 2 ",
        "python 3.",
        "epoch 2/2  step 2/2",
        "D train, gender: mannish ",
        "daily: rows are labels",
    ):
        assert line in log and line not in out.out
    assert [line.split()[0] for line in out.out.splitlines() if line.startswith("  ")] == ["1/2", "2/2"]
    assert "\x1b" not in log + out.out + out.err
    assert "warning: --clip-model random" in log and "warning: --clip-model random" in out.err
    assert log.count("rows are labels") == 2 * len(ATTRIBUTES)
    assert "best.pt" in log

    table = rows("teacher")
    assert list(table[0]) == columns(ATTRIBUTES) and [row["epoch"] for row in table] == ["1", "2"]
    for row in table:
        parts = [float(row[f"train_loss_{key}"]) for key in ATTRIBUTES]
        assert float(row["train_loss"]) == pytest.approx(sum(parts))
        mean = sum(float(row[f"val_top1_{key}"]) for key in ATTRIBUTES) / len(ATTRIBUTES)
        assert float(row["val_top1"]) == pytest.approx(mean)
    assert float(table[1]["train_loss"]) < float(table[0]["train_loss"])
    options = json.loads(Path("logs/teacher/args.json").read_text())
    assert options["version"] == "teacher" and options["loss_weight"] is True
    best = max(table, key=lambda row: float(row["val_top1"]))["epoch"]
    assert os.readlink("model/teacher/best.pt") == f"model_{best}.pt"

    net, meta = load_network("model/teacher/model_2.pt")  # neither hub nor --clip-model
    with open("logs/teacher/classes.csv", newline="", encoding="utf-8") as file:
        classes = list(csv.DictReader(file))
    assert list(classes[0]) == ["attribute", "class", "train", "val"]
    for key, attribute in ATTRIBUTES.items():
        its = [row for row in classes if row["attribute"] == key]
        assert [row["class"] for row in its] == list(attribute.classes)
        assert [int(row["train"]) for row in its] == meta["class_counts"][key]
        assert sum(meta["class_counts"][key]) == 16 and sum(int(row["val"]) for row in its) == 8
    assert meta["role"] == "teacher" and meta["epoch"] == 2 and meta["precision"] == "fp32"
    assert isinstance(net, FashionCLIP) and net.attributes == ATTRIBUTES

    soft = [
        *STUDENT,
        "--teacher",
        "teacher/model_2.pt",
        "--distillation-type",
        "soft",
        "--distillation-tau",
        "4",
    ]
    soft[soft.index("--kd-learning") + 1] = "yes"
    train("--version", "soft", *soft, "--clip-model", "no/such-model")
    assert "teacher's logits: computed for 16 images" in Path("logs/soft/soft_training.log").read_text()
    train("--version", "soft2", *soft)
    assert "teacher's logits: read from" in Path("logs/soft2/soft2_training.log").read_text()
    first, second = weights("model/soft/model_2.pt"), weights("model/soft2/model_2.pt")
    assert all(torch.equal(first[name], second[name]) for name in first), "same seed, other numbers"
    assert [row["lr"] for row in rows("soft")] == ["1e-06", "0.001"]
    assert os.path.getsize("model/soft/model_2.pt") < 25e6
    assert load_network("model/soft/best.pt")[0].attributes == ATTRIBUTES


@pytest.mark.parametrize("kind", ["hard", "none"])
def test_other_students(train, kind):
    train("--version", kind, *STUDENT, "--teacher", "zero-shot", "--distillation-type", kind, "--epochs", "1")
    names = weights(f"model/{kind}/model_1.pt")
    assert any("distillation_heads" in name for name in names) == (kind == "hard")
    assert len(rows(kind)) == 1


def test_a_version_is_not_overwritten_unasked(train, fails):
    train("--version", "a", "--epochs", "2")
    Path("model/a/notes.txt").write_text("mine")
    before = Path("model/a/model_2.pt").stat()
    message = fails("--version", "a", "--epochs", "1")
    assert all(part in message for part in ("model/a", "--overwrite True", "--resume True"))
    fails("--version", "a", "--epochs", "1", "--overwrite", "True", data_dir="nowhere")
    student = "--kd-learning --distillation-type none --student-weights nan.pth"
    state = timm.create_model("test_efficientnet").state_dict()
    next(iter(state.values())).fill_(float("nan"))
    torch.save(state, "nan.pth")
    assert "name others with --student-weights" in fails(
        "--version", "a", *student.split(), "--overwrite", "True"
    )
    assert Path("model/a/model_2.pt").stat() == before, "a run that could not start removed an earlier one"
    train("--version", "a", "--epochs", "1", "--overwrite", "True")
    assert sorted(os.listdir("model/a")) == ["best.pt", "last.pt", "model_1.pt", "notes.txt"]
    assert len(rows("a")) == 1


@pytest.mark.cuda
def test_a_loss_that_is_not_finite_stops_the_run(fails, monkeypatch):
    real = FashionCLIP.forward
    calls = []

    def third_is_broken(self, *args, **kwargs):
        calls.append(self.training)
        logits = real(self, *args, **kwargs)
        return {**logits, "gender": logits["gender"] * float("nan")} if sum(calls) == 3 else logits

    monkeypatch.setattr(FashionCLIP, "forward", third_is_broken)
    with pytest.raises(AssertionError):  # `fails` finds what epoch 1 had written: that is kept
        fails("--version", "a", "--log-interval", "2", code=3)
    assert sorted(os.listdir("model/a")) == ["best.pt", "last.pt", "model_1.pt"]
    log = Path("logs/a/a_training.log").read_text()
    assert "error: epoch 2, step 1: the loss of gender is nan" in log


def test_weights_that_are_not_finite_are_not_kept(train, monkeypatch, capsys):
    """After the last step of epoch 2, whose loss was finite."""
    real, steps = torch.optim.Adam.step, []

    def step(self, *args):
        real(self, *args)
        steps.append(self)
        if len(steps) == 4:
            with torch.no_grad():
                self.param_groups[0]["params"][0].fill_(float("nan"))

    monkeypatch.setattr(torch.optim.Adam, "step", step)
    assert exit_code(lambda: train("--version", "a")) == 3
    assert "error: epoch 2, step 2: the weights are not finite; try" in capsys.readouterr().err
    assert sorted(os.listdir("model/a")) == ["best.pt", "last.pt", "model_1.pt"]
    assert all(torch.isfinite(v).all() for v in checkpoint.read_file("model/a/last.pt")["model"].values())


@pytest.mark.cuda
def test_clipping(train, monkeypatch):
    clip, step, seen = torch.nn.utils.clip_grad_norm_, torch.optim.Adam.step, []

    def clipped(parameters, most):
        seen.append(most)
        return clip(parameters, most)

    def stepped(self, *args):
        seen.append("step")
        return step(self, *args)

    monkeypatch.setattr(torch.nn.utils, "clip_grad_norm_", clipped)
    monkeypatch.setattr(torch.optim.Adam, "step", stepped)
    train("--version", "plain", "--epochs", "1")
    train("--version", "clipped", "--epochs", "1", "--clipping")
    assert seen == ["step", "step", 5.0, "step", 5.0, "step"]


@pytest.mark.skipif(hardware.TORCH < (2, 0), reason="bf16 needs PyTorch 2")
def test_a_resumed_run_has_the_precision_that_it_began_with(train, monkeypatch):
    """bf16 from beginning to end, though a later measurement says otherwise."""
    make_sample("few", train=2, val=1)  # bf16 is slow on many CPUs

    def run(version, *options):
        train("--version", version, "--precision", "auto", "--device", "cpu", *options, data_dir="few")

    monkeypatch.setattr(hardware, "bf16_speedup", lambda device: 2.0)
    run("whole")
    run("a", "--epochs", "1")
    monkeypatch.setattr(hardware, "bf16_speedup", lambda device: 1.0)
    run("a", "--resume", "True")
    assert_same_run("a", "whole", 2)
    run("fp32")
    last = [checkpoint.read_file(f"model/{name}/last.pt") for name in ("a", "fp32")]
    assert [one["meta"]["precision"] for one in last] == ["bf16", "fp32"]
    assert not same(*(one["model"] for one in last))


def test_reproducible_before_anything_is_computed(train, monkeypatch):
    """cuBLAS reads its setting once: the probe of the precision must not come before it."""
    seen = []
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    monkeypatch.setattr(hardware, "TORCH", (2, 0))  # older ones do not measure

    def probe(device):
        seen.append((os.environ.get("CUBLAS_WORKSPACE_CONFIG"), torch.are_deterministic_algorithms_enabled()))
        return 1.0

    monkeypatch.setattr(hardware, "bf16_speedup", probe)
    torch.use_deterministic_algorithms(False)
    train("--version", "a", "--epochs", "1", "--precision", "auto", "--device", "cpu")
    assert seen == [(":4096:8", True)]


def test_auto_takes_bf16_where_it_is_faster(monkeypatch):
    monkeypatch.setattr(hardware, "TORCH", (2, 0))
    found = []
    for speedup in (1.29, 1.3):
        monkeypatch.setattr(hardware, "bf16_speedup", lambda device, speedup=speedup: speedup)
        found.append(hardware.choose_precision("auto", torch.device("cpu")).name)
    assert found == ["fp32", "bf16"]
    assert hardware.choose_precision("auto", torch.device("cuda")).name == "fp32"


def test_the_header_names_the_packages_that_are_imported(train):
    train("--version", "a", "--epochs", "1", "--device", "cpu")
    said = Path("logs/a/a_training.log").read_text()
    assert f"  timm {timm.__version__}  " in said and f"  torch {torch.__version__}  " in said
    assert f" python {platform.python_version()}  " in said and "  PIL " in said
    assert f"I device: cpu, {platform.machine()}, " in said


def test_class_weights_are_indexed_by_class():
    labels = {key: np.array([0, 0, 0, 1]) for key in ATTRIBUTES}
    for key, attribute in ATTRIBUTES.items():
        assert class_weights(labels, ATTRIBUTES.sizes)[key].tolist() == [0.25, 0.75] + [1.0] * (
            len(attribute.classes) - 2
        )


def test_help_is_instant_and_complete():
    code = "import sys, train; train.parse_args(['--version', 'a']); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0
    shown = subprocess.run(
        [sys.executable, "train.py", "--help"], cwd=ROOT, stdout=subprocess.PIPE, check=True
    )
    text = shown.stdout.decode()
    for option in ("--version", "--distillation-tau", "--cache-dir", "--student-weights", "--clipping"):
        assert option in text
    assert text.count("(default") >= 28


def test_a_forward_pass_finds_no_gradients(train, monkeypatch):
    """They would lie between the activations, and memory would not be found in one piece."""
    forward, kept = FashionCLIP.forward, []

    def spied(self, *given):
        kept.append(sum(weight.grad is not None for weight in self.parameters()))
        return forward(self, *given)

    monkeypatch.setattr(FashionCLIP, "forward", spied)
    train("--version", "teacher")
    assert len(kept) > 4 and not any(kept)
