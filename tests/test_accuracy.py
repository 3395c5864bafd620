"""benchmarks.accuracy: each run is made once, nothing is lost, and the tables say what was found."""

import re
import shutil
import signal
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import ATTRIBUTES

import train
from benchmarks import accuracy
from benchmarks.accuracy import ROWS, SEED, Row
from benchmarks.accuracy_report import gain, hits, read_results, weights
from utils.base.cli import exit_code
from utils.data.dataset import read_tables
from utils.evaluation.metrics import evaluate
from utils.losses import LOSS_VERSION

WORK = Path("accuracy", f"loss-{LOSS_VERSION}")
# In place of train.py; where there is a file `stop`, it sends its parent SIGINT in the middle of its work.
STUB = """
import os, pathlib, signal, sys, time
option = dict(zip(sys.argv[1::2], sys.argv[2::2]))
with open("calls", "a") as file:
    print(*sys.argv[1:], file=file)
if os.path.exists("stop"):
    def save(*_):
        os.rename("stop", "saved")
        sys.exit(143)
    signal.signal(signal.SIGTERM, save)
    os.kill(os.getppid(), signal.SIGINT)
    time.sleep(60)
logs, model = (pathlib.Path(kind, option["--version"]) for kind in ("logs", "model"))
for folder in (logs, model):
    folder.mkdir(parents=True, exist_ok=True)
(logs / "metrics.csv").write_text("epoch,lr,train_loss,val_top1,val_acsa,seconds\\n1,0.1,1,0.5,0.4,60\\n2,0.1,1,0.6,0.5,60\\n")
(model / f"model_{option['--epochs']}.pt").touch()
"""
TEACHER = Row("photos", "teacher", "--student-weights lite0.pth", epochs=2, seeds=1)
PLAIN = Row("photos", "plain", "--lr 1", epochs=2)
TAUGHT = Row("photos", "taught", "--lr 1 --teacher {teacher}", "plain", epochs=2)
LITTLE = Row("photos", "little", "--lr 3", "plain", epochs=2)
MUCH = Row("photos", "much", "--lr 4", "plain", epochs=2)
OTHER = Row("photos", "other teacher", "--student-weights none", epochs=1, seeds=1)


def classifier(path, labels):
    """In place of load_classifier: class 0 for every photo, but of LITTLE's runs for one photo, and of MUCH's for all, the label."""
    known = {"little": 1, "much": 8}.get(re.search(r"little|much|$", str(path))[0], 0)
    rows = {key: np.where(np.arange(8) < known, values, 0) for key, values in labels.items()}
    said = {key: np.eye(size)[rows[key]] for key, size in ATTRIBUTES.sizes.items()}
    return SimpleNamespace(attributes=ATTRIBUTES, meta={"precision": "fp32"}, predict=lambda *_: said)


@pytest.fixture
def run(place, photos, monkeypatch):
    """Runs the command for some rows; returns how it ended, and what train.py was called with."""
    WORK.mkdir(parents=True)
    Path("stub.py").write_text(STUB)
    Path("lite0.pth").touch()
    monkeypatch.setattr(accuracy, "TRAIN", str(place / "stub.py"))
    labels = read_tables(str(photos), ATTRIBUTES, ["val"])["val"].labels
    monkeypatch.setattr(accuracy, "load_classifier", lambda path: classifier(path, labels))

    def call(*rows, options=("--photos", str(photos), "--lite0", "lite0.pth", "--seeds", "2")):
        monkeypatch.setattr(accuracy, "ROWS", list(rows))
        (WORK / "calls").write_text("")
        ended = exit_code(lambda: accuracy.main([*options, "--results", "found.jsonl"]))
        return ended, (WORK / "calls").read_text().splitlines()

    return call


def test_each_run_is_made_once(run, photos, place, monkeypatch):
    monkeypatch.setattr(accuracy, "write_report", lambda *_: None)
    ended, calls = run(PLAIN, TAUGHT, TEACHER)
    assert ended == 0 and len(calls) == 6, "the teacher, two rows with two seeds, and the teacher's own row"
    assert f"--student-weights {place}/lite0.pth" in calls[0] and "--resume True" in calls[0]
    teacher = re.search(r"--version (\S+)", calls[0])[1]
    assert f"--teacher {teacher}/model_2.pt" in calls[2] and f"--data-dir {photos}" in calls[2]
    assert str(place) not in Path("found.jsonl").read_text()
    assert run(PLAIN, TAUGHT, TEACHER) == (0, [])
    changed = PLAIN._replace(options="--lr 2")
    ended, calls = run(changed, TAUGHT, TEACHER)
    assert ended == 0 and [call.split(" --version")[0] for call in calls] == ["--epochs 2 --lr 2"] * 2
    rows = sorted(one["row"] for one in read_results("found.jsonl"))
    assert rows == ["labels", "plain", "plain", "taught", "taught", "teacher"]
    assert len(run(changed, TAUGHT, TEACHER._replace(epochs=1))[1]) == 4, "another teacher, other students"
    calls = run(TAUGHT._replace(name="by another", taught_by=OTHER.name), TEACHER, OTHER)[1]
    assert any(f"--teacher {OTHER.version(SEED)}/model_1.pt" in call for call in calls)


def test_tables_and_picture(run):
    run(TEACHER, PLAIN, TAUGHT)
    page = Path("found.md")
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "threads: "
    assert f"**photos**: 16 photos for training, 8 for validation; {device}" in page.read_text()
    row = next(line for line in page.read_text().splitlines() if line.startswith("| taught"))
    assert row.endswith("| 2 | plain | +0.0000 ± 0.0000 | +0.0000 ± 0.0000 | 2.0 |")
    page.write_text(f"before\n{page.read_text()}after\n")
    Path("found.png").unlink()
    assert run(TEACHER, TAUGHT, options=()) == (0, [])
    assert re.fullmatch(r"before\n<!--.*-->\nafter\n", page.read_text(), re.DOTALL)
    assert "\n| plain" not in page.read_text() and Path("found.png").stat().st_size > 10_000


def test_what_pays(run, photos):
    """A gain is bold above two of its standard errors; of one photo of eight it is not."""
    assert run(PLAIN, LITTLE, MUCH)[0] == 0
    tables = read_tables(str(photos), ATTRIBUTES, ["train", "val"])
    lines = Path("found.md").read_text().splitlines()
    cells = {line.split(" | ")[0][2:]: line.split(" | ") for line in lines if line.startswith("| ")}
    frequent = [np.bincount(values).argmax() for values in tables["train"].labels.values()]
    truth = list(tables["val"].labels.values())
    shares = [(values == one).mean() for values, one in zip(truth, frequent)]
    assert cells["always the most frequent classes"][1] == f"{np.mean(shares):.4f}"
    wrong = np.mean([values != 0 for values in truth], axis=0)  # of a photo's attributes, what class 0 misses
    for name, known in (("little", 1), ("much", 8)):
        gains = np.where(np.arange(8) < known, wrong, 0)
        mean, error = gains.mean(), gains.std(ddof=1) / 8**0.5
        assert (mean > 2 * error) == (name == "much") and mean > 0
        bold = "**" if name == "much" else ""
        assert cells[name][4:6] == ["plain", f"{bold}+{mean:.4f} ± {error:.4f}{bold}"]


def test_runs_of_other_photos_are_not_taken_for_these(run, photos, tmp_path, capsys):
    """Results of its own are not enough: the runs are in --work, by their options."""
    assert run(PLAIN)[0] == 0
    other = tmp_path / "other"
    shutil.copytree(photos, other)
    table = other / "Fashion-How24_sub1_val.csv"
    table.write_text("\n".join(table.read_text().splitlines()[:-1]) + "\n")
    options = ("--photos", str(other), "--results", "others.jsonl")
    assert exit_code(lambda: accuracy.main(list(options))) == 2
    assert "photos.jsonl is of other photos than" in capsys.readouterr().err


def test_an_interrupted_run_goes_on(run):
    (WORK / "stop").touch()
    ended, first = run(PLAIN)
    assert ended == 128 + signal.SIGINT and (WORK / "saved").exists()
    assert [one["row"] for one in read_results("found.jsonl")] == ["labels"]
    ended, calls = run(PLAIN)
    assert ended == 0 and calls[0] == first[0] and len(calls) == 2


def test_runs_of_an_older_loss(run):
    """Where labels were smoothed and logits adjusted they are made again; until then the table marks them."""
    touched = PLAIN._replace(name="touched", options="--ls 0.1 --logit-adjustment 1")
    rows = PLAIN, touched, TEACHER
    assert len(run(*rows)[1]) == 5
    assert [row.is_touched for row in rows] == [False, True, False]
    results = Path("found.jsonl").read_text()
    Path("found.jsonl").write_text(results.replace(f', "loss_version": {LOSS_VERSION}', ""))
    assert run(*rows, options=()) == (0, [])
    page = Path("found.md").read_text()
    assert "| touched (older loss) |" in page and "| plain |" in page
    assert ["--ls" in call for call in run(*rows)[1]] == [True, True]
    assert "older" not in Path("found.md").read_text()
    below = TAUGHT._replace(taught_by="touched")
    run(touched, below)
    assert below.is_touched, "its teacher is"


def test_errors_of_one_line(run, photos, work, capsys):
    for options, message in [
        (("--photos", "there"), "no data set at there"),
        ((), "no results"),
        (("--photos", str(photos)), "needs --lite0 FILE.pth"),
        (("--photos", str(work / "data")), "found.jsonl is of other photos"),
    ]:
        assert run(TEACHER, PLAIN, options=options) == (2, [])
        assert message in capsys.readouterr().err


def test_scores_and_gains_by_hand():
    new, old = np.array([[[1, 1, 1, 0]], [[1, 1, 0, 0]]]), np.array([[[1, 0, 0, 0]], [[1, 0, 0, 1]]])
    # Of the mean over the seeds, the photos have 0, 1/4, 1/8 and -1/8; the seeds have 1/2 and 0.
    assert gain(new, old, weights({"a": "0012"})["top1"]) == pytest.approx((0.25, (5 / 48 + 1 / 16) ** 0.5))
    assert gain(new[:1], old[:1], weights({"a": "0001"})["acsa"])[0] == pytest.approx(1 / 3)
    random = np.random.RandomState(0)
    labels, logits = {"a": random.randint(3, size=50)}, {"a": random.rand(50, 4)}
    text, said = accuracy.digits(labels["a"]), accuracy.digits(logits["a"].argmax(axis=1))
    for name, weight in weights({"a": text}).items():
        expected = evaluate(logits, labels)[f"mean_{name}"]
        assert (hits({"a": said}, {"a": text}) * weight).sum() == pytest.approx(expected)


def test_the_rows():
    for row in ROWS:
        if row.seeds:
            train.parse_args(["--version", row.version(SEED), *row.command.split()])
        assert not row.against or any((row.data, row.against) == (one.data, one.name) for one in ROWS)


@pytest.mark.parametrize(
    "name, recipe, others",
    [("recipe", "student", ""), ("+ Muon: best", "best", "optimizer lr batch_size best cos_gamma")],
)
def test_rows_are_recipes_of_the_script(name, recipe, others):
    script = (
        (Path(train.__file__).parent / "train.sh")
        .read_text()
        .replace("\\\n", "")
        .replace('"$epochs"', "10")
        .replace("$warmup", "1")
    )
    words = re.search(rf"train\.py (--version {recipe} .*?) \"\$@\"", script)[1]
    row = next(row for row in ROWS if row.name == name)
    ours, theirs = (vars(train.parse_args(one.split())) for one in (f"--version a {row.command}", words))
    differ = {name for name in ours if ours[name] != theirs[name] and name != "version"}
    assert differ == {"student_weights", "teacher", *others.split()}
