"""What is the same for all commands: Ctrl-C, and photos that cannot be read."""

import shutil
from pathlib import Path

import pytest
from conftest import SHORT

import evaluate
import export
import predict
import train
from utils.base import log
from utils.base.cli import exit_code
from utils.evaluation.inference import Classifier

COMMANDS = {
    "train": (train, ["--version", "a", "--data-dir", "data", "--epochs", "1", *SHORT[2:]]),
    "evaluate": (evaluate, "--checkpoint student.pt --data-dir data --output out".split()),
    "export": (export, "--checkpoint student.pt --data-dir data --output out.pt --format pt".split()),
    "predict": (predict, "--checkpoint student.pt --output out.csv data/val".split()),
}


@pytest.fixture
def run(place, work, no_pictures):
    """Exit code of a command of the table, beside the work's data and student."""
    shutil.copytree(work / "data", "data")
    shutil.copy(work / "student.pt", ".")

    def run(name, *more):
        command, options = COMMANDS[name]
        code = exit_code(lambda: command.main([*options, *more]))
        log.stop()
        return code

    return run


def written():
    """The files that are there, but for the cache's and those of `run`."""
    files = (path for path in Path(".").rglob("*") if path.is_file() or path.is_symlink())
    return [str(path) for path in files if path.parts[0] not in ("cache", "data", "student.pt")]


@pytest.mark.parametrize("name", ["evaluate", "export", "predict"])
def test_ctrl_c_is_one_line_and_no_file(run, monkeypatch, capsys, name):
    def stopped(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(Classifier, "__call__", stopped)
    assert run(name) == 130
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error == "SIGINT: stopped; no file is half written"
    assert written() == []


@pytest.mark.parametrize("name", COMMANDS)
def test_photos_that_cannot_be_read(run, capsys, name):
    """All but predict.py write nothing, unless they are to leave them out."""
    broken = [sorted(Path("data", part).rglob("*.*g"))[0] for part in ("train", "val")]
    for path in broken:
        path.write_bytes(b"no photo")
    if name == "predict":
        assert run(name) == 6 and written() == ["out.csv"]
        assert str(broken[1]) in capsys.readouterr().err
        return
    assert run(name) == 2 and written() == []
    error = capsys.readouterr().err
    assert "cannot be read" in error and "--skip-unreadable" in error and broken[1].name in error
    assert run(name, "--skip-unreadable") == 0 and written() != []
