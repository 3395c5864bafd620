"""evaluate.py: figures against known values, files against each other, and bad input."""

import csv
import json
import math
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

import numpy as np
import pytest
from PIL import Image

import evaluate
from utils.base.cli import exit_code
from utils.base.files import digest_of
from utils.data.attributes import Attributes, read_attributes
from utils.data.dataset import Table
from utils.data.folders import PhotoFolder
from utils.data.photos import letterbox
from utils.evaluation import confidence, metrics
from utils.evaluation.inference import Classifier

ATTRIBUTES = read_attributes()
ROOT = Path(__file__).resolve().parent.parent
PICTURES = {"confusion.png", "reliability.png", "mistakes.png"}
FILES = {"evaluation.json", "predictions.csv", "classes.csv"}
COUNTS = {"train": 4, "val": 7}


# --- the figures -------------------------------------------------------------------------------------


def random_set(count, seed=0, skill=0.5, attributes=ATTRIBUTES):
    """Labels and probabilities of `count` images; the larger the skill, the more of them are right."""
    rng = np.random.default_rng(seed)
    labels, probabilities = {}, {}
    for key, classes in attributes.sizes.items():
        labels[key] = rng.integers(classes, size=count)
        scores = rng.normal(size=(count, classes)) + 3 * skill * np.eye(classes)[labels[key]]
        exponents = np.exp(scores)
        probabilities[key] = (exponents / exponents.sum(axis=1, keepdims=True)).astype(np.float32)
    return labels, probabilities


def hits_of(labels, probabilities):
    return {key: probabilities[key].argmax(axis=1) == labels[key] for key in labels}


def test_macro_f1():
    """F1 of class 0: 2/3, of class 1: 1, of class 2, which is only predicted: 0; class 3 does not occur."""
    labels, predictions = np.array([0, 0, -1, 1, 1]), np.array([0, 2, 3, 1, 1])
    matrix = metrics.confusion_matrix(labels, predictions, 4)
    assert metrics.macro_f1(matrix) == pytest.approx((2 / 3 + 1 + 0) / 3)
    assert metrics.macro_f1(metrics.confusion_matrix(labels[2:3], predictions[2:3], 4)) is None


def test_majority():
    """The share of the most frequent class among the labels that are known: the Top-1 of always naming it."""
    labels = {"a": np.array([0, 2, 2, -1, 2, 1]), "b": np.full(6, -1)}
    logits = {key: np.eye(4)[[0] * 6] for key in labels}
    matrices = metrics.confusion_matrices(logits, labels)
    assert metrics.scores(matrices)["majority"] == {"a": 3 / 5, "b": None}
    result = metrics.report({key: values.astype(np.float32) for key, values in logits.items()}, labels)
    found = {key: figures["majority"] for key, figures in result["attributes"].items()}
    assert found == {"a": 3 / 5, "b": None} and result["mean_majority"] == 3 / 5
    assert metrics.majority([4, 0, 1]) == 0.8 and metrics.majority([0, 0]) is None


def test_below_the_majority():
    """Named in one line; as good as the majority is not below it, nor is an attribute without labels."""
    top1, majorities = {"a": 0.5, "b": 0.7, "c": None, "d": 0.1}, {"a": 0.75, "b": 0.7, "c": None, "d": 0.2}
    line = metrics.below_majority(top1, majorities)
    assert line.startswith("below the majority: a (Top-1 0.5000, majority 0.7500), d (Top-1 0.1000")
    assert "b (" not in line and "\n" not in line
    for way_out in ("--logit-adjustment 0", "--loss-weight False", "--best top1", "longer", "more photos"):
        assert way_out in line
    assert metrics.below_majority({"b": 0.7}, majorities) == ""


def test_average_precision():
    """Ranked by the probability of class 1: yes, no, yes; the precision at each yes is 1 and 2/3, the recall grows by half."""
    labels, shares = np.array([1, 1, 0, -1, -1]), np.array([0.9, 0.2, 0.5, 0.6, 0.1])
    assert metrics.average_precision(labels, shares) == pytest.approx((1 + 2 / 3) / 2)
    for one_class in ([0, 0, -1, 0, 0], [1, -1, 1, 1, 1], [-1] * 5):
        assert metrics.average_precision(np.array(one_class), shares) is None


def test_average_precision_is_of_attributes_with_two_classes():
    attributes = attributes_with(2, 3, 2)
    labels, probabilities = random_set(60, attributes=attributes)
    labels["score"][:] = 0
    result = metrics.report(probabilities, labels)
    found = {key: figures.get("average_precision", "none") for key, figures in result["attributes"].items()}
    assert found == {"type": pytest.approx(found["type"]), "split": "none", "score": None}
    assert 0.6 < found["type"] <= 1 and result["mean_average_precision"] == found["type"]
    turned = metrics.average_precision(labels["type"], probabilities["type"][:, 0])
    assert turned < 0.5, "it is not of the probability of class 1"
    assert metrics.report(*random_set(5)[::-1])["mean_average_precision"] is None


def test_calibration():
    """Three images of confidence 0.9, of which two are right, and one of 0.6, which is right."""
    probabilities = np.array([[0.9, 0.1], [0.1, 0.9], [0.9, 0.1], [0.4, 0.6]], np.float32)
    found = metrics.calibration(probabilities, np.array([0, 1, 1, 1]), bins=10)
    assert found["ece"] == pytest.approx((3 * abs(0.9 - 2 / 3) + 1 * abs(0.6 - 1)) / 4, abs=1e-6)
    assert sum(found["count"]) == 4 and found["count"].count(0) == 8
    filled = [i for i, count in enumerate(found["count"]) if count]
    assert [found["accuracy"][i] for i in filled] == pytest.approx([1, 2 / 3])
    assert [found["confidence"][i] for i in filled] == pytest.approx([0.6, 0.9])
    assert found["accuracy"][0] is None
    sure = np.array([[1.0, 0.0], [0.35, 0.65], [0.5, 0.5]])
    assert metrics.calibration(sure, np.array([0, 0, 0]), bins=10)["count"] == [
        0,
        0,
        0,
        0,
        1,
        0,
        1,
        0,
        0,
        1,
    ]


def test_sure_and_right_is_calibrated():
    assert metrics.calibration(np.eye(3)[[0, 2]], np.array([0, 2]))["ece"] == 0
    assert metrics.calibration(np.eye(3)[[0, 2]], np.array([1, 1]))["ece"] == 1


def test_intervals_are_as_wide_as_theory_says():
    """Of a mean of n independent hits: 2 * 1.96 * standard error; and the score lies inside."""
    assert metrics.interval(np.arange(1001)) == pytest.approx([25, 975])
    labels, probabilities = random_set(400)
    result = metrics.report(probabilities, labels)
    hits = np.mean(list(hits_of(labels, probabilities).values()), axis=0)
    low, high = result["mean_top1_interval"]
    assert high - low == pytest.approx(2 * 1.96 * hits.std() / math.sqrt(400), rel=0.08)
    assert low < result["mean_top1"] < high
    low, high = result["mean_acsa_interval"]
    assert low < result["mean_acsa"] < high and 0.02 < high - low < 0.15


def test_resamples_are_scored_like_a_data_set():
    """A resample is drawn image by image, all attributes of an image together; an absent class counts for nothing."""
    labels, probabilities = random_set(12)
    hits = hits_of(labels, probabilities)
    drawn = np.random.default_rng(7).integers(12, size=12)
    resample = ({k: values[drawn] for k, values in each.items()} for each in (probabilities, labels))
    expected = metrics.scores(metrics.confusion_matrices(*resample))
    found = metrics.bootstrap(labels, hits, resamples=1, seed=7)
    assert found["mean_top1"][0] == pytest.approx(expected["mean_top1"])
    assert found["mean_acsa"][0] == pytest.approx(expected["mean_acsa"])


def test_an_interval_that_begins_at_the_score():
    """The one photo of a class is wrong, all others are right: a draw without it is better, and none is worse."""
    labels = {"a": np.array([0] * 20 + [1] * 20 + [2])}
    low, high = metrics.interval(metrics.bootstrap(labels, {"a": labels["a"] < 2})["mean_acsa"])
    assert (low, high) == pytest.approx((2 / 3, 1))


def test_equal_networks_do_not_differ():
    labels, probabilities = random_set(50)
    hits = hits_of(labels, probabilities)
    found = metrics.paired_tests(labels, hits, hits)
    for name in ("mean_top1", "mean_acsa"):
        assert found[name] == {"difference": 0.0, "interval": [0.0, 0.0], "p": 1.0}
    for key in ATTRIBUTES:
        assert found["attributes"][key] == {
            "top1": 0.0,
            "acsa": 0.0,
            "only_first": 0,
            "only_second": 0,
            "p": 1.0,
        }


def test_differences_are_those_of_the_metrics():
    labels, good = random_set(120, skill=1.0)
    _, poor = random_set(120, skill=0.3)  # the same seed: the same labels
    found = metrics.paired_tests(labels, hits_of(labels, good), hits_of(labels, poor))
    a, b = (metrics.scores(metrics.confusion_matrices(p, labels)) for p in (good, poor))
    for name in ("top1", "acsa"):
        mean = found[f"mean_{name}"]
        assert mean["difference"] == pytest.approx(a[f"mean_{name}"] - b[f"mean_{name}"])
        assert 0 < mean["interval"][0] < mean["difference"] < mean["interval"][1] and mean["p"] < 0.001
        for key in ATTRIBUTES:
            assert found["attributes"][key][name] == pytest.approx(a[name][key] - b[name][key])


def test_p_values():
    """All of 10 images for one network: exactly 2 / 2^10; 8 against 1: McNemar's 2 * (1 + 9) / 2^9."""
    assert metrics.sign_flip_test(np.full(10, 0.1), flips=50000) == pytest.approx(2 / 1024, rel=0.2)
    assert metrics.sign_flip_test(np.array([0.1, -0.1, 0, 0])) == 1
    first, second = np.arange(9) < 8, np.arange(9) >= 8
    for one, other in ((first, second), (second, first)):
        found = metrics.paired_tests({"a": np.zeros(9, np.int64)}, {"a": one}, {"a": other})
        assert found["attributes"]["a"]["p"] == pytest.approx(20 / 512)


def test_a_chance_difference_is_rarely_significant():
    """Two networks of equal skill: p-values spread over 0..1, so that about 5 % of them are below 0.05."""
    values = []
    for seed in range(100):
        rng = np.random.default_rng(seed)
        values.append(metrics.sign_flip_test(rng.integers(-1, 2, 60) / 60, flips=400, seed=seed))
    assert 0 <= np.mean(np.array(values) < 0.05) <= 0.13
    assert 0.35 < np.mean(values) < 0.75


def test_unknown_labels_leave_images_out_of_one_attribute():
    """Figures are those of the images with a label; one without any has none, and no part in the means."""
    labels, probabilities = random_set(80)
    _, other = random_set(80, skill=0.2)
    first, second, third = labels
    known = np.arange(80) % 5 != 0
    labels[first][~known] = -1
    labels[second][:] = -1
    result = metrics.report(probabilities, labels)
    found = result["attributes"]
    alone = metrics.report({first: probabilities[first][known]}, {first: labels[first][known]})["attributes"][
        first
    ]
    assert found[first] == alone and found[first]["images"] == known.sum() == 64
    for name in ("top1", "acsa", "macro_f1", "ece"):
        assert found[second][name] is None
        assert result[f"mean_{name}"] == pytest.approx((found[first][name] + found[third][name]) / 2)
    assert result["mean_top1_interval"][0] < result["mean_top1"] < result["mean_top1_interval"][1]
    hits = [hits_of(labels, values) for values in (probabilities, other)]
    compared = metrics.paired_tests(labels, *hits)
    b = metrics.report(other, labels)
    assert compared["attributes"][second]["top1"] is None and compared["attributes"][second]["p"] is None
    assert compared["mean_top1"]["difference"] == pytest.approx(result["mean_top1"] - b["mean_top1"])
    assert compared["mean_acsa"]["difference"] == pytest.approx(result["mean_acsa"] - b["mean_acsa"])
    nothing = {key: np.full(80, -1) for key in labels}
    assert metrics.report(probabilities, nothing)["mean_acsa_interval"] is None
    assert metrics.paired_tests(nothing, *hits)["mean_top1"] == {
        "difference": None,
        "interval": None,
        "p": None,
    }


def test_groups_are_drawn_and_turned_round_as_a_whole():
    """Five photos of each of 60 products, right or wrong together: as sure as one photo of each, and not more."""
    rng = np.random.default_rng(1)
    labels = {"a": rng.integers(2, size=60)}
    # 18 of the first alone, 9 of the second.
    hits = [{"a": np.arange(60) % 4 > 0}, {"a": np.arange(60) % 5 > 1}]
    single = metrics.paired_tests(labels, *hits)["mean_top1"]
    order = rng.permutation(300)  # a group's photos need not stand together
    groups = [f"product {number}" for number in np.arange(60).repeat(5)[order]]
    many, *both = ({"a": values["a"].repeat(5)[order]} for values in (labels, *hits))
    found = metrics.paired_tests(many, *both, groups)
    assert found["mean_top1"]["difference"] == pytest.approx(single["difference"])
    assert found["mean_top1"]["interval"] == pytest.approx(single["interval"], abs=0.02)
    assert found["mean_top1"]["p"] == pytest.approx(single["p"], abs=0.02)
    assert found["attributes"]["a"]["p"] == pytest.approx(found["mean_top1"]["p"])
    assert metrics.paired_tests(many, *both)["attributes"]["a"]["p"] < found["attributes"]["a"]["p"] / 2
    probabilities = {"a": np.eye(2)[np.where(both[0]["a"], many["a"], 1 - many["a"])]}
    widths = []
    for ids in (groups, None):
        result = metrics.report(probabilities, many, ids)
        assert result["groups"] == (60 if ids else 300) and result["images"] == 300
        widths.append(np.ptp(result["mean_top1_interval"]))
    assert widths[0] == pytest.approx(math.sqrt(5) * widths[1], rel=0.15)


def test_the_interval_of_groups_holds_the_truth():
    """Networks that are right for 0.7 of the products, each of them with five photos or one."""
    rng, covered, different = np.random.default_rng(1), [], []
    groups = np.arange(40).repeat([1, 5] * 20)
    labels = {"a": np.zeros(len(groups), np.int64)}
    for _ in range(150):
        first, second = ({"a": (rng.random(40) < 0.7)[groups]} for _ in range(2))
        low, high = metrics.interval(metrics.bootstrap(labels, first, groups, resamples=200)["mean_top1"])
        covered.append(low <= 0.7 <= high)
        gains = np.bincount(groups, first["a"].astype(float) - second["a"])
        different.append(metrics.sign_flip_test(gains, flips=200) < 0.05)
    assert np.mean(covered) >= 0.9 and np.mean(different) <= 0.1


def test_groups_of_one_photo_change_nothing():
    labels, good = random_set(60, skill=1.0)
    hits = [hits_of(labels, values) for values in (good, random_set(60, skill=0.3)[1])]
    names = [f"{number}.jpg" for number in range(60)]
    assert metrics.paired_tests(labels, *hits) == metrics.paired_tests(labels, *hits, names)
    assert metrics.report(good, labels) == metrics.report(good, labels, names)
    key = next(iter(labels))  # of an attribute with a label in each group once, McNemar's test stays exact
    labels[key][30:] = -1
    exact = metrics.paired_tests(labels, *hits)["attributes"][key]["p"]
    assert metrics.paired_tests(labels, *hits, names[:30] * 2)["attributes"][key]["p"] == exact


# --- the command -------------------------------------------------------------------------------------


def make_photos(folder):
    """A data set of noise on a grey that tells the label of the last attribute."""
    rng = np.random.default_rng(0)
    for split, count in COUNTS.items():
        (folder / split / "T SHIRT").mkdir(parents=True)
        with open(folder / f"Fashion-How24_sub1_{split}.csv", "w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(["image_name", *(attribute.column for attribute in ATTRIBUTES.values())])
            for i in range(count):
                labels = [i % len(attribute.classes) for attribute in ATTRIBUTES.values()]
                pixels = rng.integers(0, 60, (90, 60, 3)) + 60 * labels[-1]
                Image.fromarray(pixels.astype(np.uint8)).save(folder / split / "T SHIRT" / f"{i}.png")
                writer.writerow([f"T SHIRT/{i}.png", *labels])
    return folder


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """The working directory, with a data set, a student trained for one epoch, and an untrained teacher."""
    import torch

    import train
    from clip_model import FashionCLIP
    from utils.nets.checkpoint import save_checkpoint

    folder = tmp_path_factory.mktemp("place")
    make_photos(folder / "data")
    before, threads = os.getcwd(), torch.get_num_threads()
    torch.set_num_threads(1)  # so little work is slower on several threads, where others want them
    os.chdir(folder)
    try:
        options = (
            "--kd-learning True --distillation-type none --student-weights none --epochs 1 --batch-size 4 "
            "--student test_efficientnet"
        )
        data = "--data-dir data --cache-dir cache --precision fp32 --lr 1e-3"
        train.main(["--version", "s", *options.split(), *data.split()])
        torch.manual_seed(0)
        teacher = FashionCLIP(ATTRIBUTES, "random")
        about = {"attributes": ATTRIBUTES.to_meta(), **teacher.describe()}
        save_checkpoint("teacher.pt", teacher, {"epoch": 1, **about})
        yield folder
    finally:
        os.chdir(before)
        torch.set_num_threads(threads)


def run(*options):
    return exit_code(lambda: evaluate.main(["--data-dir", "data", "--cache-dir", "cache", *options]))


def read(folder):
    with open(os.path.join(folder, "predictions.csv"), newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    with open(os.path.join(folder, "evaluation.json"), encoding="utf-8") as file:
        return json.load(file), rows


def test_student(place, capsys):
    """The JSON, the CSV and what training measured agree; every picture is there; so are the run's curves."""
    assert run("--checkpoint", "model/s/model_1.pt") == 0
    folder = place / "model" / "s" / "model_1_val"
    result, rows = read(folder)
    with open("logs/s/metrics.csv", newline="", encoding="utf-8") as file:
        measured = next(csv.DictReader(file))
    assert result["checkpoint"] == "model/s/model_1.pt" and result["role"] == "student"
    assert result["images"] == len(rows) == COUNTS["val"] and result["split"] == "val"
    assert result["score"] == result["mean_top1"] == pytest.approx(float(measured["val_top1"]))
    assert result["mean_acsa"] == pytest.approx(float(measured["val_acsa"]))
    assert result["mean_top1_interval"][0] <= result["mean_top1"] <= result["mean_top1_interval"][1]
    for key, attribute in ATTRIBUTES.items():
        figures, classes = result["attributes"][key], len(attribute.classes)
        said = [int(row[attribute.short]) for row in rows]
        labels = [int(row[f"{attribute.short}_label"]) for row in rows]
        shares = np.array([[float(row[f"{attribute.short}_{i}"]) for i in range(classes)] for row in rows])
        assert labels == [i % classes for i in range(len(rows))]
        assert figures["top1"] == pytest.approx(np.mean(np.array(said) == labels))
        assert figures["matrix"] == metrics.confusion_matrix(labels, said, classes).tolist()
        assert shares.sum(axis=1) == pytest.approx(1, abs=1e-5) and said == shares.argmax(axis=1).tolist()
        assert 0 <= figures["ece"] <= 1 and 0 <= figures["macro_f1"] <= 1
        assert figures["classes"] == list(attribute.classes)
        for column, numbers in (("name", said), ("label_name", labels)):
            names = [row[f"{attribute.short}_{column}"] for row in rows]
            assert names == [attribute.classes[number] for number in numbers]
    assert [row["image_name"] for row in rows] == [f"T SHIRT/{i}.png" for i in range(len(rows))]
    assert list(rows[0])[:4] == ["image_name", *(attribute.short for attribute in ATTRIBUTES.values())]
    assert {path.name for path in folder.iterdir()} == PICTURES | FILES
    megabytes = (place / "model" / "s" / "model_1.pt").stat().st_size / 1e6
    said, out = (
        f"competition's score (mean Top-1): {result['score']:.4f}; {megabytes:.1f} MB",
        capsys.readouterr().out,
    )
    assert said in out and "network (test_efficientnet" in out and ", trained by itself, 7 images" in out
    assert "products" not in result and "by product" not in out
    assert result["sure"]["weights"] == digest_of("model/s/model_1.pt")
    classifier = SimpleNamespace(path="model/s/model_1.pt", attributes=ATTRIBUTES, meta={})
    found = confidence.find_measured(classifier)
    header = "0.90 0.95 0.99 temperature calibration error with it".split()
    table = [line.split() for line in out[out.index("answered at --sure") :].splitlines()]
    assert table[0][3:] == header
    for (key, one), line in zip(found.items(), table[1:]):
        error = result["attributes"][key]["ece"]
        assert one["ece"][0] == pytest.approx(error) and list(one["answered"].values()) == [0] * 3
        assert line == [key, *["0.0000"] * 3, f"{one['temperature']:.4f}", *(f"{x:.4f}" for x in one["ece"])]
    assert "of photos: 36 for 0.90, 72 for 0.95, 368 for 0.99" in out
    assert (place / "logs" / "s" / "curves.png").is_file()


def test_by_class(place, capsys):
    """A table for each attribute, above the summary, and the same in a file, also of an attribute with many classes."""
    with mock.patch.object(evaluate, "MOST", 5):
        assert run("--checkpoint", "model/s/model_1.pt", "--output", "classes") == 0
    out = capsys.readouterr().out
    with open("classes/classes.csv", newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [(row["attribute"], row["class"]) for row in rows] == [
        (key, name) for key, attribute in ATTRIBUTES.items() for name in attribute.classes
    ]
    for key, attribute in ATTRIBUTES.items():
        matrix = np.array(read("classes")[0]["attributes"][key]["matrix"])
        for number, row in enumerate(row for row in rows if row["attribute"] == key):
            hits, photos, called = matrix[number, number], matrix[number].sum(), matrix[:, number].sum()
            assert int(row["photos"]) == photos
            for column, many, of in (
                ("precision", hits, called),
                ("recall", hits, photos),
                ("f1", 2 * hits, photos + called),
            ):
                assert float(row[column] or "nan") == pytest.approx(
                    many / of if of else math.nan, abs=1e-4, nan_ok=True
                )
        header, lines = (
            f"{key.ljust(max(map(len, (key, *attribute.classes))))}  photos  precision",
            out.splitlines(),
        )
        shown = [line.startswith(header) for line in lines]
        assert any(shown) == (len(attribute.classes) <= 5)
        assert not any(shown) or shown.index(True) < out.splitlines().index(
            next(x for x in lines if "Top-1" in x)
        )


def test_what_a_network_is():
    def named(role="student", path="a.onnx", **options):
        meta = {"backbone": "lite0", "options": options}
        found = Classifier(path, ATTRIBUTES, meta, None)
        found.role = role
        return found.network

    assert named("teacher", lr=1) == "teacher (FashionCLIP)"
    assert named("teacher", "zero-shot") == "FashionCLIP as it comes"
    taught = {
        "kd_learning": True,
        "distillation_type": "soft",
        "teacher": "t/best.pt",
        "teacher_logits": None,
    }
    assert named(**taught) == "student (lite0), taught by t/best.pt"
    assert (
        named(**{**taught, "teacher": None, "teacher_logits": "l.npz"}) == "student (lite0), taught by l.npz"
    )
    for alone in ({"distillation_type": "none"}, {"teacher": None}):
        assert named(**{**taught, **alone}) == "network (lite0), trained by itself"
    assert named() == "student (lite0)", "it does not say"
    assert Classifier("a.pt", ATTRIBUTES, {}, None).network == "student (tiny_vit_5m_224)"


def test_two_checkpoints(place, capsys):
    assert run("--checkpoint", "model/s/best.pt", "teacher.pt", "--output", "two") == 0
    first, _ = read("two")
    second, _ = read("two/second")
    assert (first["role"], second["role"]) == ("student", "teacher")
    assert {path.name for path in (place / "two").iterdir()} == PICTURES | FILES | {"second"}
    comparison = first["comparison"]
    assert comparison["checkpoint"] == "teacher.pt" and "comparison" not in second
    for name in ("mean_top1", "mean_acsa"):
        assert comparison[name]["difference"] == pytest.approx(first[name] - second[name])
    for key in ATTRIBUTES:
        assert comparison["attributes"][key]["top1"] == pytest.approx(
            first["attributes"][key]["top1"] - second["attributes"][key]["top1"]
        )
    out = capsys.readouterr().out
    assert "precision" not in out, "tables by class of two networks would be long"
    assert "second: teacher.pt: teacher (FashionCLIP)" in out
    p = comparison["mean_top1"]["p"]
    line = next(line for line in out.splitlines() if line.startswith("Top-1 mean"))
    assert line.split()[2:5] == [
        f"{first['mean_top1']:.4f}",
        f"{second['mean_top1']:.4f}",
        f"{first['mean_top1'] - second['mean_top1']:+.4f}",
    ]
    assert line.endswith(f"{p:.4f}")


def write_onnx(path, meta=None):
    """A file with export.py's input and outputs: the mean colour, by fixed matrices, through softmax."""
    from onnx import TensorProto, helper, numpy_helper, save

    nodes = [
        helper.make_node("Cast", ["pixels"], ["floats"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["floats"], ["colour"], axes=[1, 2], keepdims=0),
    ]
    weights, outputs = [], []
    for key, attribute in ATTRIBUTES.items():
        matrix = np.linspace(-0.02, 0.02, 3 * len(attribute.classes), dtype=np.float32).reshape(3, -1)
        weights.append(numpy_helper.from_array(matrix, f"{key}_weight"))
        nodes.append(helper.make_node("MatMul", ["colour", f"{key}_weight"], [f"{key}_logits"]))
        nodes.append(helper.make_node("Softmax", [f"{key}_logits"], [key], axis=1))
        shape = ["N", len(attribute.classes)]
        outputs.append(helper.make_tensor_value_info(key, TensorProto.FLOAT, shape))
    pixels = helper.make_tensor_value_info("pixels", TensorProto.UINT8, ["N", 224, 224, 3])
    graph = helper.make_graph(nodes, "colour", [pixels], outputs, weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    helper.set_model_props(model, {"meta": json.dumps(meta or {})})
    save(model, path)


def test_onnx_without_torch(place):
    write_onnx("colour.onnx")
    options = "--checkpoint colour.onnx --data-dir data --cache-dir cache --output onnx_out".split()
    program = (
        "import sys, evaluate\n"
        "class NoTorch:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name.split('.')[0] == 'torch': raise ImportError('no torch')\n"
        "sys.meta_path.insert(0, NoTorch())\n"
        f"evaluate.main({options!r})\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True, env={**os.environ, "PYTHONPATH": str(ROOT)})
    result, rows = read("onnx_out")
    assert result["images"] == len(rows) == COUNTS["val"]
    assert len({row[f"{attribute.short}_0"] for row in rows for attribute in ATTRIBUTES.values()}) > 3


def test_groups_and_a_third_part(place, without_matplotlib, tmp_path, capsys):
    """Two photos of each product: an exported file knows the column. Only validation photos may have chosen the epoch."""
    own = {
        key: {**value, "classes": {f"a {name}": {} for name in value["classes"]}}
        for key, value in ATTRIBUTES.content["attributes"].items()
    }
    third = {"table": "third.csv", "photos": "val"}
    content = {"image": "image_name", "group": "product", "test": third, "attributes": own}
    write_onnx("groups.onnx", {"attributes": Attributes(content, "").to_meta(tables=False), "export": {}})
    table = (place / "data" / "Fashion-How24_sub1_val.csv").read_text().splitlines()
    rows = [f"{row},{'product' if i == 0 else i // 2}" for i, row in enumerate(table)]
    (tmp_path / "val.csv").write_text("\n".join(rows))
    (tmp_path / "third.csv").write_text("\n".join(rows[:6]))
    (tmp_path / "val").symlink_to(place / "data" / "val")
    options = ["--checkpoint", "groups.onnx", "--data-dir", str(tmp_path), "--output", str(tmp_path / "out")]
    assert run(*options) == 0
    said = capsys.readouterr().out
    assert "7 images of val, in 4 groups" in said and "a little too good" in said
    result = read(tmp_path / "out")[0]
    assert (result["images"], result["groups"]) == (7, 4)
    assert "of groups: 36 for 0.90, 72 for 0.95, 368 for 0.99" in said
    # The first photo is alone, three products have two: of each, none, half or all of the photos are right.
    assert set(result["products"]["top1"]) == set(ATTRIBUTES)
    assert all(share * 8 % 1 == 0 for share in result["products"]["top1"].values())
    assert result["products"]["count"] == 4
    assert result["products"]["mean_top1"] == pytest.approx(
        np.mean(list(result["products"]["top1"].values()))
    )
    assert "by product" in said and all(
        f"{share:.4f}" in said for share in result["products"]["top1"].values()
    )
    assert run(*options, "--split", "test") == 2
    assert 'no "test"' in capsys.readouterr().err
    (tmp_path / "a.json").write_text(json.dumps(content))
    two = ["--attributes", str(tmp_path / "a.json"), *options[2:]]
    assert run("--checkpoint", "groups.onnx", "./groups.onnx", *two, "--split", "test") == 0
    said = capsys.readouterr().out
    assert "5 images of test, in 3 groups" in said and "a little too good" not in said
    assert "by permutation of whole groups" in said
    result = read(tmp_path / "out")[0]
    assert (result["split"], result["comparison"]["mean_top1"]["p"]) == ("test", 1)


def test_teacher_train_split_without_matplotlib(place, without_matplotlib, capsys):
    """The figures are written all the same."""
    assert (
        run("--checkpoint", "teacher.pt", "--split", "train", "--output", "plain", "--batch-size", "3") == 0
    )
    assert {path.name for path in (place / "plain").iterdir()} == FILES
    error = capsys.readouterr().err
    assert error.count("the pictures are not drawn") == 1 and "pip install matplotlib" in error
    result, rows = read("plain")
    assert result["role"] == "teacher" and result["images"] == len(rows) == COUNTS["train"]


def test_published_teacher(place, capsys, no_pictures):
    """A bare state dict; what it began from and its prompts are options. Prompts turned round turn the classes round."""
    import torch

    content = torch.load("teacher.pt")
    torch.save({k.replace("clip.", "base_model.", 1): v for k, v in content["model"].items()}, "published.pt")
    prompts = {key: attribute.prompts[::-1] for key, attribute in ATTRIBUTES.items()}
    Path("prompts.json").write_text(json.dumps(prompts), encoding="utf-8")
    options = "--clip-model random --prompts prompts.json".split()
    assert run("--checkpoint", "published.pt", *options, "--output", "published") == 0
    assert run("--checkpoint", "teacher.pt", "--output", "ours") == 0
    (published, turned), (_, rows) = read("published"), read("ours")
    assert published["role"] == "teacher"
    for attribute in ATTRIBUTES.values():
        columns = [f"{attribute.short}_{i}" for i in range(len(attribute.classes))]
        expected = [float(row[column]) for row in rows for column in columns[::-1]]
        assert [float(row[column]) for row in turned for column in columns] == pytest.approx(
            expected, abs=2e-6
        )
    capsys.readouterr()
    assert run("--checkpoint", "teacher.pt", *options) == 2
    assert "only for zero-shot or a published teacher" in capsys.readouterr().err


def test_other_tables_in_another_order(place, capsys, no_pictures):
    """--attributes: its columns and its order of classes for the table, the network's own order for the figures;
    an unknown cell is an empty label; a photo that cannot be read is left out."""
    assert run("--checkpoint", "teacher.pt", "--split", "train", "--output", "plain") == 0
    folder = place / "stranger"
    folder.mkdir()
    content = json.loads(json.dumps(ATTRIBUTES.content))
    for key, attribute in content["attributes"].items():
        attribute["classes"] = dict(list(attribute["classes"].items())[::-1])
        attribute["column"] = f"my {key}"
    content = {
        "attributes": dict(list(content["attributes"].items())[::-1]),
        "image": "file",
        "unknown": ["?"],
    }
    table = {"table": "t.csv", "photos": "../data/train"}
    (folder / "a.json").write_text(json.dumps({**content, "train": table}), encoding="utf-8")
    sizes = ATTRIBUTES.sizes
    rows = [["file", *(f"my {key}" for key in sizes)]]
    for i in range(COUNTS["train"]):
        rows.append([f"T SHIRT/{i}.png", *(size - 1 - i % size for size in sizes.values())])
    rows[1][1] = "?"
    broken = place / "data" / "train" / "T SHIRT" / "broken.png"
    broken.write_bytes(b"no photo")
    rows.append(["T SHIRT/broken.png", 0, 0, 0])
    with open(folder / "t.csv", "w", newline="", encoding="utf-8") as file:
        csv.writer(file, delimiter=";").writerows(rows)
    options = "--checkpoint teacher.pt --attributes stranger/a.json --data-dir stranger --split train".split()
    assert run(*options, "--output", "other") == 2
    assert "broken.png" in capsys.readouterr().err
    assert run(*options, "--output", "other", "--skip-unreadable") == 0
    assert "broken.png" in (place / "other" / "unreadable.txt").read_text(encoding="utf-8")
    (before, rows_before), (after, rows_after) = read("plain"), read("other")
    assert after["unreadable"] == 1 and before["unreadable"] == 0
    first, *rest = ATTRIBUTES
    for key in rest:
        assert after["attributes"][key] == before["attributes"][key]
    assert after["attributes"][first]["images"] == 3
    short = ATTRIBUTES[first].short
    for column, cell in (("label", "0"), ("label_name", ATTRIBUTES[first].classes[0])):
        assert (
            rows_after[0].pop(f"{short}_{column}") == "" and rows_before[0].pop(f"{short}_{column}") == cell
        )
    assert rows_after == rows_before


def test_other_classes_are_refused(place, capsys, no_pictures):
    from clip_model import FashionCLIP
    from utils.nets.checkpoint import save_checkpoint

    content = json.loads(json.dumps(ATTRIBUTES.content))
    turned = {
        key: dict(a, classes=dict(list(a["classes"].items())[::-1]))
        for key, a in content["attributes"].items()
    }
    other = {**content["attributes"], "embellishment": {"classes": {"none": {}, "much": {}}}}
    for name, each in (("turned.pt", turned), ("other.pt", other)):
        attributes = Attributes(dict(content, attributes=each), name)
        net = FashionCLIP(attributes, "random")
        save_checkpoint(name, net, {"attributes": attributes.to_meta(), **net.describe()})
    assert run("--checkpoint", "teacher.pt", "other.pt", "--output", "refused") == 2
    error = capsys.readouterr().err
    assert "teacher.pt and other.pt differ in classes" in error
    assert "embellishment: classes of the first only: point, heavy; of the second only: much" in error
    assert not os.path.exists("refused")
    assert run("--checkpoint", "teacher.pt", "turned.pt", "--output", "turned") == 0
    (first, rows), (second, turned_rows) = read("turned"), read("turned/second")
    for key, classes in ATTRIBUTES.sizes.items():
        label = f"{ATTRIBUTES[key].short}_label"
        assert [int(row[label]) for row in turned_rows] == [classes - 1 - int(row[label]) for row in rows]
        a, b = (figures["attributes"][key]["top1"] for figures in (first, second))
        assert first["comparison"]["attributes"][key]["top1"] == pytest.approx(a - b)


def test_exported_file_without_its_tables(place, capsys, no_pictures):
    """It does not tell them: the competition's are found without a word, of others --attributes is to tell."""
    import torch

    from networks import Student
    from utils.nets.checkpoint import save_checkpoint

    torch.manual_seed(0)
    content = json.loads(json.dumps(ATTRIBUTES.content))
    content["attributes"]["daily"]["classes"] = {"a": {}, "b": {}}
    for name, attributes in (("own", ATTRIBUTES), ("shop", Attributes(content, "shop"))):
        net = Student(attributes, backbone="test_efficientnet").folded()
        meta = {
            **net.describe(),
            "folded": True,
            "attributes": attributes.to_meta(tables=False),
            "export": {},
        }
        save_checkpoint(f"{name}_exported.pt", net, meta)
    assert run("--checkpoint", "own_exported.pt", "--output", "exported") == 0
    assert run("--checkpoint", "shop_exported.pt", "--output", "exported") == 2
    error = capsys.readouterr().err
    assert "data/val.csv: no such table" in error and "--attributes" in error and error.count("\n") == 1


# --- zero-shot ---------------------------------------------------------------------------------------


@pytest.fixture
def zero_shot(place, monkeypatch):
    """A function that runs evaluate.py with a random FashionCLIP of teacher.pt's weights, and returns what `read` does."""
    import torch

    from clip_model import FashionCLIP

    begin = FashionCLIP.__init__
    monkeypatch.setattr(FashionCLIP, "__init__", lambda *given: torch.manual_seed(0) and begin(*given))

    def zero_shot(*options):
        assert run("--clip-model", "random", "--checkpoint", *options) == 0
        return read(options[options.index("--output") + 1])

    return zero_shot


def test_zero_shot_is_fashionclip_as_it_comes(place, zero_shot, capsys, monkeypatch):
    from clip_model import FashionCLIP

    asked, encode = [], FashionCLIP.encode_prompts
    monkeypatch.setattr(FashionCLIP, "encode_prompts", lambda self: asked.append(1) or encode(self))
    Path("zero-shot").write_text("a file of that name")
    assert run("--checkpoint", "zero-shot", "--clip-model", "random", "--batch-size", "2") == 0
    assert len(asked) == 1, "the prompts were encoded for each batch"
    assert run("--checkpoint", "teacher.pt", "--output", "ours", "--batch-size", "2") == 0
    result, rows = read("model/zero-shot_val")
    ours, our_rows = read("ours")
    assert rows == our_rows and result["attributes"] == ours["attributes"]
    assert (result["checkpoint"], result["role"]) == ("zero-shot", "teacher")
    assert result["size_mb"] == pytest.approx(ours["size_mb"], rel=0.05)
    assert {path.name for path in (place / "model" / "zero-shot_val").iterdir()} == PICTURES | FILES
    out = capsys.readouterr().out
    assert "zero-shot: FashionCLIP as it comes, 7 images of val" in out and "AP" not in out.split()


def save_own(name, **changes):
    """own.json, and NAME, an untrained student's checkpoint of its attributes."""
    import torch

    from networks import Student
    from utils.nets.checkpoint import save_checkpoint

    tags = {"column": "tags", "contains": "b", "separator": "|", "classes": {"yes": {"prompt": "own prompt"}}}
    content = {
        "attributes": {
            "tagged": tags,
            "kind": {"column": "Gender", "classes": {"m": {}, "u": {}, "g": {}, "e": {}, "s": {}}},
        }
    }
    content["val"] = {"table": "tags.csv", "photos": "val"}
    content.update(changes)
    Path("own.json").write_text(json.dumps(content), encoding="utf-8")
    with open("data/tags.csv", "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["image_name", "tags", "Gender"])
        writer.writerows([f"T SHIRT/{i}.png", "a|B " if i % 3 else "a", i % 5] for i in range(COUNTS["val"]))
    attributes = Attributes(content, "own")
    torch.manual_seed(0)
    net = Student(attributes, backbone="test_efficientnet")
    for head in [*net.class_heads, *net.distillation_heads.values()]:
        torch.nn.init.normal_(head.weight, std=head.in_features**-0.5)
    save_checkpoint(name, net, {**net.describe(), "attributes": attributes.to_meta()})


def test_zero_shot_with_attributes_of_a_file(zero_shot, capsys, no_pictures):
    save_own("own.pt")
    result, rows = zero_shot("zero-shot", "--attributes", "own.json", "--output", "z")
    assert list(result["attributes"]) == ["tagged", "kind"]
    labels = [int(row["tagged_label_number"]) for row in rows]
    assert labels == [0, 1, 1, 0, 1, 1, 0]
    assert [row["tagged_label"] for row in rows] == [["no", "yes"][label] for label in labels]
    assert (
        list(rows[0])[:8]
        == "image_name tagged kind tagged_label kind_label tagged_confidence kind_confidence tagged_no".split()
    )
    for row in rows:
        assert row["kind"] == "muges"[int(row["kind_number"])]
        assert float(row["kind_confidence"]) == pytest.approx(float(row[f"kind_{row['kind']}"]), abs=6e-5)
    expected = metrics.average_precision(
        np.array(labels), np.array([float(row["tagged_yes"]) for row in rows])
    )
    assert result["attributes"]["tagged"]["average_precision"] == pytest.approx(expected)
    assert result["mean_average_precision"] == pytest.approx(expected)
    lines = capsys.readouterr().out.splitlines()
    start = next(number for number, line in enumerate(lines) if "Top-1" in line)
    header, tagged, kind = lines[start : start + 3]
    assert header.split()[-1] == "AP" and tagged.split()[-1] == f"{expected:.4f}" and kind.split()[-1] == "-"

    Path("prompts.json").write_text(json.dumps({"tagged": ["x", "y"], "kind": ["a", "b", "c", "d", "e"]}))
    _, others = zero_shot(
        "zero-shot", "--attributes", "own.json", "--prompts", "prompts.json", "--output", "p"
    )
    assert others != rows


@pytest.mark.parametrize("pair", [("zero-shot", "own.pt"), ("own.pt", "zero-shot")])
def test_zero_shot_beside_a_checkpoint_has_its_attributes_and_prompts(zero_shot, pair, no_pictures):
    """Without --attributes; the tables are the checkpoint's, too."""
    save_own("own.pt")
    alone, rows = zero_shot("zero-shot", "--attributes", "own.json", "--output", "alone")
    first, _ = zero_shot(*pair, "--output", "pair")
    folder = "pair/second" if pair[1] == "zero-shot" else "pair"
    result, its_rows = read(folder)
    assert its_rows == rows and result["attributes"] == alone["attributes"]
    assert result["checkpoint"] == "zero-shot" and list(result["attributes"]) == ["tagged", "kind"]
    assert first["comparison"]["checkpoint"] == pair[1]


def test_zero_shot_beside_an_exported_file_of_the_competition(zero_shot, no_pictures):
    """It names no tables; neither does zero-shot."""
    write_onnx("colour.onnx")
    zero_shot("zero-shot", "colour.onnx", "--output", "pair")
    (first, rows), (second, _) = read("pair"), read("pair/second")
    assert (first["checkpoint"], second["checkpoint"]) == ("zero-shot", "colour.onnx")
    assert len(rows) == COUNTS["val"] and first["attributes"].keys() == ATTRIBUTES.keys()


def test_zero_shot_bad_input(place, capsys):
    Path("prompts.json").write_text(json.dumps({"kind": ["a"]}))
    for options, message in (
        (
            ["zero-shot", "teacher.pt", "--attributes", "own.json"],
            "own.json and teacher.pt differ in classes",
        ),
        (["zero-shot", "--attributes", "absent.json"], "absent.json: no such file"),
        (
            ["zero-shot", "--clip-model", "random", "--prompts", "prompts.json"],
            "prompts prompts.json: must be",
        ),
        (["zero-shot", "--clip-model", "data"], "CLIP model data cannot be loaded"),
        (["zero-shot", "zero-shot", "zero-shot"], "takes one file, or two"),
        (["teacher.pt", "--clip-model", "random"], "only for zero-shot or a published teacher"),
    ):
        save_own("own.pt")
        clip = [] if "--clip-model" in options or "teacher.pt" in options[:1] else ["--clip-model", "random"]
        assert run("--checkpoint", *options, *clip, "--output", "bad") == 2
        assert message in capsys.readouterr().err
    assert not os.path.exists("bad")


def test_bad_input(place, without_matplotlib, capsys):
    import torch

    content, key = torch.load("model/s/model_1.pt"), list(ATTRIBUTES)[-1]
    next(iter(v for k, v in content["model"].items() if k.startswith("class_heads.2.")))[0] = math.nan
    torch.save(content, "broken.pt")
    for options, message in (
        (["--checkpoint", "absent.pt"], "absent.pt: no such file"),
        (["--checkpoint", "data/Fashion-How24_sub1_val.csv"], "not a readable checkpoint"),
        (["--checkpoint", "broken.pt"], f"{key} is NaN for {COUNTS['val']} of {COUNTS['val']} images"),
        (["--checkpoint", "teacher.pt", "--output", "teacher.pt"], "teacher.pt"),
    ):
        assert run(*options) == 2
        error = capsys.readouterr().err
        assert message in error and error.startswith("error: ") and error.count("\n") == 1, error
    assert run("--checkpoint", "a.pt", "b.pt", "c.pt") == 2
    assert "takes one file, or two to compare, not 3" in capsys.readouterr().err


def draw(folder, attributes, labels, probabilities):
    """The three pictures, which must be PNG files of a reasonable size; returns the evaluation."""
    pytest.importorskip("matplotlib")
    from utils.evaluation.pictures import draw_confusion, draw_mistakes, draw_reliability

    count = len(next(iter(labels.values())))
    pixels = np.random.default_rng(0).integers(0, 255, (count, 224, 224, 3), dtype=np.uint8)
    result = metrics.report(probabilities, labels)
    result["sure"] = {"attributes": confidence.measure(probabilities, labels)}
    draw_confusion(result, attributes, folder / "confusion.png", "title")
    (folder / "photos" / "가나").mkdir(parents=True)
    names = [f"가나/{'long name' * (number % 9)} ${number}$.png" for number in range(count)]
    for name in names:
        Image.new("RGB", (30, 50)).save(folder / "photos" / name)
    table = Table(names, labels, PhotoFolder(str(folder / "photos")), [], False, names)
    draw_reliability(result, probabilities, attributes, table, folder / "reliability.png", "title")
    draw_mistakes(probabilities, attributes, table, pixels, folder / "mistakes.png", "title")
    for name in PICTURES:
        with Image.open(folder / name) as picture:
            assert picture.format == "PNG" and max(picture.size) <= 20_000 and min(picture.size) >= 150
    return result


def attributes_with(*sizes, **content):
    """Attributes of so many classes each, with names that a careless reader of files takes for something else."""
    names = ["type", "split", "score", "image_name", "a.b", "sleeve type", "_$x$"]
    classes = [{f"class {i} of $5 to $10": {} for i in range(size)} for size in sizes]
    return Attributes(
        {"attributes": {name: {"classes": c} for name, c in zip(names, classes)}, **content}, "test"
    )


@pytest.mark.parametrize(
    "sizes",
    [(2,), (2, 3, 50), pytest.param((2, 3, 50, 6, 17, 2, 4), marks=pytest.mark.thorough)],
)
def test_pictures_of_other_attributes(tmp_path, sizes):
    """One attribute; three and seven, of many classes, a third of the labels not known, and one without any."""
    attributes = attributes_with(*sizes)
    labels, probabilities = random_set(60, attributes=attributes)
    for values in labels.values():
        values[::3] = -1
    if len(sizes) > 1:
        labels["score"][:] = -1
    result = draw(tmp_path, attributes, labels, probabilities)
    assert list(result["attributes"]) == list(attributes)


def test_mistakes_are_the_most_confident():
    from utils.evaluation.pictures import confident_mistakes

    probabilities = np.array([[0.9, 0.1], [0.6, 0.4], [0.2, 0.8], [0.3, 0.7]])
    chosen, wrong = confident_mistakes(probabilities, np.array([0, 1, 0, 0]), 2)
    assert chosen.tolist() == [2, 3] and wrong == 3
    chosen, wrong = confident_mistakes(probabilities, np.array([0, 1, -1, 0]), 2)
    assert chosen.tolist() == [3, 1] and wrong == 2


def test_pictures_of_a_perfect_network(tmp_path):
    """No mistake to show, and classes without an image: still pictures."""
    labels = {key: np.zeros(2, np.int64) for key in ATTRIBUTES}
    probabilities = {key: np.eye(n, dtype=np.float32)[[0, 0]] for key, n in ATTRIBUTES.sizes.items()}
    result = draw(tmp_path, ATTRIBUTES, labels, probabilities)
    assert result["mean_top1"] == result["mean_acsa"] == 1 and result["mean_ece"] == 0


@pytest.fixture
def drawn(monkeypatch, tmp_path):
    """Calls a function that draws, and returns its figure and all texts in it."""
    pytest.importorskip("matplotlib")
    from matplotlib.text import Text

    from utils.evaluation import pictures, plots

    def drawn(name, *args):
        kept = []
        with monkeypatch.context() as patch:
            patch.setattr(plots, "save", lambda figure, path: kept.append(figure))
            getattr(pictures, name)(*args)
        return kept[0], [text.get_text() for text in kept[0].findobj(Text) if text.get_text()]

    return drawn


def made_of(size):
    """An attribute's matrix: class i has i photos, of which one is taken for class 0; its evaluation's result."""
    attributes = attributes_with(size)
    matrix = np.diag(np.arange(size) - (np.arange(size) > 0))
    matrix[1:, 0] += 1
    figures = {"matrix": matrix.tolist(), "top1": 0.5, "acsa": None, "ece": 0.125}
    return attributes, {"attributes": {"type": figures}}


def test_confusion_of_few_classes(drawn):
    """In the file's order, each cell with its share and its photos."""
    attributes, result = made_of(3)
    figure, texts = drawn("draw_confusion", result, attributes, "path", "title")
    assert {"100%\n1", "50%\n1", "title", "label (photos), in the file's order"} <= set(texts)
    ticks = [tick.get_text() for tick in figure.axes[0].get_yticklabels()]
    assert ticks == [rf"class {i} of \$5 to \$10 ({i})" for i in range(3)]
    assert sum("Top-1" in text for text in texts) == 1 and "% of the label's photos" in texts


@pytest.mark.parametrize("size, shown", [(21, 21), (230, 200)])
def test_confusion_of_many_classes(drawn, size, shown):
    """The most frequent first, and figures of the cells above a tenth: one of ten photos is none."""
    attributes, result = made_of(size)
    figure, texts = drawn("draw_confusion", result, attributes, "path", "title")
    ax = figure.axes[0]
    assert f"label (photos), the most frequent of {size} first" in texts
    rows = [rf"class {i} of \$5 to \$10 ({i})" for i in range(size)][::-1][:shown]
    assert [tick.get_text() for tick in ax.get_yticklabels()] == rows
    if size == 21:
        cells = sorted(int(text.get_text()) for text in ax.texts)
        diagonal = [(i - 1) / i for i in range(2, size)]
        wrong = [1 / i for i in range(1, 10)]
        assert cells == sorted(round(100 * share) for share in (*diagonal, *wrong))


@pytest.mark.parametrize("count, points", [(0, 0), (1, 1), (20, 1), (50, 3), (400, 10)])
def test_points_of_the_reliability(drawn, count, points):
    """Each of equally many photos; one without a label is in none."""
    attributes, result = made_of(2)
    rng = np.random.default_rng(0)
    sure, labels = rng.uniform(0.5, 1, count + 3), np.zeros(count + 3, np.int64)
    labels[count:] = -1
    probabilities = {"type": np.stack([sure, 1 - sure], axis=1)}
    table = Table([], {"type": labels}, None, [], False, range(len(labels)))
    result["sure"] = {"attributes": confidence.measure(probabilities, table.labels)}
    figure, texts = drawn("draw_reliability", result, probabilities, attributes, table, "path", "title")
    line = figure.axes[0].get_lines()[0]
    order = np.array_split(np.sort(sure[:count]), points) if points else []
    assert line.get_xdata() == pytest.approx([part.mean() for part in order])
    assert list(line.get_ydata()) == [1] * points and any(
        "calibration error 0.1250" in text for text in texts
    )


def test_the_page_of_mistakes(drawn, tmp_path):
    """Rows that are used only; the file's name; a black garment on black is whole, and the black around the photo is none of it."""
    attributes = attributes_with(2, 3, 4)
    photo = np.zeros((100, 50, 3), np.uint8)
    photo[40:60, 10:40] = 200
    (tmp_path / "sub").mkdir()
    names = [f"sub/{number}.png" for number in range(8)]
    for name in names:
        Image.fromarray(photo).save(tmp_path / name)
    labels = {"type": np.ones(8, np.int64), "split": np.zeros(8, np.int64), "score": np.full(8, -1)}
    probabilities = {key: np.eye(size)[np.zeros(8, int)] for key, size in attributes.sizes.items()}
    table = Table(names, labels, PhotoFolder(str(tmp_path)), [], False, names)
    pixels = np.stack([letterbox(photo)] * 8)
    figure, texts = drawn("draw_mistakes", probabilities, attributes, table, pixels, "path", "title")
    counts = ["8 of 8", "0 of 8", "0 of 0"]
    titles = [attribute.title for attribute in attributes.values()]
    for title, count in zip(titles, counts):
        assert f"{title}: {count} labelled photos wrong" in texts
    assert {f"{number}.png\nsub" for number in range(8)} <= set(texts)
    tall, *low = (block.bbox.height for block in figure.subfigs)
    assert tall > 10 * max(low)
    shown = figure.axes[0].get_images()[0].get_array()
    assert shown.shape == (224, 224, 3) and (shown[:, :56] == 255).all() and (shown[:, 168:] == 255).all()
    assert (shown[:, 56:168] == pixels[0][:, 56:168]).all()
