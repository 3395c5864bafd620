"""--fold and --folds: each part of the training table is held out once."""

import json
from pathlib import Path

import pytest
from conftest import SHORT, assert_same_run, write_own

import evaluate
import train as script
from utils.base.cli import exit_code
from utils.data.attributes import read_attributes
from utils.data.dataset import fold_of, read_tables
from utils.nets.checkpoint import read_file

STUDENT = ["--kd-learning", "--epochs", "1"]


@pytest.fixture
def own(place, photos):
    """The options of an own data set, whose val is a table of its own that is not there."""
    path = write_own(place / "own", photos, {"kind": 3, "colour": 2})
    content = json.loads(path.read_text())
    path.write_text(json.dumps({**content, "val": {"table": "none.csv", "photos": "none"}}))
    return ["--attributes", str(path), "--data-dir", str(path.parent), *STUDENT]


def test_folds_are_versions_of_their_own(train, own, no_pictures, capsys):
    """Each as by --fold alone; a finished one is not trained again, and an interrupted one goes on."""
    train("--version", "alone", "--fold", "2/2", *own)
    train("--version", "shop", "--folds", "2", *own)
    said = capsys.readouterr().out
    assert "fold 1 of 2: shop-fold-1" in said and "fold 2 of 2: shop-fold-2" in said
    assert_same_run("shop-fold-2", "alone", 1)
    train("--version", "shop", "--folds", "2", *own)
    assert capsys.readouterr().out.count("epochs are done") == 2

    path = own[1]
    table = read_tables(own[3], read_attributes(path).of_fold("1/2"))
    for number in (1, 2):
        meta = read_file(f"model/shop-fold-{number}/best.pt")["meta"]
        assert meta["attributes"]["val"] == 0.5 and meta["attributes"]["fold"] == number
        assert meta["options"]["fold"] == f"{number}/2" and "folds" not in meta["options"]
        its = table["val" if number == 1 else "train"]
        assert set(fold_of(its.groups, 2)) == {number}
        evaluate.main(["--checkpoint", f"model/shop-fold-{number}/best.pt", "--data-dir", own[3]])
        figures = json.loads(Path(f"model/shop-fold-{number}/best_val/evaluation.json").read_text())
        assert figures["images"] == len(its.names)


def test_a_fold_that_is_none(fails, own):
    for text in ("6/5", "0/5", "1/1", "1", "5", "1/101", "a/b", "1/5/5"):
        problem = fails("--version", "a", "--fold", text, *own)
        assert f"--fold: {text!r} is not K/N, fold K of 2 to 100 folds, such as 1/5" in problem
    assert "is not a whole number of at least 1" in fails("--version", "a", "--folds", "0", *own)


def test_folds_of_several_processes(fails, own, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert "torchrun, train each by --fold K/N" in fails("--version", "a", "--folds", "2", *own)


def test_a_run_keeps_its_fold(train, fails, own):
    train("--version", "a", "--fold", "1/2", *own)
    more = ["--version", "a", "--resume", *own, "--epochs", "2"]
    for fold, was in ((["--fold", "2/2"], "is 2/2, was 1/2"), ([], "is None, was 1/2")):
        assert f"began with other options: --fold {was}" in fails(*more, *fold)
    train(*more, "--fold", "1/2")


def test_an_interruption_ends_all_folds(own, monkeypatch):
    begun = []

    def stop(args, *_):
        begun.append(args.version)
        raise KeyboardInterrupt

    monkeypatch.setattr(script, "train", stop)
    assert exit_code(lambda: script.main([*SHORT, "--version", "shop", "--folds", "3", *own])) == 130
    assert begun == ["shop-fold-1"]
