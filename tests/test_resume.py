"""A run that is stopped anywhere, and goes on to the same numbers."""

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import assert_same_run, rows

from utils.cli import exit_code
from utils.run import Run
from utils.state import TrainState

ROOT = Path(__file__).parents[1]
STUDENT = (
    "--kd-learning True --teacher zero-shot --distillation-type soft --optimizer AdamW --lr 1e-3 --scheduler True "
    "--warmup-epoch 1 --clipping True"
).split()
OFTEN = ["--save-every-minutes", "1e-9"]  # before every step and every batch of validation


class Killed(BaseException):
    """Stands for SIGKILL, which tests/faults sends; here the moment is chosen."""


def kill_at(monkeypatch, owner, name, call, before=True):
    """Ends the process, as it were, at the call-th call of a function; returns what takes it back."""
    real, calls = getattr(owner, name), []

    def dies(*args, **kwargs):
        calls.append(name)
        if len(calls) == call and before:
            raise Killed
        result = real(*args, **kwargs)
        if len(calls) == call:
            raise Killed
        return result

    monkeypatch.setattr(owner, name, dies)
    return lambda: monkeypatch.setattr(owner, name, real)


# Two epochs of two steps, and a batch of validation each.
MOMENTS = {
    "before the first last.pt": (TrainState, "load_or_begin", 1, True),
    "in epoch 1": (TrainState, "poll", 2, True),
    "in validation": (TrainState, "poll", 3, True),
    "between checkpoint and row": (Run, "_write_rows", 3, True),
    "between row and last.pt": (Run, "finish_epoch", 2, False),
    "after epoch 1": (TrainState, "finish_epoch", 1, False),
    "in epoch 2": (TrainState, "poll", 5, False),
}


@pytest.mark.parametrize("role", ["teacher", "student"])
def test_killed_and_resumed(train, role, monkeypatch, tmp_path):
    options = [*OFTEN, *(STUDENT if role == "student" else ["--loss-weight"])]
    train("--version", "whole", *options)
    moments = MOMENTS if role == "teacher" else {"in epoch 2": MOMENTS["in epoch 2"]}
    for moment, where in moments.items():
        revive = kill_at(monkeypatch, *where)
        with pytest.raises(Killed):
            train("--version", "killed", *options)
        revive()
        train("--version", "killed", *options, "--resume", "True")
        assert_same_run("killed", "whole", 2)
        log = Path("logs/killed/killed_training.log").read_text()
        begins = moment == "before the first last.pt"
        assert ("there is no model/killed/last.pt yet, the run begins" in log) == begins
        assert ("resumed from model/killed/last.pt" in log) != begins
        assert log.count("training the ") == 2, "the log was begun anew"
        shutil.rmtree("model/killed"), shutil.rmtree("logs/killed")


def test_killed_before_any_file_takes_its_place(train, monkeypatch):
    renames, real = [], os.replace
    monkeypatch.setattr(os, "replace", lambda a, b: (renames.append(os.path.basename(b)), real(a, b)))
    train("--version", "whole", "--epochs", "1")
    monkeypatch.setattr(os, "replace", real)
    assert {"args.json", "metrics.csv", "last.pt", "model_1.pt", "best.pt", "curves.png"} <= set(renames)
    first = next(
        i for i, name in enumerate(renames) if name == "args.json"
    )  # the pixels are there from now on
    for call in range(1, len(renames) - first + 1):
        revive = kill_at(monkeypatch, os, "replace", call)
        with pytest.raises(Killed):
            train("--version", "killed", "--epochs", "1")
        revive()
        train("--version", "killed", "--epochs", "1", "--resume", "True")
        assert_same_run("killed", "whole", 1)
        assert sorted(os.listdir("model/killed")) == ["best.pt", "last.pt", "model_1.pt"]
        shutil.rmtree("model/killed"), shutil.rmtree("logs/killed")


def test_the_teacher_and_the_prompts_are_those_of_the_beginning(train, monkeypatch):
    train("--version", "t", "--epochs", "1")
    options = [*OFTEN, *STUDENT, "--teacher", "t/model_1.pt"]
    train("--version", "whole", *options)
    revive = kill_at(monkeypatch, TrainState, "poll", 2, False)
    with pytest.raises(Killed):
        train("--version", "killed", *options)
    revive()
    os.remove("model/t/model_1.pt")
    train("--version", "killed", *options, "--resume", "True")
    assert_same_run("killed", "whole", 2)


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM"])
def test_a_signal_saves_and_ends_the_run(train, monkeypatch, name, capfd):
    train("--version", "whole")
    number, handlers = signal.Signals[name], [signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)]
    real, steps = TrainState.poll, []

    def poll(self):
        steps.append(len(self.losses))
        if len(steps) == 2:
            os.kill(os.getpid(), number)
        real(self)

    monkeypatch.setattr(TrainState, "poll", poll)
    assert exit_code(lambda: train("--version", "a")) == 128 + number
    monkeypatch.setattr(TrainState, "poll", real)
    assert [signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)] == handlers
    said = (
        f"{name}: stopped in epoch 1, after step 1; all is saved in model/a/last.pt, go on with --resume True"
    )
    err = capfd.readouterr().err
    assert f"{name}: this step is finished and saved; once more, and it ends at once" in err
    assert err.strip().endswith(said) and "Traceback" not in err
    assert said in Path("logs/a/a_training.log").read_text()
    train("--version", "a", "--resume", "True")
    assert_same_run("a", "whole", 2)


def test_a_signal_before_training(train, monkeypatch, capsys):
    from utils import photos

    once = [os.kill]
    monkeypatch.setattr(photos, "read_rgb", lambda *_: once and once.pop()(os.getpid(), signal.SIGTERM))
    assert exit_code(lambda: train("--version", "a")) == 143
    assert (
        capsys.readouterr().err.strip().splitlines()[-1].startswith("SIGTERM: stopped before training began")
    )
    assert not os.path.exists("model/a") and os.listdir("cache/fashion-attributes/cache") == []


def test_a_second_signal_ends_it_at_once():
    code = (
        "import os, signal; from utils.cli import StopSignals\n"
        "with StopSignals() as signals:\n"
        "    signals.defer()\n"
        "    for _ in range(2): os.kill(os.getpid(), signal.SIGTERM)\n"
        "    print('still there')"
    )
    ended = subprocess.run([sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE)
    assert ended.returncode == -signal.SIGTERM and ended.stdout == b""


def test_finished_and_prolonged(train, capsys):
    train("--version", "whole", "--epochs", "3")
    train("--version", "a")
    before = {path: path.stat().st_mtime_ns for path in Path(".").rglob("*/a/*")}
    capsys.readouterr()
    train("--version", "a", "--resume", "True")
    assert "model/a: all 2 epochs are done, best: epoch" in capsys.readouterr().out
    assert {path: path.stat().st_mtime_ns for path in Path(".").rglob("*/a/*")} == before
    train("--version", "a", "--resume", "True", "--epochs", "3", "--log-interval", "7")
    assert_same_run("a", "whole", 3)
    assert json.loads(Path("logs/a/args.json").read_text())["epochs"] == 3


def test_what_cannot_be_resumed(train, fails, photos, tmp_path):
    train("--version", "a")
    go_on = ["--version", "a", "--epochs", "3", "--resume", "True"]
    message = fails(*go_on, "--lr", "0.5", "--loss-weight")
    assert "--lr is 0.5, was 0.0001" in message and "--loss-weight is True, was False" in message
    assert "--epochs" not in message

    other = tmp_path / "other"
    shutil.copytree(photos, other)
    table = other / "Fashion-How24_sub1_train.csv"
    lines = table.read_text().splitlines()
    table.write_text("\n".join([lines[0], lines[2], lines[1], *lines[3:]]))
    assert "not the data set that the run began with" in fails(*go_on, data_dir=other)

    last = Path("model/a/last.pt").read_bytes()
    shutil.copy("model/a/model_1.pt", "model/a/last.pt")
    assert "model/a/last.pt: holds no state of a run" in fails(*go_on)
    Path("model/a/last.pt").write_bytes(last[: len(last) // 2])
    assert "model/a/last.pt" in fails(*go_on)
    os.remove("model/a/last.pt")
    assert "model/a has checkpoints but no last.pt" in fails(*go_on)


def test_room_is_compared_before_the_run(train, fails, monkeypatch):
    train("--version", "a")
    present = sum(path.stat().st_size for path in Path("model/a").glob("*[0-9t].pt") if not path.is_symlink())
    weights, last = (os.path.getsize(f"model/a/{name}.pt") for name in ("model_1", "last"))
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(0, 0, free))

    free = int(9.5 * weights) + 2 * last  # half a checkpoint too little for a new run of 10 epochs
    message = fails("--version", "b", "--epochs", "10", code=4)
    assert "model/b: 10 checkpoints of 11 MB" in message and "--keep N" in message
    free = free - present
    for replaces in (["--overwrite", "True"], ["--resume", "True"]):
        fails("--version", "a", "--epochs", "10", *replaces, code=4)
    free = int(3.5 * weights) + 2 * last
    train("--version", "b", "--epochs", "10", "--keep", "1")


def test_keep(train):
    train("--version", "a", "--epochs", "4", "--keep", "1")
    best = os.readlink("model/a/best.pt")
    assert set(os.listdir("model/a")) == {"best.pt", "last.pt", best, "model_4.pt"}
    assert len(rows("a")) == 4
