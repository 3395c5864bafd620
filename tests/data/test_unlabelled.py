"""--unlabelled: folders of photos from which the student learns what the teacher says."""

import csv
import json
import os
import shutil
from pathlib import Path

import pytest
import torch
from conftest import same

from utils.data.attributes import FASHION_HOW, UNKNOWN, read_attributes
from utils.data.dataset import read_tables, read_unlabelled

SOFT = "--kd-learning True --distillation-type soft --teacher zero-shot --epochs 1".split()
LABELLED = 10  # of the 16 training photos


def table_of(data_dir):
    layout = read_attributes().layout
    return Path(data_dir) / layout.parts["train"].table


@pytest.fixture
def split(place, photos):
    """A folder `all` whose last six rows have no labels, `some` without these rows, and `more` with their photos.

    Also attributes.json, in which an empty cell means "not known", and none of `some` has a label of gender.
    """
    content = json.loads(Path(FASHION_HOW).read_text(encoding="utf-8"))
    Path("attributes.json").write_text(json.dumps({**content, "unknown": [""]}), encoding="utf-8")
    with open(table_of(photos), newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    for row in rows:
        row["Gender"] = ""
    rows[LABELLED:] = sorted(rows[LABELLED:], key=lambda row: row["image_name"])
    for row in rows[LABELLED:]:
        row.update(Daily="", Embellishment="")
    for name, count in (("all", len(rows)), ("some", LABELLED)):
        shutil.copytree(photos, name)
        with open(table_of(name), "w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, rows[0])
            writer.writeheader()
            writer.writerows(rows[:count])
    for row in rows[LABELLED:]:
        target = Path("more") / row["image_name"]
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(photos / "train" / row["image_name"], target)
    return rows


@pytest.fixture
def run(train, split):
    """train.py with these attributes, on a folder of `split`."""

    def run(version, data_dir, *options):
        train("--version", version, "--attributes", "attributes.json", *SOFT, *options, data_dir=data_dir)
        return torch.load(f"model/{version}/model_{1}.pt")["model"]

    return run


@pytest.mark.parametrize("weighted", ["True", "False"])
def test_a_photo_of_a_folder_teaches_like_a_row_without_labels(run, place, weighted):
    whole = run("whole", "all", "--loss-weight", weighted)
    both = run("both", "some", "--unlabelled", "more", "--loss-weight", weighted)
    assert same(whole, both)
    assert not same(run("alone", "some", "--loss-weight", weighted), both), "the folder plays no part"
    log = Path("logs/both/both_training.log").read_text()
    assert (
        "more: 6 photos without labels" in log and "photos: 16 for training" in log and "(6 not known)" in log
    )


def test_photos_of_the_tables_are_left_out_wherever_they_lie(split, photos):
    os.makedirs("links/sub")
    tables = read_tables("some", read_attributes("attributes.json"))
    for number, path in enumerate([tables["train"].paths()[0], tables["val"].paths()[0]]):
        os.symlink(os.path.abspath(path), f"links/sub/{number}.jpg")
    shutil.copytree("more", "links/more")
    found = read_unlabelled(["links", "some/train"], tables)
    first, second = found["unlabelled links"], found["unlabelled some/train"]
    assert len(first.names) == 6 and all(name.startswith("links/more/") for name in first.names)
    assert sorted(second.names) == sorted(f"train/{row['image_name']}" for row in split[LABELLED:])
    assert all((labels == UNKNOWN).all() and len(labels) == 6 for labels in first.labels.values())
    assert all(map(os.path.isfile, first.paths() + second.paths()))


def test_resumed(run, train):
    options = ("--unlabelled", "more", "--unlabelled", "others", "--epochs", "2")
    shutil.copytree("more", "others")
    run("whole", "some", *options)
    run("parts", "some", *options[:-1], "1")
    run("parts", "some", *options, "--resume", "True")
    assert same(*(torch.load(f"model/{v}/model_2.pt")["model"] for v in ("whole", "parts")))
    with pytest.raises(Exception, match="--unlabelled is"):
        run("parts", "some", *SOFT, "--unlabelled", "more", "--epochs", "3", "--resume", "True")


def break_a_photo():
    next(path for path in Path("more").rglob("*.*") if path.is_file()).write_bytes(b"no photo")


@pytest.mark.parametrize(
    "prepare, folder, named",
    [
        (None, "none", "none/: cannot be read (No such file or directory)"),
        (lambda: os.mkdir("empty"), "empty", "empty: a folder without photos"),
        (lambda: shutil.copytree("some/val", "new/val"), "some/val", "are in the tables"),
        (break_a_photo, "more", "1 photo cannot be read"),
    ],
)
def test_bad_folders(split, fails, prepare, folder, named):
    if prepare:
        prepare()
    said = fails(
        "--version", "a", "--attributes", "attributes.json", *SOFT, "--unlabelled", folder, data_dir="some"
    )
    assert named in said and folder in said


def test_unreadable_photos_are_left_out_where_that_is_asked_for(run, place):
    break_a_photo()
    run("a", "some", "--unlabelled", "more", "--skip-unreadable", "True")
    log = Path("logs/a/a_training.log").read_text()
    assert "photos: 15 for training" in log and "1 photo cannot be read" in log


def test_two_photos_of_one_name(split, fails):
    shutil.copytree("more", "other/more")
    said = fails(
        "--version",
        "a",
        "--attributes",
        "attributes.json",
        *SOFT,
        "--unlabelled",
        "more",
        "other/more",
        data_dir="some",
    )
    assert "another photo is more/" in said and "rename the folder" in said


def test_it_needs_a_teacher(fails):
    assert "--unlabelled needs a teacher" in fails("--version", "a", "--unlabelled", "more")


def test_a_file_of_logits_has_them_too(run, fails, place):
    saved = run("a", "some", "--unlabelled", "more", "--save-teacher-logits", "taught.npz")
    kd = [*SOFT[:4], "--teacher-logits"]
    train_again = ["--version", "b", "--attributes", "attributes.json", *kd]
    said = fails(*train_again, "taught.npz", "--unlabelled", "some/train", data_dir="some")
    assert "no row for 6 of the images" in said and "train/" in said
    again = run("c", "some", "--unlabelled", "more", "--teacher", "none", "--teacher-logits", "taught.npz")
    assert same(saved, again)
