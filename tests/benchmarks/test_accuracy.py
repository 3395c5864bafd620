"""benchmarks.accuracy makes what is told, keeps all of it, and tells what was found; its photos are made from the clone."""

import itertools
import os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

import train
from benchmarks import accuracy, photos, recipe
from benchmarks.accuracy import ROWS, SEED, Row
from utils.base.cli import exit_code
from utils.base.errors import UserError
from utils.losses import LOSS_VERSION

PAGE = Path(train.__file__).parent / "docs" / "accuracy.md"
TABLE = "epoch,lr,train_loss,val_top1,val_acsa,seconds\n1,0.1,1,0.5,0.4,60\n2,0.1,1,{},0.5,60\n"
TEACHER = Row("photos", "teacher", "--lr 2 --lr 3", seeds=1)
TAUGHT = Row("photos", "taught", f"--lr 1 --teacher photos-teacher-{SEED}/model_6.pt", drawn=True)
SKEWED = Row("skewed", "+ student", "--lr 1")


@pytest.fixture
def run(place, monkeypatch):
    """Runs the command for some rows, with a train.py that only writes metrics; returns what that was called with."""

    def stub(argv):
        options = dict(zip(argv[::2], argv[1::2]))
        calls.append(options)
        folder = Path("logs", options["--version"])
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "metrics.csv").write_text(TABLE.format(0.6 + 0.01 * (int(options["--seed"]) - SEED)))

    def call(*rows, options=("work", "--seeds", "2", "--machine", "a CPU")):
        calls.clear()
        monkeypatch.setattr(accuracy, "ROWS", rows)
        monkeypatch.chdir(place)
        accuracy.main([*options, "--results", "found.jsonl"])
        monkeypatch.chdir(place)
        return list(calls)

    calls = []
    monkeypatch.setattr(train, "main", stub)
    return call


def test_runs_and_results(run, capsys):
    calls = run(TEACHER, TAUGHT, SKEWED)
    assert [call["--version"] for call in calls] == [
        "photos-teacher-214", "photos-taught-214", "skewed-student-214", "photos-taught-215", "skewed-student-215"
    ]  # fmt: skip
    assert calls[0] == {
        **{"--lr": "3", "--version": "photos-teacher-214", "--seed": "214"},
        **{"--data-dir": "../photos", "--keep": "1", "--resume": "True"},
    }
    assert Path("work", f"loss-{LOSS_VERSION}", "logs", "photos-taught-215").is_dir()
    said = capsys.readouterr().out
    assert "\n|teacher|0.6000|0.5000|1|a CPU|\n" in said
    assert "\n|taught|0.6050 ± 0.0071|0.5000 ± 0.0000|2|a CPU|\n" in said
    assert Path("found.png").stat().st_size > 10_000
    results = Path("found.jsonl").read_text()
    run(TEACHER, TAUGHT, SKEWED)
    assert Path("found.jsonl").read_text() == results, "each run has one line"


def test_only_some_rows(run):
    calls = run(TEACHER, TAUGHT, SKEWED, options=("work", "--seeds", "1", "--only", "photos taught"))
    assert [call["--version"] for call in calls] == ["photos-taught-214"]


def test_runs_of_an_older_loss_or_another_recipe(run, capsys):
    run(TEACHER, TAUGHT)
    path = Path("found.jsonl")
    path.write_text(path.read_text().replace(f'"loss_version": {LOSS_VERSION}', '"loss_version": 1', 1))
    capsys.readouterr()
    assert run(TEACHER, TAUGHT._replace(options="--lr 4"), options=()) == []
    said = capsys.readouterr().out
    assert "|teacher (older loss)|" in said and "|taught" not in said


def test_the_rows_and_their_teachers():
    names = [f"{row.version}-{SEED}" for row in ROWS]
    assert len(set(names)) == len(names)
    for number, row in enumerate(ROWS):
        args = train.parse_args(["--version", "a", *row.command.split()])
        if args.teacher:
            teacher = ROWS[names.index(args.teacher.partition("/")[0])]
            assert ROWS.index(teacher) < number and row.data == teacher.data
            epochs = args.teacher.rpartition("_")[2][:-3] if "_" in args.teacher else "auto"
            assert f"--epochs {epochs} " in teacher.command
        elif args.distils:
            pytest.fail(f"{row.name} has no teacher")


@pytest.mark.parametrize(
    "data, name, script, others",
    [
        ("photos", "recipe", "student", "student_weights teacher"),
        ("photos", "best", "best", "student_weights teacher optimizer lr batch_size epochs"),
        ("shop", "own", "own", "student attributes"),
        ("shop", "best, as long", "best", "student attributes teacher epochs batch_size lr"),
    ],
)
def test_rows_are_recipes_of_the_script(data, name, script, others):
    row = next(row for row in ROWS if (row.data, row.name) == (data, name))
    ours, theirs = (
        vars(train.parse_args(f"--version a {one}".split())) for one in (row.command, recipe(script))
    )
    differ = {name for name in ours if ours[name] != theirs[name]}
    assert differ - {"views", "decay_epoch"} == set(others.split())


def test_the_page_tells_the_results(run, capsys, monkeypatch):
    monkeypatch.setattr(accuracy.plots, "save", lambda *_: None)
    accuracy.main(["--results", str(PAGE.with_suffix(".jsonl"))])
    tables = [line for line in capsys.readouterr().out.splitlines() if line.startswith("|")]
    text = PAGE.read_text(encoding="utf-8")
    assert len(tables) == 6 + len(ROWS) and [line for line in tables if line not in text] == []


# --- the photos --------------------------------------------------------------------------------------


@pytest.mark.thorough
def test_photos_of_a_clone(tmp_path):
    """Of 3,781 names of ninety pictures: six kinds in five colours, each plain, striped, or striped more."""
    colours = [(9, 9, 9), (200, 200, 200), (120, 120, 120), (20, 20, 250), (250, 20, 20)]
    pictures = list(itertools.product((0, 8, 16), colours, photos.DAILY))
    for part, count in (("train", 3068), ("validation", 341), ("test", 372)):
        for number in range(count):
            stripes, colour, kinds = pictures[number % len(pictures)]
            path = tmp_path / "clone" / part / kinds.split()[0] / f"{number}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            if number < len(pictures):
                pixels = np.full((40, 24, 3), colour, np.uint8)
                pixels[::2] -= np.minimum(pixels[::2], np.uint8(stripes))
                Image.fromarray(pixels).save(path)
            else:
                os.link(path.parent / f"{number % len(pictures)}.jpg", path)
    out = tmp_path / "out"
    photos.main([str(tmp_path / "clone"), str(out)])
    for data, part, count in (
        ("photos", "train", 2000),
        ("photos", "val", 400),
        ("skewed", "train", 800),
        ("skewed", "val", 400),
    ):
        table = pd.read_csv(out / data / f"Fashion-How24_sub1_{part}.csv")
        assert len(table) == count
        assert all((out / data / part / name).is_file() for name in table["image_name"])
    for _, row in table.iterrows():
        stripes, colour, kinds = pictures[int(Path(row["image_name"]).stem) % len(pictures)]
        assert (row["Daily"], row["Gender"]) == (photos.DAILY.index(kinds), colours.index(colour))
        assert row["Embellishment"] == stripes // 8 or max(colour) < 16
        assert tuple(row[1:5]) == (3, 5, 21, 35)
    with pytest.raises(UserError, match="not a clone"):
        photos.main([str(tmp_path), str(out)])
    assert exit_code(lambda: photos.main([str(tmp_path / "clone"), str(out)])) == 2, "it is there already"


def test_a_skewed_table():
    random = np.random.default_rng(1)
    table = pd.DataFrame(
        {name: random.integers(len(one), size=2000) for name, one in zip(photos.COLUMNS[5:], photos.COUNTS)}
    )
    drawn = photos.skew(table)
    assert len(drawn) == 800 and list(drawn.index) == sorted(set(drawn.index))
    for name, counts in zip(photos.COLUMNS[5:], photos.COUNTS):
        before, after, wanted = (
            np.array(one) / sum(one)
            for one in (table[name].value_counts(sort=False).sort_index(), np.bincount(drawn[name]), counts)
        )
        assert np.abs(after - wanted).sum() < np.abs(before - wanted).sum()
