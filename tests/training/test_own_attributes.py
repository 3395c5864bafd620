"""Attributes that somebody else has: few, many, with odd names, with cells that are not known."""

import csv
import json
import os
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import assert_same_run, write_own

from clip_model import FashionCLIP
from networks import load_network
from utils.data.attributes import UNKNOWN, Attributes, read_attributes
from utils.data.dataset import read_tables
from utils.evaluation import metrics
from utils.evaluation.as_trained import read_as_trained
from utils.evaluation.inference import load_classifier
from utils.losses import DistillationLoss, LossOptions, class_weights
from utils.nets.checkpoint import read_file

ODD = ["type", "keys", "file", "images", "split", "score", "image_name", "a.b", "sleeve type"]
CASES = {
    "one of two classes": ({"kind": 2}, 0.0),
    "seven": ({f"attribute {number}": 2 + number for number in range(7)}, 0.0),
    "odd names, 40 % unknown": (dict.fromkeys(ODD, 3), 0.4),
}
SOFT = "--kd-learning --distillation-type soft --loss-weight --ls 0.1".split()


def table_of(version):
    with open(f"logs/{version}/metrics.csv", newline="") as file:
        return list(csv.DictReader(file))


def log_of(version):
    return Path(f"logs/{version}/{version}_training.log").read_text(encoding="utf-8")


@pytest.mark.parametrize("case", CASES)
def test_teacher_student_and_resume(train, place, photos, case):
    classes, unknown = CASES[case]
    path = write_own(place / "own", photos, classes, unknown)

    def run(version, *options):
        train("--version", version, "--attributes", str(path), *options, data_dir=path.parent)

    run("t", "--epochs", "1", "--loss-weight")
    student = [*SOFT, "--teacher", "t/model_1.pt", "--save-teacher-logits"]
    run("whole", *student, "taught.npz")
    student.append("again.npz")
    run("s", *student, "--epochs", "1")
    shutil.move("model/t/model_1.pt", "gone.pt")
    run("s", *student, "--resume")
    assert_same_run("s", "whole", 2)
    run("file", *SOFT, "--teacher-logits", "taught.npz", "--epochs", "1")
    taught = [read_file(f"model/{version}/model_1.pt")["model"] for version in ("file", "whole")]
    assert all(torch.equal(value, taught[1][name]) for name, value in taught[0].items())

    for file in ("gone.pt", "model/s/best.pt"):
        net, meta = load_network(file)
        assert net.attributes == read_attributes(path) and list(net.attributes) == list(classes)
        pixels = torch.randint(256, (2, 3, 224, 224), dtype=torch.uint8)
        assert {key: values.shape for key, values in net(pixels).items()} == {
            k: (2, n) for k, n in classes.items()
        }
        assert str(place) not in str(meta) and "cache_dir" not in meta["options"]
    for row in table_of("whole"):
        parts = [float(row[f"val_top1_{key}"]) for key in classes if row[f"val_top1_{key}"]]
        assert float(row["val_top1"]) == pytest.approx(np.mean(parts))
        assert float(row["train_loss"]) == pytest.approx(
            sum(float(row[f"train_loss_{key}"]) for key in classes)
        )
    assert ("not known)" in log_of("t")) == (unknown > 0)


def test_a_run_with_several_values_in_one_cell(train, fails, place, photos):
    """Two attributes of one column, trained, resumed and kept in checkpoints; other tables of the same attributes are read."""
    path = write_own(place / "own", photos, {"kind": 3}, 0.2)
    table = path.with_name("shop.csv")
    table.write_text(
        table.read_text().replace("kind 1", "KIND 1|kind 0").replace("kind 2", "kind 2|kind 1|kind 0")
    )
    listed = {"column": "kind", "separator": "|"}
    content = json.loads(path.read_text())
    content["attributes"] = {f"is {i}": {**listed, "contains": f"kind {i}"} for i in (1, 2)}
    path.write_text(json.dumps(content))
    options = ["--attributes", str(path), *SOFT, "--teacher", "zero-shot"]
    train("--version", "whole", *options, data_dir=path.parent)
    train("--version", "s", *options, "--epochs", "1", data_dir=path.parent)
    train("--version", "s", *options, "--resume", data_dir=path.parent)
    assert_same_run("s", "whole", 2)
    attributes = load_network("model/s/best.pt")[0].attributes
    assert attributes == read_attributes(path) and attributes.sizes == {"is 1": 2, "is 2": 2}
    with open("logs/s/classes.csv", newline="") as file:
        listed = list(csv.DictReader(file))
    counts = {row["attribute"]: int(row["train"]) for row in listed}  # of its last class
    assert counts["is 1"] > counts["is 2"] > 0

    trained = [load_classifier("model/s/best.pt")]
    own = read_as_trained(trained, "val", str(path.parent))[0]
    content["attributes"]["is 1"] = {"column": "other", "contains": "one", "separator": ";"}
    path.with_name("other.json").write_text(json.dumps(content))
    table.write_text("\n".join(
        line + (";other" if i == 0 else ";two" if "kind 1" not in line.lower() else ';"one;two"')
        for i, line in enumerate(table.read_text().splitlines())
    ))  # fmt: skip
    other = read_as_trained(trained, "val", str(path.parent), str(path.with_name("other.json")))[0]
    known = own.labels["is 1"] != UNKNOWN
    assert known.any() and (other.labels["is 1"] == own.labels["is 1"])[known].all()
    assert (other.labels["is 2"] == own.labels["is 2"]).all()
    content["attributes"]["is 1"]["contains"] = "kind 0"
    path.write_text(json.dumps(content))
    assert "the attributes, or their prompts, are not" in fails(
        "--version", "s", *options, "--epochs", "3", "--resume", data_dir=path.parent
    )


def test_tensorboard_has_every_attribute(train, place, photos):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    path = write_own(place / "own", photos, dict.fromkeys([*ODD, "sleeve_type"], 2), 0.2)
    train("--version", "t", "--attributes", str(path), "--tensorboard", "True", data_dir=path.parent)
    events = EventAccumulator("logs/t/tensorboard")
    events.Reload()
    scores = ("train_loss", "val_top1", "val_acsa")
    assert len(events.Tags()["scalars"]) >= len(scores) * (1 + len(ODD) + 1)


# --- labels that are not known -----------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["none", "soft", "hard"])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_unknown_labels_play_no_part_in_the_cross_entropy(kind, weighted, smoothing):
    torch.manual_seed(0)
    labels = {"some": torch.tensor([2, UNKNOWN, 0, UNKNOWN, 1]), "none": torch.full((5,), UNKNOWN)}
    weights = {key: torch.tensor([0.2, 0.5, 0.9]) for key in labels} if weighted else None
    logits = [{key: torch.randn(5, 3, requires_grad=True) for key in labels} for _ in range(2)]
    targets = {key: torch.randn(5, 3) for key in labels}
    outputs = logits[0] if kind == "none" else tuple(logits)
    losses = DistillationLoss(LossOptions(kind, 0.25, 2.0, smoothing=smoothing), weights)(
        outputs, targets, labels
    )

    known = labels["some"] != UNKNOWN
    expected = F.cross_entropy(
        logits[0]["some"][known],
        labels["some"][known],
        weight=weights and weights["some"],
        label_smoothing=smoothing,
    ).item()
    distilled = dict.fromkeys(labels, 0.0)
    if kind != "none":  # of all five photos
        expected *= 0.75
        alone = DistillationLoss(LossOptions(kind, 1.0, 2.0))(
            outputs, targets, {key: torch.zeros(5).long() for key in labels}
        )
        distilled = {key: 0.25 * loss.item() for key, loss in alone.items()}
    assert losses["some"].item() == pytest.approx(expected + distilled["some"], abs=1e-6)
    assert losses["none"].item() == pytest.approx(distilled["none"], abs=1e-6)

    sum(losses.values()).backward()
    assert torch.all(logits[0]["some"].grad[~known] == 0) and torch.all(logits[0]["some"].grad[known] != 0)
    assert torch.all(logits[0]["none"].grad == 0), "a NaN, or a part in it"
    if kind != "none":
        assert all(torch.all(torch.isfinite(v.grad)) and torch.any(v.grad != 0) for v in logits[1].values())


def test_unknown_labels_play_no_part_in_class_weights_and_metrics():
    labels = np.array([0, UNKNOWN, 0, 1, UNKNOWN, 0])
    weights = class_weights({"a": labels, "b": np.full(6, UNKNOWN)}, {"a": 3, "b": 2})
    assert weights["a"].tolist() == [0.25, 0.75, 1.0] and weights["b"].tolist() == [1.0, 1.0]
    logits = torch.eye(3)[[0, 1, 1, 1, 2, 0]]
    given = {"a": logits, "b": logits[:, :2]}, {"a": labels, "b": np.full(6, UNKNOWN)}
    scores = metrics.scores(metrics.confusion_matrices(*given))
    assert (
        scores["matrix"]["a"].tolist() == [[2, 1, 0], [0, 1, 0], [0, 0, 0]]
        and scores["matrix"]["b"].sum() == 0
    )
    assert scores["top1"] == {"a": 0.75, "b": None} and scores["acsa"] == {
        "a": pytest.approx((2 / 3 + 1) / 2),
        "b": None,
    }
    assert scores["mean_top1"] == 0.75 and scores["mean_acsa"] == scores["acsa"]["a"]


def without_labels(path, column, split):
    """Empty a column of a part's rows, and give both parts tables of their own: a share would be held out of those that have
    labels. Returns the number of these rows."""
    parts = {
        name: set(one.names) for name, one in read_tables(str(path.parent), read_attributes(path)).items()
    }
    content, folder = json.loads(path.read_text()), path.parent
    with open(folder / "shop.csv", newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file, delimiter=";"))
    for part, names in parts.items():
        content[part] = {"table": f"{part}.csv", "photos": "shots"}
        with open(folder / f"{part}.csv", "w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, list(rows[0]), delimiter=";")
            writer.writeheader()
            mine = [row for row in rows if row["shot"] in names]
            writer.writerows({**row, column: ""} if part == split else row for row in mine)
    path.write_text(json.dumps(content))
    return len(parts[split])


@pytest.mark.parametrize("split", ["train", "val"])
def test_an_attribute_without_any_label(train, place, photos, capsys, split):
    path = write_own(place / "own", photos, {"kind": 2, "cloth": 3})
    count = without_labels(path, "cloth", split)
    train("--version", "t", "--attributes", str(path), "--loss-weight", data_dir=path.parent)
    log = log_of("t")
    assert f"photos: {count} for training" in log or split == "val"
    assert f"{split}, cloth: cloth 0 0, cloth 1 0, cloth 2 0 ({count} not known)" in log
    assert f"warning: cloth: no label in {'training' if split == 'train' else 'validation'}: " in log
    for row in table_of("t"):
        assert (row["val_top1_cloth"] == row["val_acsa_cloth"] == "") == (split == "val")
        assert (float(row["train_loss_cloth"]) == 0) == (split == "train")
        if split == "val":
            assert row["val_top1"] == row["val_top1_kind"] and row["val_acsa"] == row["val_acsa_kind"]
    warned = "warning: cloth: no label in validation: no score, and no part in the means"
    assert (warned in log) == (warned in capsys.readouterr().err) == (split == "val")
    assert bool(re.search(r"^.* cloth +- +- +-$", log, re.MULTILINE)) == (split == "val")
    if split == "val":
        train(
            "--version",
            "t",
            "--attributes",
            str(path),
            "--loss-weight",
            "--epochs",
            "3",
            "--resume",
            data_dir=path.parent,
        )
        assert len(table_of("t")) == 3


@pytest.mark.parametrize("split", ["train", "val"])
def test_no_label_at_all(fails, place, photos, split):
    path = write_own(place / "own", photos, {"kind": 2})
    without_labels(path, "kind", split)
    message = fails("--version", "t", "--attributes", str(path), data_dir=path.parent)
    assert "shots" in message and f"photos of {split} has a label that is known" in message


# --- the teacher's attributes ------------------------------------------------------------------------


def test_a_teacher_of_other_attributes_only_is_refused(train, fails, place, photos):
    """One that shares some teaches these, see test_going_on.py."""
    path = write_own(place / "own", photos, {"kind": 2, "cloth": 3})
    train("--version", "t", "--epochs", "1", "--attributes", str(path), data_dir=path.parent)
    content = json.loads(path.read_text())
    attributes = content["attributes"]
    for name, column in (("sort", "kind"), ("fabric", "cloth")):
        attributes[name] = {**attributes.pop(column), "column": column}
    path.write_text(json.dumps(content))
    options = ["--version", "s", "--attributes", str(path), *SOFT, "--teacher", "t/model_1.pt"]
    message = fails(*options, data_dir=path.parent)
    assert "--teacher: other attributes (first) than the student's (second)" in message
    assert "kind: classes of the first only: kind 0, kind 1; of the second only: none" in message
    assert "fabric: classes of the first only: none" in message


def test_the_order_of_attributes_and_classes_does_not_matter(train, place, photos):
    """The student has both in another order: what it is taught is the same, class by class."""
    path = write_own(place / "own", photos, {"kind": 2, "cloth": 3})
    train("--version", "t", "--epochs", "1", "--attributes", str(path), data_dir=path.parent)
    content = json.loads(path.read_text())
    content["attributes"] = {
        key: {"classes": dict(reversed(list(attribute["classes"].items())))}
        for key, attribute in reversed(list(content["attributes"].items()))
    }
    turned = path.with_name("turned.json")
    turned.write_text(json.dumps(content))
    taught = {}
    for version, attributes in (("own", path), ("turned", turned)):
        options = ["--epochs", "1", "--teacher", "t/model_1.pt", "--save-teacher-logits", f"{version}.npz"]
        train("--version", version, "--attributes", str(attributes), *SOFT, *options, data_dir=path.parent)
        assert list(load_network(f"model/{version}/model_1.pt")[0].attributes) == list(
            read_attributes(attributes)
        )
        with np.load(f"{version}.npz") as file:
            taught[version] = {key: file[key] for key in file.files}
    assert "teacher's logits: read from" in log_of("turned")
    for key in ("logits.kind", "logits.cloth"):
        assert np.array_equal(taught["own"][key], taught["turned"][key][:, ::-1])
        assert not np.array_equal(taught["own"][key], taught["turned"][key])


# --- photos that cannot be read ----------------------------------------------------------------------


def test_skip_unreadable(train, fails, place, photos):
    path = write_own(place / "own", photos, {"kind": 2})
    shots = path.parent / "shots"
    shots.unlink()
    shutil.copytree(photos / "train", shots)
    every = sorted(shots.rglob("*.*g"))
    broken, missing = every[2], every[5]
    broken.write_bytes(b"no photo")
    missing.unlink()
    options = ["--version", "t", "--attributes", str(path), "--epochs", "1"]
    assert missing.name in fails(*options, data_dir=path.parent)
    train(*options, "--skip-unreadable", data_dir=path.parent)
    listed = Path("logs/t/unreadable.txt").read_text().splitlines()
    assert len(listed) == 2 and broken.name in "".join(listed) and missing.name in "".join(listed)
    log = log_of("t")
    assert "warning: 2 photos cannot be read and are left out, see logs/t/unreadable.txt" in log
    counts = re.search(r"photos: (\d+) for training, (\d+) for validation", log).groups()
    assert sum(map(int, counts)) == len(every) - 2

    options[-1] = "2"
    train("--version", "whole", *options[2:], "--skip-unreadable", data_dir=path.parent)
    train(*options, "--skip-unreadable", "--resume", data_dir=path.parent)
    assert_same_run("t", "whole", 2)
    message = fails("--version", "t", *options[2:], "--resume", data_dir=path.parent)
    assert "--skip-unreadable is False, was True" in message
    student = ["--version", "s", *options[2:], *SOFT, "--skip-unreadable", "--teacher", "t/model_1.pt"]
    train(*student, data_dir=path.parent)
    missing.write_bytes(every[0].read_bytes())
    broken.write_bytes(every[0].read_bytes())
    train("--version", "t", *options[2:], "--overwrite", data_dir=path.parent)
    assert not os.path.exists("logs/t/unreadable.txt")


@pytest.mark.parametrize("role", ["teacher", "student"])
def test_other_photos_can_be_read_than_when_the_run_began(train, fails, place, photos, role):
    path = write_own(place / "own", photos, {"kind": 2})
    shots = path.parent / "shots"
    shots.unlink()
    shutil.copytree(photos / "train", shots)
    names = read_tables(str(path.parent), read_attributes(path))["train"].names
    whole = (shots / names[0]).read_bytes()
    (shots / names[0]).write_bytes(b"\0" * len(whole))
    options = ["--version", "a", "--attributes", str(path), "--skip-unreadable"]
    options += [*SOFT, "--teacher", "zero-shot"] if role == "student" else []
    train(*options, "--epochs", "1", data_dir=path.parent)
    assert len(Path("logs/a/unreadable.txt").read_text().splitlines()) == 1
    (shots / names[0]).write_bytes(whole)
    message = fails(*options, "--epochs", "2", "--resume", data_dir=path.parent)
    assert "not the data set that the run began with" in message and "which can be read" in message
    assert Path("logs/a/unreadable.txt").exists(), "a file was removed before it was looked at"


def test_no_photo_that_can_be_read(fails, place, photos):
    path = write_own(place / "own", photos, {"kind": 2})
    os.remove(path.parent / "shots")
    message = fails("--version", "t", "--attributes", str(path), "--skip-unreadable", data_dir=path.parent)
    assert "none of the photos of train can be read" in message


# --- prompts -----------------------------------------------------------------------------------------


def test_prompts_are_in_place_of_the_files(train, fails, place, photos):
    path = write_own(place / "own", photos, {"kind": 2, "a.b": 2})
    prompts = {"kind": ["one", ["two", "deux"]], "a.b": ["x", "y"]}
    (place / "prompts.json").write_text(json.dumps(prompts))
    options = ["--version", "t", "--attributes", str(path), "--epochs", "1"]
    train(*options, "--prompts", "prompts.json", data_dir=path.parent)
    net, _ = load_network("model/t/model_1.pt")
    assert net.attributes["kind"].prompts == (("one",), ("two", "deux")) and net.attributes[
        "a.b"
    ].prompts == (("x",), ("y",))
    assert net.prompts_per_class == [1, 2, 1, 1]
    options[-1] = "2"
    assert "--prompts is None, was prompts.json" in fails(*options, "--resume", data_dir=path.parent)
    prompts["kind"][0] = "another"
    (place / "prompts.json").write_text(json.dumps(prompts))
    again = [*options, "--prompts", "prompts.json", "--resume"]
    assert "the attributes, or their prompts, are not the run's" in fails(*again, data_dir=path.parent)


def test_a_class_with_several_prompts():
    """Mean of unit embeddings, to length 1; a class with one prompt is what it was."""
    content = {
        "attributes": {
            "kind": {"classes": {"a": {"prompt": ["a hat", "some hats", "headgear"]}, "b": {"prompt": "b"}}}
        }
    }
    torch.manual_seed(0)
    net = FashionCLIP(Attributes(content, "test"), "random").eval()
    single = Attributes(
        {
            "attributes": {
                "kind": {"classes": {s: {"prompt": s} for s in ("a hat", "some hats", "headgear", "b")}}
            }
        },
        "test",
    )
    torch.manual_seed(0)
    each = FashionCLIP(single, "random").eval()
    with torch.no_grad():
        separate = each.encode_prompts()
        mean = F.normalize(separate[:3], dim=1).mean(dim=0)
        expected = torch.stack([mean / mean.norm(), separate[3]])
        assert torch.allclose(net.encode_prompts(), expected, atol=1e-6)
        assert mean.norm() < 0.999, "the prompts say the same"
        pixels = torch.randint(256, (2, 3, 224, 224), dtype=torch.uint8)
        assert torch.allclose(
            net(pixels)["kind"], each(pixels, expected.repeat(2, 1))["kind"][:, :2], atol=1e-4
        )


# --- what a run leaves -------------------------------------------------------------------------------


def test_checkpoints_say_nothing_of_this_machine(train, place, photos):
    path = write_own(place / "own", photos, {"kind": 2})
    (place / "prompts.json").write_text(json.dumps({"kind": ["one", "two"]}))
    train("--version", "t", "--epochs", "1", data_dir=photos)
    shutil.copy("model/t/model_1.pt", "weights.pt")
    train(
        *(
            "--version",
            "s",
            "--epochs",
            "1",
            "--attributes",
            str(path),
            "--prompts",
            str(place / "prompts.json"),
        ),
        *("--teacher", "zero-shot", *SOFT, "--save-teacher-logits", str(place / "taught.npz")),
        data_dir=path.parent,
    )
    for file in Path("model").rglob("*.pt"):
        meta = read_file(file)["meta"]
        assert not {"cache_dir", "data_dir", "save_teacher_logits"} & set(meta["options"])
        assert (
            str(place) not in str(meta)
            and str(photos) not in str(meta)
            and os.path.expanduser("~/") not in str(meta)
        )
    assert meta["options"]["seed"] == 214
