"""One command for all: what is run, what is not run again, and what is said at the start."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import SHORT, script_options, write_own

import evaluate
import export
from utils.base.cli import exit_code
from utils.base.errors import UserError
from utils.tools import demo
from utils.tools import pipeline as everything

ROOT = Path(__file__).parents[2]
RUNTIME = dict.fromkeys(demo.RUNTIME, b"")
OUTPUTS = {"train": "best.pt", "evaluate": "best_val", "export": "shop.onnx", "page": "page"}


@pytest.fixture
def own(place, photos, monkeypatch):
    """The options of an own data set; npm is there."""
    monkeypatch.setattr(demo, "fetch_runtime", lambda: RUNTIME)
    path = write_own(place / "own", photos, {"kind": 3, "colour": 2})
    return ["--version", "shop", "--attributes", str(path), "--data-dir", str(path.parent), "--kd-learning"]


@pytest.fixture
def steps(own, monkeypatch):
    """Runs the command with steps that only leave a file; returns their names with their options."""
    begun = []

    def step(words):
        name, words = words[0].replace(demo.__name__, "page"), words[1:]
        begun.append((name, words))
        output = Path("model/shop", OUTPUTS[name])
        if name == "train" and "1" not in words[words.index("--folds") :][1:2]:
            output = Path("model/shop-fold-2/best.pt")
        output.parent.mkdir(parents=True, exist_ok=True)
        output.write_text(" ".join(words))

    monkeypatch.setattr(everything, "run", step)

    def run(*options):
        begun.clear()
        everything.main([*own, *options])
        return dict(begun)

    return run


def test_each_step_has_the_options_that_it_knows(steps, own):
    said = steps("--skip-unreadable", "--device", "cpu", "--epochs", "7")
    assert list(said) == ["train", "evaluate", "export", "page"]
    data = ["--data-dir", own[5], "--skip-unreadable", "True", "--device", "cpu"]
    best = "model/shop/best.pt"
    assert said["train"] == [
        *own,
        *"--skip-unreadable --device cpu --epochs 7 --resume True --folds 1".split(),
    ]
    assert said["evaluate"][:2] == ["--checkpoint", best] and said["evaluate"][4:] == data
    assert said["export"] == [
        "--checkpoint",
        best,
        "--output",
        "model/shop/shop.onnx",
        "--max-mb",
        "1000",
        *data,
    ]
    assert said["page"] == ["model/shop/shop.onnx", "--output", "model/shop/page"]
    assert steps()["page"][3:] == ["--samples", f"{own[5]}/shots"], "not where some cannot be read"
    for module, name in ((evaluate, "evaluate"), (export, "export")):
        assert module.get_args_parser().parse_args(said[name]).data_dir == own[5]


def test_what_is_done_is_not_done_again(steps, own, capsys):
    assert len(steps()) == 4 and capsys.readouterr().out.count("done before") == 0
    assert list(steps()) == ["train"], "which says itself that a run is finished"
    assert capsys.readouterr().out.count("done before") == 3
    again = ["train", "evaluate", "export"]
    assert list(steps("--cache-dir", "elsewhere")) == again, "another best.pt, but the same .onnx"
    os.remove("model/shop/shop.onnx")
    assert list(steps("--cache-dir", "elsewhere")) == ["train", "export"]
    assert list(steps("--cache-dir", "elsewhere", "--folds", "2")) == ["train"]
    table = Path(own[5], "shop.csv")
    table.write_text(table.read_text() + "\n")
    with pytest.raises(UserError, match=r"shop\.csv as it was before; --overwrite True trains anew"):
        steps("--cache-dir", "elsewhere")
    assert len(steps("--overwrite")) == 4
    assert "--resume" not in steps("--overwrite")["train"]


def test_scores_are_of_the_table_that_is_held_out(steps, own):
    """Where it is one of its own: when it has changed, scores and thresholds are measured again, of the same network."""
    path, held_out = Path(own[3]), Path(own[5], "held.csv")
    content = json.loads(path.read_text())
    path.write_text(json.dumps({**content, "val": {"table": held_out.name, "photos": "shots"}}))
    held_out.write_text(Path(own[5], "shop.csv").read_text())
    assert len(steps()) == 4 and list(steps()) == ["train"]
    held_out.write_text(held_out.read_text() + "\n")
    assert list(steps()) == ["train", "evaluate", "export"]


def test_a_step_that_fails_is_the_last(steps, own, monkeypatch, capsys):
    step = everything.run

    def fail(words):
        if words[0] == "export":
            raise SystemExit(2)
        step(words)

    with monkeypatch.context() as patch:
        patch.setattr(everything, "run", fail)
        with pytest.raises(SystemExit, match=r"^2$"):
            steps()
    assert "=== 4" not in capsys.readouterr().out
    assert list(steps()) == ["train", "export", "page"]


def test_a_step_is_a_program_of_its_own(place, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(place))
    Path("ends.py").write_text("import sys; sys.exit(int(sys.argv[1]))")
    everything.run(["ends", "0"])
    with pytest.raises(SystemExit, match=r"^6$"):
        everything.run(["ends", "6"])


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_step_that_is_stopped(place, number):
    """It ends in its own way and time, and its exit code is that of the whole: a terminal's SIGINT reaches both, SIGTERM one."""
    Path("saves.py").write_text(
        "import signal, sys, time\n"
        "def stop(number, _):\n    time.sleep(1)\n    print('saved', flush=True)\n    sys.exit(128 + number)\n"
        "signal.signal(signal.SIGINT, stop)\nsignal.signal(signal.SIGTERM, stop)\n"
        "print('begun', flush=True)\ntime.sleep(60)\n"
    )
    code = "from utils.tools.pipeline import run; run(['saves']); print('next')"
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{place}"}
    about = {"stdout": subprocess.PIPE, "env": environment, "start_new_session": True}
    with subprocess.Popen([sys.executable, "-c", code], **about) as program:
        assert program.stdout.readline() == b"begun\n"
        (os.killpg if number == signal.SIGINT else os.kill)(program.pid, number)
        assert program.communicate(timeout=30)[0] == b"saved\n" and program.returncode == 128 + number


def test_without_npm(steps, monkeypatch, capsys):
    """It is said before anything begins, and at the end; nothing of npm is needed for a page that is there."""

    def fail():
        raise UserError("npm cannot fetch it; install npm")

    with monkeypatch.context() as patch:
        patch.setattr(demo, "fetch_runtime", fail)
        assert list(steps()) == ["train", "evaluate", "export"]
        said = capsys.readouterr().out
        assert said.startswith("warning: there will be no page: npm cannot fetch it; install npm\n")
        assert "in a browser          not made: npm cannot fetch it; install npm\n" in said
        monkeypatch.setattr(demo, "fetch_runtime", lambda: RUNTIME)
    assert list(steps()) == ["train", "page"]


def test_wrong_options_are_said_at_once(own, capsys):
    assert exit_code(lambda: everything.main([*own, "--epoch", "3"])) == 2
    assert "did you mean --epochs?" in capsys.readouterr().err and not os.path.exists("model")


def test_train_sh_gives_it_the_recipe(tmp_path):
    assert script_options(tmp_path, ["all", "--lr", "1"]) == script_options(tmp_path, ["own", "--lr", "1"])


@pytest.mark.thorough
def test_all_of_it(own, monkeypatch, capsys):
    """Twice: the second time nothing is computed."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    step = everything.run

    def run(words):  # the page in this process, in which npm is there
        demo.main(words[1:]) if words[0] == demo.__name__ else step(words)

    monkeypatch.setattr(everything, "run", run)
    for number in range(2):
        everything.main([*SHORT, *own, "--folds", "2"])
        said = capsys.readouterr().out
        assert said.count("done before") == (0, 3)[number]
        assert "=== 5 of 5: folds" in said and "python predict.py --fill" in said
    figures = json.loads(Path("model/shop/best_val/evaluation.json").read_text())
    assert figures["checkpoint"] == "model/shop/best.pt" and os.path.exists("model/shop-fold-2/best.pt")
    assert Path("model/shop/page/student.onnx").read_bytes() == Path("model/shop/shop.onnx").read_bytes()
