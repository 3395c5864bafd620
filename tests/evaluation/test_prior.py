"""--prior balanced: what is left of the training images' shares is taken off the logits, once."""

import csv
import json

import numpy as np
import pytest
import torch
from conftest import ATTRIBUTES

import evaluate
import export
import predict
from clip_model import FashionCLIP
from networks import load_network
from utils.base import log
from utils.base.cli import exit_code
from utils.data.dataset import read_tables
from utils.evaluation.inference import load_classifier
from utils.losses import log_shares
from utils.nets.checkpoint import read_checkpoint, save_checkpoint

PRIOR = {key: torch.linspace(2, -1, size).log_softmax(0).tolist() for key, size in ATTRIBUTES.sizes.items()}
NONE = {key: [0.0] * size for key, size in ATTRIBUTES.sizes.items()}


@pytest.fixture(scope="module")
def prior(work, tmp_path_factory):
    """A folder with that student, which says its prior, as student.pt, and a teacher."""
    folder = tmp_path_factory.mktemp("prior")
    net, meta = load_network(work / "student.pt")
    save_checkpoint(folder / "student.pt", net, {**meta, "prior": PRIOR})
    net = FashionCLIP(ATTRIBUTES, "random")
    meta = dict(net.describe(), attributes=ATTRIBUTES.to_meta(), prior=PRIOR)
    save_checkpoint(folder / "teacher.pt", net, meta)
    return folder


@pytest.fixture(scope="module")
def pixels():
    return np.random.default_rng(1).integers(0, 256, (3, 224, 224, 3), dtype=np.uint8)


def balanced(probabilities):
    """By hand: each class divided by its prior, and the sum is 1 again."""
    found = {}
    for key, values in probabilities.items():
        odds = values / np.exp(PRIOR[key])
        found[key] = odds / odds.sum(axis=1, keepdims=True)
    return found


def close(first, second, most=2e-5):
    return all(np.abs(first[key] - second[key]).max() < most for key in ATTRIBUTES)


@pytest.mark.parametrize("name", ["student", "teacher"])
def test_of_a_checkpoint(prior, pixels, name):
    plain = load_classifier(prior / f"{name}.pt")(pixels)
    even = load_classifier(prior / f"{name}.pt", prior="balanced")
    assert close(even(pixels), balanced(plain)) and not close(even(pixels), plain, 0.1)
    assert even.meta["prior"] == NONE


@pytest.mark.parametrize("form", ["onnx", "pt", "hub"])
def test_of_an_export_and_never_twice(prior, work, pixels, form, monkeypatch):
    monkeypatch.chdir(prior)
    expected = load_classifier("student.pt")(pixels)
    for said in ("trained", "balanced"):
        output = f"{said}.{form}"
        options = ["--checkpoint", "student.pt", "--output", output, "--format", form, "--prior", said]
        export.main([*options, "--data-dir", f"{work}/data"])
        files = [output] if form != "hub" else [output, f"{output}/student.onnx"]
        for file in files:
            even = load_classifier(file, prior="balanced")(pixels)
            assert close(even, balanced(expected)), f"{file}: --prior balanced"
            plain = load_classifier(file)
            assert close(plain(pixels), expected if said == "trained" else balanced(expected)), file
            assert plain.meta["prior"] == (PRIOR if said == "trained" else NONE), file
    if form == "hub":  # as it was trained, but for the biases of both heads
        (before, _), (net, _) = load_network("student.pt"), load_network(output)
        for (key, old), (_, new) in zip(before.all_heads(), net.all_heads()):
            assert torch.equal(old.weight, new.weight)
            assert torch.allclose(new.bias, old.bias - torch.tensor(PRIOR[key]))


def test_in_commands(prior, work, place, no_pictures):
    """predict.py and evaluate.py; what they wrote without the option stays as it was."""
    photos, found = f"{work}/data/val", {}
    for said in ("trained", "balanced"):
        options = ["--checkpoint", f"{prior}/student.pt", "--prior", said]
        predict.main([*options, "--probabilities", "--output", f"{said}.csv", photos])
        evaluate.main([*options, "--data-dir", f"{work}/data", "--cache-dir", "cache", "--output", said])
        log.stop()
        assert json.loads((place / said / "evaluation.json").read_text())["prior"] == said
        with open(f"{said}.csv", newline="") as one, open(f"{said}/predictions.csv", newline="") as other:
            both = [sorted(csv.DictReader(file), key=lambda row: row["image_name"]) for file in (one, other)]
        shorts = {key: attribute.short for key, attribute in ATTRIBUTES.items()}
        found[said] = {
            key: np.array([[float(row[f"{short}_{i}"]) for i in range(len(PRIOR[key]))] for row in both[0]])
            for key, short in shorts.items()
        }
        for short in shorts.values():
            assert [row[short] for row in both[0]] == [row[short] for row in both[1]], "the two differ"
    assert close(found["balanced"], balanced(found["trained"]))
    predict.main(
        ["--checkpoint", f"{prior}/student.pt", "--probabilities", "--output", "unasked.csv", photos]
    )
    assert (place / "unasked.csv").read_text() == (place / "trained.csv").read_text()


def test_a_checkpoint_that_does_not_say_its_prior(work, prior, place, capsys):
    state, meta = read_checkpoint(prior / "student.pt")
    turned = {key: values[::-1] for key, values in PRIOR.items()}
    for number, wrong in enumerate(
        (None, "daily", {**turned, "daily": [0.0]}, {**PRIOR, "daily": [None] * 6})
    ):
        torch.save({"model": state, "meta": {**meta, "prior": wrong}}, place / f"{number}.pt")
    said = "does not say which prior is in its logits; train it anew"
    for name in (f"{work}/student.pt", *(f"{number}.pt" for number in range(4))):
        for command, more in (
            (predict, [f"{work}/data/val"]),
            (evaluate, ["--data-dir", f"{work}/data"]),
            (export, ["--output", "x.pt", "--format", "pt"]),
        ):
            code = exit_code(lambda: command.main(["--checkpoint", name, "--prior", "balanced", *more]))  # noqa: B023
            error = capsys.readouterr().err.strip()
            assert code == 2 and error == f"error: --prior balanced: {name} {said}"
    assert sorted(path.name for path in place.iterdir()) == ["0.pt", "1.pt", "2.pt", "3.pt"]


def test_a_run_says_its_prior(train, photos):
    """Of the classes' shares: in the teacher's own logits, half of it beside that of zero-shot, which has none."""
    labels = read_tables(str(photos), ATTRIBUTES, ["train"])["train"].labels
    shares = {key: values.numpy() for key, values in log_shares(labels, ATTRIBUTES.sizes).items()}
    small = "--kd-learning True --epochs 1".split()
    runs = {
        "alone": ["--distillation-type", "none"],
        "adjusted": ["--distillation-type", "none", "--logit-adjustment", "1"],
        "taught": ["--distillation-type", "soft", "--teacher", "zero-shot"],
        "brought": [
            "--distillation-type",
            "soft",
            "--teacher",
            "alone/model_1.pt",
            "--logit-adjustment",
            "0.5",
        ],
        "file": ["--distillation-type", "soft", "--teacher-logits", "bare.npz"],
    }
    expected = {"alone": 1, "adjusted": 0, "taught": 1, "brought": 0.5, "file": None}
    for version, options in runs.items():
        if version == "taught":
            options = [*options, "--save-teacher-logits", "said.npz"]
        if version == "file":
            with np.load("said.npz") as file:
                np.savez("bare.npz", **{k: file[k] for k in file.files if not k.startswith("prior.")})
        train("--version", version, *small, *options)
        said = read_checkpoint(f"model/{version}/model_1.pt")[1]["prior"]
        if expected[version] is None:
            assert said is None
            continue
        for key, values in shares.items():
            power = expected[version] * values
            power = power - np.log(np.exp(power).sum())
            power = power / 2 if version == "taught" else power  # zero-shot's is 0
            assert said[key] == pytest.approx(power.tolist(), abs=1e-5), (version, key)


def test_a_teacher_that_does_not_say_its_prior(train, fails, place, photos):
    """A checkpoint of an earlier version, a published one, a file of logits."""
    small = "--kd-learning True".split()
    train("--version", "t", *small, "--distillation-type", "none", "--epochs", "1")
    state, meta = read_checkpoint("model/t/model_1.pt")
    torch.save({"model": state, "meta": {k: v for k, v in meta.items() if k != "prior"}}, "model/t/old.pt")
    torch.save(FashionCLIP(ATTRIBUTES, "random").state_dict(), "model/t/bare.pt")
    names = read_tables(str(photos), ATTRIBUTES, ["train"])["train"].names
    logits = {key: np.zeros((len(names), size), np.float32) for key, size in ATTRIBUTES.sizes.items()}
    np.savez("bare.npz", image_name=np.array(names), **logits)
    some = {f"prior.{key}": PRIOR[key] for key in list(PRIOR)[:2]}
    np.savez("some.npz", image_name=np.array(names), **logits, **some)
    adjusted = ["--version", "a", *small, "--distillation-type", "soft", "--logit-adjustment", "1"]
    for teacher in (
        ["--teacher", "t/old.pt"],
        ["--teacher-logits", "bare.npz"],
        ["--teacher-logits", "some.npz"],
    ):
        message = fails(*adjusted, *teacher)
        assert "--logit-adjustment: the teacher does not say which prior is in its logits" in message
        assert "\n" not in message
    priors = {f"prior.{key}": values for key, values in PRIOR.items()}
    np.savez("whole.npz", image_name=np.array(names), **logits, **priors)
    train(*adjusted, "--teacher-logits", "whole.npz", "--epochs", "1")
