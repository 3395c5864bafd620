"""What one has is where one goes on: a student trains on with other classes, and a teacher need not know all of them."""

import json
import os
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import ATTRIBUTES, SHORT, assert_same_run, same, write_own
from kinds import write_teacher

import export
import train as script
from clip_model import FashionCLIP
from networks import Student, build_network, load_network
from utils.base import log
from utils.data.attributes import UNKNOWN, Attributes
from utils.evaluation.inference import load_classifier
from utils.losses import DistillationLoss, LossOptions, class_shares, learned
from utils.nets.checkpoint import read_file, save_checkpoint
from utils.training.teacher import AskedTeacher

SMALL = "test_efficientnet"
SOFT = "--kd-learning --distillation-type soft".split()
ALONE = "--kd-learning --distillation-type none".split()


def attributes(**classes):
    content = {key: {"classes": {name: {} for name in names}} for key, names in classes.items()}
    return Attributes({"attributes": content}, "test")


def student(its, **given):
    """One that has learned: its heads say something."""
    torch.manual_seed(0)
    net = Student(its, backbone=SMALL, **given).eval()
    for _, head in net.all_heads():
        torch.nn.init.normal_(head.weight, std=0.3)
        torch.nn.init.normal_(head.bias)
    return net


def save(path, net, **meta):
    save_checkpoint(path, net, {**net.describe(), "attributes": net.attributes.to_meta(), **meta})


def pixels(count=3):
    return torch.randint(256, (count, 3, 224, 224), dtype=torch.uint8)


def begin(its, path, **given):
    args = {"kd_learning": True, "distils": True, "student": SMALL, "student_weights": str(path), "given": {}}
    return build_network(SimpleNamespace(**{**args, **given}), its)


# --- a student ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("distils", [True, False])
@pytest.mark.parametrize("distillation", [True, False])
def test_a_student_begins_with_what_it_knows(place, capsys, distillation, distils):
    old = student(
        attributes(kind=["a", "b", "c"], gone=["x", "y"], colour=["red", "blue"]), distillation=distillation
    )
    if distillation:
        old.weigh_heads({"kind": 0.5, "gone": 0.5, "colour": 1.0})
    save("old.pt", old)
    log.start()
    its = attributes(colour=["blue", "red"], new=["1", "2"], kind=["d", " A", "C", "e"])
    net = begin(its, "old.pt", distils=distils)
    said = capsys.readouterr().out
    assert "goes on from old.pt (test_efficientnet" in said and "its heads of colour, kind" in said
    assert "begin anew: new (1, 2), kind (d, e); that are dropped: kind (b), gone (x, y)\n" in said
    assert same(net.backbone.state_dict(), old.backbone.state_dict()) and net.training
    x = pixels()
    with torch.no_grad():
        before, now = old(x), net.eval()(x)
        features = net.backbone(net.normalize(x))
    assert torch.allclose(now["colour"], before["colour"][:, [1, 0]], atol=1e-5)
    assert torch.allclose(now["kind"][:, [1, 2]], before["kind"][:, [0, 2]], atol=1e-5)
    for _, head in net.all_heads()[2:3]:  # both heads begin so
        mean = before["kind"][:, [0, 2]].mean(dim=1)
        assert (head(features)[:, 0] - mean).abs().max() < 1 and not torch.equal(
            head.weight[0], head.weight[3]
        )


def test_a_new_class_does_not_win_at_once(place):
    """Its logit is the mean of the others, but for what a fresh layer says."""
    torch.manual_seed(1)
    names = [str(number) for number in range(9)]
    save("old.pt", student(attributes(kind=names)))
    net, x = begin(attributes(kind=[*names, "new"]), "old.pt").eval(), pixels(8)
    with torch.no_grad():
        logits = net(x)["kind"]
    assert (logits.argmax(dim=1) != 9).all()
    others = logits[:, :9]
    assert ((others.min(dim=1)[0] < logits[:, 9]) & (logits[:, 9] < others.max(dim=1)[0])).all()


@pytest.mark.parametrize("named", [[], ["--student", SMALL]], ids=["its backbone", "named"])
def test_it_trains_on_to_the_same_numbers(train, place, photos, named):
    """Without --student the backbone is the checkpoint's, and the file is not needed again."""
    path = write_own(place / "own", photos, {"kind": 3, "colour": 2})
    options = [*SHORT[:-2], "--attributes", str(path), "--data-dir", str(path.parent), *ALONE]
    assert SHORT[-2] == "--student"
    script.main([*options, "--version", "first", "--student", SMALL, "--epochs", "1"])
    content = json.loads(path.read_text())
    content["attributes"]["kind"]["classes"].pop("kind 2")
    content["unknown"].append("kind 2")
    path.write_text(json.dumps(content))
    on = [*options, "--student-weights", "model/first/best.pt", *named]
    script.main([*on, "--version", "whole"])
    script.main([*on, "--version", "s", "--epochs", "1"])
    assert "are dropped: kind (kind 2)" in Path("logs/s/s_training.log").read_text()
    os.rename("model/first", "gone")
    script.main([*on, "--version", "s", "--resume"])
    assert_same_run("s", "whole", 2)
    assert load_network("model/s/best.pt")[0].backbone_name.startswith(SMALL)


@pytest.mark.parametrize("share, warns", [(0.2, False), (0.3, True)])
def test_photos_that_it_may_have_learned(place, capsys, share, warns):
    """Rows stay in their part when others come; with another share they do not."""
    own, other = (
        Attributes({**attributes(kind=["a", "b"]).content, "val": val}, "x") for val in (0.2, share)
    )
    save("old.pt", student(own))
    log.start()
    begin(other, "old.pt")
    assert ("warning: old.pt does not say that it was trained" in capsys.readouterr().err) == warns


def test_what_is_no_student_to_go_on_from(place, fails):
    save("a.pt", student(ATTRIBUTES))
    said = fails("--version", "n", *ALONE, "--student-weights", "a.pt", "--student", "resnet10t")
    assert "--student resnet10t: --student-weights a.pt is a test_efficientnet" in said and "\n" not in said
    save("folded.pt", student(ATTRIBUTES).folded(), folded=True)
    assert "exported" in fails("--version", "n", *ALONE, "--student-weights", "folded.pt")
    (place / "clip").mkdir()
    write_teacher(place / "clip")
    save("teacher.pt", FashionCLIP(ATTRIBUTES, str(place / "clip")))
    torch.save({"text_model.a": torch.zeros(1)}, "published.pt")
    for path in ("teacher.pt", "published.pt"):
        said = fails("--version", "n", *ALONE, "--student-weights", path)
        assert f"--student-weights {path}: a teacher's" in said and "\n" not in said


def test_a_backbone_alone_brings_no_heads(place):
    old = student(ATTRIBUTES)
    torch.save(old.backbone.state_dict(), "backbone.pth")
    torch.save(
        {f"base_model.{name}": value for name, value in old.backbone.state_dict().items()}, "published.pth"
    )
    for path in ("backbone.pth", "published.pth"):
        net = begin(ATTRIBUTES, path)
        assert same(net.backbone.state_dict(), old.backbone.state_dict())
        assert not torch.equal(net.class_heads[0].weight, old.class_heads[0].weight)


# --- a teacher that does not know all ----------------------------------------------------------------


@pytest.fixture
def shop(train, place, photos):
    """Runs train.py on own attributes, of which the teacher t has no "worn", and only three of the four kinds."""
    path = write_own(place / "own", photos, {"worn": 2, "kind": 4, "colour": 3}, 0.1)
    content = json.loads(path.read_text())
    fewer = json.loads(path.read_text())
    del fewer["attributes"]["worn"], fewer["attributes"]["kind"]["classes"]["kind 3"]
    fewer["unknown"].append("kind 3")
    path.with_name("fewer.json").write_text(json.dumps(fewer))
    assert list(content["attributes"]) == ["worn", "kind", "colour"]

    def run(version, *options, file="own.json"):
        train("--version", version, "--attributes", str(path.with_name(file)), *options, data_dir=path.parent)

    run("t", *ALONE, "--epochs", "1", file="fewer.json")
    return run


def log_of(version):
    return Path(f"logs/{version}/{version}_training.log").read_text(encoding="utf-8")


TAUGHT = [*SOFT, "--teacher", "t/best.pt", "--logit-adjustment", "0.5"]


def test_a_teacher_that_lacks_an_attribute_and_a_class(shop, place):
    more = ["--views", "2", "--save-teacher-logits", "said.npz"]
    shop("whole", *TAUGHT, *more)
    told = "the teacher does not know worn (worn 0, worn 1), kind (kind 3): all of it is learned from the labels alone"
    assert log_of("whole").count(told) == 1
    state, meta = (read_file("model/whole/best.pt")[key] for key in ("model", "meta"))
    heads = {name.rpartition(".")[0] for name in state if name.startswith("distillation_heads")}
    assert heads == {"distillation_heads.2"} and meta["taught"] == ["colour"]
    assert meta["class_share"] == {"worn": 1.0, "kind": 1.0, "colour": 0.5}
    assert all(len(values) == size for values, size in zip(meta["prior"].values(), (2, 4, 3)))
    with np.load("said.npz") as file:
        assert {name for name in file.files if name.startswith("logits.")} == {"logits.colour"}

    shop("s", *TAUGHT, *more[:-1], "other.npz", "--epochs", "1")
    shop("s", *TAUGHT, *more[:-1], "other.npz", "--resume")
    assert_same_run("s", "whole", 2)
    shop("file", *SOFT, "--teacher-logits", "said.npz", "--logit-adjustment", "0.5", "--views", "2")
    assert same(read_file("model/file/best.pt")["model"], state), "the file says the same"
    assert "said.npz: says nothing of worn, kind: learned from the labels alone" in log_of("file")

    net = load_network("model/whole/best.pt")[0]
    export.main("--checkpoint model/whole/best.pt --output whole.onnx".split())
    x = pixels()
    with torch.no_grad():
        said, folded = net(x), net.folded()(x)
    exported = load_classifier("whole.onnx")(x.permute(0, 2, 3, 1).numpy())
    for key, logits in said.items():
        assert torch.allclose(folded[key], logits, atol=1e-4)
        assert np.allclose(exported[key], logits.softmax(dim=1).numpy(), atol=1e-4)


@pytest.mark.parametrize("kind", ["soft", "hard"])
def test_photos_without_labels_and_such_a_teacher(shop, place, photos, kind):
    """They teach what the teacher tells, and nothing else."""
    more = place / "more"
    more.mkdir()
    for number, photo in enumerate(sorted((photos / "val").rglob("*.*g"))):
        os.symlink(photo, more / f"{number}{photo.suffix}")
    options = ["--kd-learning", "--distillation-type", kind, "--teacher", "t/best.pt"]
    shop("s", *options, "--unlabelled", str(more), "--follow-links")
    shop("r", *options, "--unlabelled", str(more), "--follow-links", "--epochs", "1")
    shop("r", *options, "--unlabelled", str(more), "--follow-links", "--resume")
    assert_same_run("r", "s", 2)
    logits = read_file("model/s/last.pt")["progress"]["teacher_logits"]
    assert list(logits) == ["colour"] and len(logits["colour"]) > 12


def test_an_attribute_that_nobody_tells(shop, fails, place):
    table = place / "own" / "shop.csv"
    lines = [line.split(";") for line in table.read_text().splitlines()]
    table.write_text(
        "\n".join(
            ";".join([line[0], "" if number else line[1], *line[2:]]) for number, line in enumerate(lines)
        )
    )
    options = ["--attributes", str(place / "own" / "own.json"), *SOFT, "--teacher", "t/best.pt"]
    assert "worn: no training label" in fails("--version", "s", *options, data_dir=place / "own")


def test_a_teacher_that_knows_more(shop, place):
    """The student's classes are chosen, in its order; an attribute that the student has not is not asked."""
    shop("large", *ALONE, "--epochs", "1")
    options = [
        *SOFT,
        "--epochs",
        "1",
        "--teacher",
        "model/large/best.pt",
        "--save-teacher-logits",
        "said.npz",
    ]
    shop("s", *options, file="fewer.json")
    assert "of the teacher's classes, kind (kind 3) are left out of its softmax" in log_of("s")
    assert "does not know" not in log_of("s") and "taught" not in read_file("model/s/best.pt")["meta"]
    assert load_network("model/s/best.pt")[1]["options"]["teacher"] == "large/best.pt"
    with np.load("said.npz") as file:
        assert file["logits.kind"].shape[1] == 3 and "logits.worn" not in file.files


def test_the_teachers_choice():
    """Columns and prior of the classes that the student has, by name; smoothed ones of its attributes only."""
    own = attributes(kind=["B", "a"], sleeve=["long", "none"], colour=["red", "green"])
    known = attributes(
        colour=["blue", "green"], kind=["a", "x", "b"], gone=["1", "2"], sleeve=["none", "long"]
    )

    class Net(torch.nn.Module):
        attributes = known
        describe = staticmethod(dict)

    prior = {key: [float(number) for number in range(size)] for key, size in known.sizes.items()}
    meta = {"prior": prior, "smoothed": ["gone", "colour", "sleeve"]}
    teacher = AskedTeacher(lambda: (Net(), meta), own, None, None)
    assert teacher.taught == ["kind", "sleeve"] and teacher.smoothed == ["sleeve"]
    assert teacher.prior == {"kind": [2.0, 0.0], "sleeve": [1.0, 0.0]}


def test_the_loss_of_what_is_not_taught():
    """The plain cross-entropy, whatever alpha is."""
    torch.manual_seed(0)
    labels = {key: torch.tensor([0, 1, UNKNOWN, 2]) for key in ("alone", "taught")}
    logits, taught = ({key: torch.randn(4, 3) for key in labels} for _ in range(2))
    del taught["alone"]
    for alpha in (0.0, 0.7, 1.0):
        loss = DistillationLoss(LossOptions("soft", alpha, 2.0))((logits, taught), taught, labels)
        plain = DistillationLoss(LossOptions())(logits, None, labels)
        assert loss["alone"] == plain["alone"] > 0
        assert torch.allclose(loss["taught"], (1 - alpha) * plain["taught"], atol=1e-6)  # taught by itself


@pytest.mark.parametrize("alpha", [0.0, 0.7, 1.0])
@pytest.mark.parametrize("kind", ["soft", "hard"])
def test_shares_and_priors_of_what_is_not_taught(kind, alpha):
    labels, sizes = {key: np.array([0, 0, 0, 1]) for key in ("alone", "taught")}, {"alone": 2, "taught": 2}
    options = LossOptions(kind, alpha)
    shares = class_shares(options, labels, ["taught"])
    assert shares == {"alone": 1.0, "taught": {0.0: 1.0, 0.7: 0.5, 1.0: 0.0}[alpha]}
    teacher = SimpleNamespace(prior={"taught": [-3.0, -1.0]}, smoothed=["taught"])
    said = learned(options, labels, sizes, teacher, {"taught": torch.eye(2)[[0, 1, 1, 1]]})
    assert said["prior"]["alone"] == pytest.approx(np.log([0.75, 0.25]).tolist())
    other = np.log([0.25, 0.75]) if kind == "hard" else np.array([-3.0, -1.0])
    expected = shares["taught"] * np.log([0.75, 0.25]) + (1 - shares["taught"]) * other
    assert said["prior"]["taught"] == pytest.approx(expected.tolist(), abs=1e-6)
    assert (said["decided"] is None) == (kind == "soft") and "alone" not in (said["decided"] or {})


def test_meta_that_leave_out_a_head(place):
    """Of a file that says nothing of it, all heads are there; of a wrong one, the weights do not fit."""
    net = student(ATTRIBUTES)
    net.keep_heads(["gender"])
    net.weigh_heads({key: 0.5 if key == "gender" else 1.0 for key in ATTRIBUTES})
    save("a.pt", net)
    loaded, x = load_network("a.pt")[0], pixels()
    with torch.no_grad():
        assert same(loaded(x), net(x)) and loaded.taught == ["gender"]
        assert list(loaded.train()(x)[1]) == ["gender"]
    for wrong in (["daily"], "gender", None, [["gender"]], 3):
        save("wrong.pt", net, taught=wrong)
        with pytest.raises(Exception, match="does not fit"):
            load_network("wrong.pt")


@pytest.mark.parametrize("option", ["--student-weights", "--teacher"])
def test_what_is_read_is_not_overwritten(place, fails, option):
    os.makedirs("model/a")
    save("model/a/best.pt", student(ATTRIBUTES))
    for source in ("model/a/best.pt", "model/a"):
        said = fails("--version", "a", "--overwrite", "--kd-learning", option, source)
        assert f"{source} is in model/a, which --overwrite removes" in said
