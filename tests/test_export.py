"""The exported student is the checkpoint: folded, merged, in one small file that needs no PyTorch."""

import csv
import json
import os
import subprocess
import sys
import tempfile

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from kinds import BACKBONES, KINDS, save_student

import export
from networks import Student, load_network
from utils.base.cli import exit_code
from utils.base.errors import UserError
from utils.data.attributes import UNKNOWN, read_attributes
from utils.evaluation import confidence, metrics
from utils.evaluation.as_trained import read_as_trained
from utils.evaluation.inference import load_classifier
from utils.nets.checkpoint import read_checkpoint, save_checkpoint

ATTRIBUTES = read_attributes()  # the competition's

SIZES = {"fp32": 21.0, "fp16": 10.8, "int8": 6.5}  # MB at most
CLOSE = {"fp32": 1e-5, "fp16": 1e-2, "int8": 0.1}  # in probability


def command(work, output, *more):
    return f"--checkpoint {work}/student.pt --output {output} --data-dir {work}/data".split() + list(more)


def noise(count):
    return np.random.default_rng(1).integers(0, 256, (count, 224, 224, 3), dtype=np.uint8)


def test_folded_is_equal(tiny_vit):
    net, _ = load_network(f"{tiny_vit}/student.pt")
    folded, pixels = net.folded(), torch.from_numpy(noise(2)).permute(0, 3, 1, 2)
    assert net.taught and not folded.taught
    assert not any(isinstance(module, torch.nn.BatchNorm2d) for module in folded.modules())
    with torch.no_grad():
        for key, logits in net(pixels).items():
            assert (logits - folded(pixels)[key]).abs().max() < 1e-5
        features = torch.randn(8, net.backbone.num_features)
        for number, head in enumerate(folded.class_heads):
            average = (net.class_heads[number](features) + net.distillation_heads[str(number)](features)) / 2
            assert (head(features) - average).abs().max() < 1e-6


@pytest.mark.parametrize("precision", SIZES)
def test_onnx(tiny_vit, exported_tiny_vit, precision):
    path = exported_tiny_vit[precision]
    assert path.stat().st_size < SIZES[precision] * 1e6
    assert [p.name for p in tiny_vit.iterdir() if p.name.startswith(path.name)] == [path.name]
    reference, classify = load_classifier(f"{tiny_vit}/student.pt"), load_classifier(str(path))
    for count in (1, 3):  # any number of photos
        expected, got = reference(noise(count)), classify(noise(count))
        for key, classes in ATTRIBUTES.sizes.items():
            assert got[key].shape == (count, classes) and got[key].dtype == np.float32
            assert np.abs(got[key] - expected[key]).max() < CLOSE[precision]
    assert classify.role == "student"
    assert classify.meta["export"]["precision"] == precision and classify.meta["version"] == "tried"
    assert classify.meta["metrics"] == {"val_top1": 0.5}
    assert classify.attributes.content == ATTRIBUTES.to_meta(tables=False)


@pytest.mark.thorough
@pytest.mark.parametrize("name", (*BACKBONES[1:], "tiny_vit_11m_224", "tiny_vit_21m_224"))
def test_every_backbone(name, tmp_path):
    """In all precisions, for any number of photos."""
    torch.manual_seed(0)
    net, limits = Student(ATTRIBUTES, backbone=name), {"tiny_vit_11m_224": "fp16", "tiny_vit_21m_224": "int8"}
    for module in net.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = 1  # as after a long training
    with torch.no_grad():
        for head in [*net.class_heads, *net.distillation_heads.values()]:
            torch.nn.init.normal_(head.weight, std=net.width**-0.5)
        net(torch.from_numpy(noise(4)).permute(0, 3, 1, 2))
    net, path = net.folded(), f"{tmp_path}/x.onnx"
    expected = {
        key: logits.softmax(dim=1).numpy()
        for key, logits in net(torch.from_numpy(noise(3)).permute(0, 3, 1, 2)).items()
    }
    for precision, close in CLOSE.items():
        meta = dict(net.describe(), attributes=ATTRIBUTES.to_meta(), export={"precision": precision})
        export.write(net, path, meta, noise(4))
        kinds = {node.op_type for node in onnx.load(path).graph.node}
        assert "BatchNormalization" not in kinds, "it goes into the convolution before it"
        if limits.get(name) == precision:
            assert os.path.getsize(path) < 25e6
        for count in (1, 3):
            for key, got in load_classifier(path)(noise(count)).items():
                assert np.abs(got - expected[key][:count]).max() < close


@pytest.mark.parametrize("precision", ("fp32", "fp16"))
def test_pt(tiny_vit, precision, capsys):
    path = tiny_vit / f"{precision}.pt"
    export.main(command(tiny_vit, path, "--format", "pt", "--precision", precision, "--compare", "2"))
    assert path.stat().st_size < SIZES[precision] * 1e6
    expected, got = load_classifier(f"{tiny_vit}/student.pt")(noise(2)), load_classifier(str(path))(noise(2))
    assert all(np.abs(expected[key] - got[key]).max() < CLOSE[precision] for key in expected)
    said = capsys.readouterr().out
    assert all(words in said for words in ("MB of 25 MB", "one thread", "differ by at most", "mean Top-1"))


def test_int8_says_the_same_on_every_processor(exported_tiny_vit):
    """Also where sums of products of 8 bits are made in 16, as by AVX2 and AVX-512 without VNNI."""
    model = onnx.load(str(exported_tiny_vit["int8"]))
    stored = {one.name: onnx.numpy_helper.to_array(one) for one in model.graph.initializer}
    weights = [stored.get(n.input[0]) for n in model.graph.node if n.op_type == "DequantizeLinear"]
    largest = [int(abs(w.astype(int)).max()) for w in weights if w is not None and w.dtype == np.int8]
    assert len(largest) > 20 and 32 < max(largest) <= 64
    answers = []
    for exact in "01":
        options = onnxruntime.SessionOptions()
        options.add_session_config_entry("session.x64quantprecision", exact)
        session = onnxruntime.InferenceSession(model.SerializeToString(), options, ["CPUExecutionProvider"])
        answers.append(session.run(None, {"pixels": noise(2)}))
    assert all(np.abs(here - there).max() < 1e-5 for here, there in zip(*answers))


def test_onnx_needs_no_torch(work, exported):
    """predict.py reads an exported file where PyTorch cannot be imported."""
    code = "import sys; sys.modules['torch'] = None; import predict; predict.main(sys.argv[1:])"
    subprocess.run(
        [sys.executable, "-c", code, "--checkpoint", str(exported["fp32"]), "--output", f"{work}/out.csv",
         f"{work}/data/val"], check=True,
    )  # fmt: skip
    with open(work / "out.csv", encoding="utf-8") as file:
        assert len(list(csv.reader(file))) == 1 + 10


def test_refused(work, exported, tmp_path, monkeypatch):
    out = tmp_path / "x.onnx"
    with pytest.raises(UserError, match=r"--max-mb 0\.1"):
        export.main(command(work, out, "--max-mb", "0.1"))
    with pytest.raises(UserError, match=r"need photos: no \./D"), monkeypatch.context() as m:
        m.chdir(tmp_path)
        export.main(["--checkpoint", f"{work}/student.pt", "--output", str(out), "--precision", "int8"])
    with pytest.raises(UserError, match="not a student's checkpoint"):
        export.main(["--checkpoint", str(exported["fp32"]), "--output", str(out)])
    (tmp_path / "none.pt").write_bytes(b"no checkpoint")
    with pytest.raises(UserError, match=r"none\.pt: not a readable checkpoint"):
        export.main(["--checkpoint", f"{tmp_path}/none.pt", "--output", str(out)])
    for bad in (["--output", "x.pt"], ["--output", "x.pt", "--format", "pt", "--precision", "int8"]):
        with pytest.raises(UserError, match=r"export\.py --help"):
            export.parse_args(["--checkpoint", "x", *bad])
    (tmp_path / "zero-shot").mkdir()
    with pytest.raises(UserError, match="--checkpoint zero-shot: not a student") as error:
        export.main(f"--checkpoint zero-shot --output {out}".split())
    assert "\n" not in str(error.value)
    (tmp_path / "zero-shot").rmdir()
    with pytest.raises(UserError, match="no such table"):
        export.main(command(work, out, "--data-dir", f"{tmp_path}/absent"))
    assert not out.exists() and [p.name for p in tmp_path.iterdir()] == ["none.pt"]


def test_fall_in_accuracy_is_refused(work, tmp_path, monkeypatch):
    scores, report = iter([0.9, 0.5]), metrics.report
    monkeypatch.setattr(metrics, "report", lambda *given: {**report(*given), "mean_top1": next(scores)})
    with pytest.raises(UserError, match=r"mean Top-1 falls by 0\.4000"):
        export.main(command(work, tmp_path / "x.pt", "--format", "pt"))
    assert not list(tmp_path.iterdir())


def test_without_data(work, tmp_path, capsys, monkeypatch):
    """Nothing is compared, and that is said."""
    monkeypatch.chdir(tmp_path)
    options = f"--checkpoint {work}/student.pt --output {tmp_path}/x.pt --format pt".split()
    export.main(options)
    said = capsys.readouterr().out
    assert "nothing was compared" in said and "no ./Dataset" in said
    assert "Top-1" not in said and "differ" not in said and (tmp_path / "x.pt").is_file()
    assert "no answer is sure" in said and read_checkpoint(tmp_path / "x.pt")[1]["sure"] is None


@pytest.mark.parametrize("form, precision", [("onnx", "int8"), ("pt", "fp16"), ("hub", "int8")])
def test_thresholds_are_those_of_its_own_answers(work, tmp_path, form, precision, monkeypatch):
    """Also of int8; config.json has those of the weights beside it; a file that is exported anew without photos has none."""
    monkeypatch.chdir(tmp_path)
    output = f"x.{form}"
    options = command(work, output, "--format", form, "--precision", precision)
    export.main(options)
    files = [output] if form != "hub" else [output, f"{output}/student.onnx"]
    for file in files:
        classifier = load_classifier(file)
        table, pixels = export.photos_of(classifier, "val", 99, data_dir=f"{work}/data")
        measured = confidence.measure(classifier.predict(pixels, 16), table.labels, table.groups)
        found = confidence.find_measured(classifier)
        assert classifier.meta["sure"] == {"attributes": found}
        for key, one in measured.items():
            assert found[key]["temperature"] == pytest.approx(one["temperature"], rel=1e-4)
            assert np.array(found[key]["steps"]) == pytest.approx(np.array(one["steps"]), abs=1e-4)
    if form == "pt":
        export.main(["--checkpoint", output, "--output", "again.onnx"])
        with pytest.raises(UserError, match="never evaluated"):
            confidence.find_measured(load_classifier("again.onnx"))
    if form == "hub":
        card = (tmp_path / output / "README.md").read_text(encoding="utf-8")
        errors = [one["ece"][1] for one in load_classifier(output).meta["sure"]["attributes"].values()]
        assert "if 95 % of the sure ones shall be right: " in card
        assert all(
            f"{key} 0% (calibration error {error:.4f})" in card for key, error in zip(ATTRIBUTES, errors)
        )


def table(work, attributes, path):
    """A table of the work's ten photos with a label each, half of the cells of the last attribute unknown."""
    names = sorted(
        str(photo.relative_to(work / "data" / "val")) for photo in (work / "data" / "val").rglob("*.*g")
    )
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        columns = list(dict.fromkeys(a.column for a in attributes.values()))
        writer.writerow([attributes.layout.image, *columns])
        for row, name in enumerate(names):
            cells = {}
            for number, a in enumerate(attributes.values()):
                if a.contains is None:
                    cells[a.column] = a.classes[row % len(a.classes)]
                else:
                    value = a.contains if row % (number + 2) else "other"
                    cells[a.column] = f"{cells.get(a.column, '')}{a.separator}{value}"
            cells = [cells[column] for column in columns]
            writer.writerow([name, *cells[:-1], "?" if row % 2 else cells[-1]])


@pytest.mark.parametrize("kind", KINDS)
def test_any_attributes(work, tmp_path, kind, capsys):
    """The exported file tells the checkpoint's attributes, and predict.py writes them."""
    attributes = save_student(tmp_path / "s.pt", kind)
    table(work, attributes, tmp_path / "table.csv")
    part = {"table": "table.csv", "photos": "photos"}
    (tmp_path / "photos").symlink_to(work / "data" / "val")
    tables = dict(KINDS[kind], train=part, val=part, unknown=["?"])
    first = next(iter(attributes))
    turned = tables["attributes"][first].get("classes", {})
    turned = dict(reversed(list(turned.items())))  # in another order
    tables["attributes"] = {**tables["attributes"], first: dict(tables["attributes"][first], classes=turned)}
    (tmp_path / "a.json").write_text(json.dumps(tables))
    output, precision = (
        tmp_path / "s.onnx",
        {"one": "fp16", "seven": "fp32", "lists": "fp16", "odd": "int8"}[kind],
    )
    export.main(["--checkpoint", f"{tmp_path}/s.pt", "--output", str(output), "--precision", precision,
                 "--data-dir", str(tmp_path), "--attributes", f"{tmp_path}/a.json"])  # fmt: skip
    said = capsys.readouterr().out
    assert "mean Top-1 on 10 validation photos" in said
    figures = said[said.index("Top-1  ") :].splitlines()
    assert figures[0].split() == ["Top-1", "checkpoint", "file", "majority"]
    assert all(line.startswith(key) for key, line in zip(attributes, figures[1:]))
    expected, exported = load_classifier(f"{tmp_path}/s.pt"), load_classifier(output)
    assert exported.attributes.content == attributes.to_meta(tables=False)
    got = exported(noise(2))
    assert list(got) == list(attributes)
    for key, values in expected(noise(2)).items():
        assert got[key].shape == values.shape and np.abs(got[key] - values).max() < CLOSE[precision]
    code = "import sys; sys.modules['torch'] = None; import predict; predict.main(sys.argv[1:])"
    arguments = [f"{tmp_path}/table.csv", "--images", f"{tmp_path}/photos", "--checkpoint", str(output)]
    arguments += ["--output", f"{tmp_path}/out.csv"]
    subprocess.run([sys.executable, "-c", code, *arguments], check=True)
    with open(tmp_path / "out.csv", newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    sure = [f"{key}_confidence" for key in attributes]
    assert len(rows) == 10 and list(rows[0]) == [attributes.layout.image, *attributes, *sure]
    assert all(
        1 / len(attributes[key].classes) - 1e-4 <= float(row[f"{key}_confidence"]) <= 1
        for row in rows
        for key in attributes
    )
    assert all(row[key] in attributes[key].classes for row in rows for key in attributes)


@pytest.mark.parametrize("cells", (("long", "short"), ("0", "1")))
def test_labels_follow_the_networks_classes(work, tmp_path, cells):
    """Whatever their order in the file of --attributes, names or numbers in that order; an unknown cell stays so."""
    save_student(tmp_path / "s.pt", "one")  # short, long
    rows = [f"{photo.relative_to(work / 'data' / 'val')}" for photo in (work / "data" / "val").rglob("*.*g")]
    lines = [f"{name},{[*cells, '?'][i % 3]}" for i, name in enumerate(sorted(rows))]
    (tmp_path / "t.csv").write_text("\n".join(["photo,sleeve", *lines]))
    part = {"table": "t.csv", "photos": "p"}
    (tmp_path / "p").symlink_to(work / "data" / "val")
    content = {"image": "photo", "train": part, "val": part, "unknown": ["?"]}
    content["attributes"] = {"sleeve": {"classes": {"long": {}, "short": {}}}}
    (tmp_path / "a.json").write_text(json.dumps(content))
    checkpoint = load_classifier(f"{tmp_path}/s.pt")
    where = str(tmp_path), f"{tmp_path}/a.json"
    (read,) = read_as_trained([checkpoint], "val", *where)
    assert read.exif  # as the network was trained
    assert read.labels["sleeve"].tolist() == ([1, 0, UNKNOWN] * 4)[:10]
    photos, pixels = export.photos_of(checkpoint, "val", 10, data_dir=where[0], attributes=where[1])
    assert photos.labels["sleeve"].tolist() == read.labels["sleeve"].tolist()
    assert photos.groups == read.groups and pixels.shape == (10, 224, 224, 3)
    content["attributes"]["sleeve"]["classes"] = {"long": {}, "none": {}}
    (tmp_path / "a.json").write_text(json.dumps(content))
    with pytest.raises(UserError, match="of the first only: none; of the second only: short"):
        read_as_trained([checkpoint], "val", *where)


def test_options_that_are_none(tmp_path, monkeypatch):
    """Of a checkpoint's options that are no object nothing is published."""
    monkeypatch.chdir(tmp_path)
    save_student("s.pt", "one", options=["lr", 1])
    export.main("--checkpoint s.pt --output o.pt --format pt".split())
    assert load_classifier("o.pt").meta["options"] == {}


@pytest.mark.parametrize("format", ("onnx", "pt"))
def test_no_path_of_this_machine_is_published(tmp_path, format, monkeypatch):
    """Old checkpoints hold the folders of their data set and cache; new ones the names of tables."""
    monkeypatch.chdir(tmp_path)
    options = {
        "data_dir": "/home/secret/Dataset",
        "cache_dir": "/home/secret/.cache",
        "version": "v",
        "lr": 0.5,
    }
    options["clip_model"] = "/home/secret/clip"
    attributes = save_student(tmp_path / "s.pt", "one", options=options)
    state, meta = read_checkpoint(tmp_path / "s.pt")
    meta["attributes"] = dict(attributes.to_meta(), train={"table": "secret.csv", "photos": "secret"})
    torch.save({"model": state, "meta": meta}, tmp_path / "s.pt")
    export.main(["--checkpoint", "s.pt", "--output", f"o.{format}", "--format", format])
    content = (tmp_path / f"o.{format}").read_bytes()
    for name in (b"secret", str(tmp_path).encode(), b"/home"):
        assert name not in content
    options = load_classifier(f"o.{format}").meta["options"]
    assert options == {"version": "v", "lr": 0.5, "clip_model": "clip"}


def test_file_of_an_earlier_version(exported, tmp_path):
    """It does not say its attributes: the competition's, by the names of its outputs."""
    import onnx

    model = onnx.load(str(exported["fp32"]))
    outputs = list(model.graph.output)[::-1]
    del model.graph.output[:], model.metadata_props[:]
    model.graph.output.extend(outputs)
    onnx.save(model, f"{tmp_path}/old.onnx")
    expected, got = (
        load_classifier(exported["fp32"])(noise(2)),
        load_classifier(f"{tmp_path}/old.onnx")(noise(2)),
    )
    assert list(got) == list(ATTRIBUTES)
    assert all(np.array_equal(expected[key], got[key]) for key in ATTRIBUTES)


def test_what_the_exporter_says_is_one_line(work, tmp_path, monkeypatch, capsys):
    """Its cause and the way out; the graph is in a file."""
    from utils.deployment import onnx_graph

    def graph(net):
        try:
            raise NotImplementedError("aten::roll is not there\nand more")
        except NotImplementedError as error:
            raise RuntimeError("step 1/3\n" + "%1 : Tensor\n" * 1496) from error

    monkeypatch.setattr(onnx_graph, "trace", graph)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    capsys.readouterr()
    assert exit_code(lambda: export.main(command(work, tmp_path / "x.onnx"))) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "NotImplementedError: aten::roll is not there" in error
    assert "--format pt" in error
    (kept,) = tmp_path.iterdir()
    assert str(kept) in error and kept.read_text().count("%1 : Tensor") > 1490


def test_teacher_is_refused(tmp_path):
    from clip_model import FashionCLIP

    net = FashionCLIP(ATTRIBUTES, "random")
    save_checkpoint(tmp_path / "t.pt", net, dict(net.describe(), attributes=ATTRIBUTES.to_meta()))
    with pytest.raises(UserError, match="a teacher's; only a student"):
        export.main(["--checkpoint", f"{tmp_path}/t.pt", "--output", f"{tmp_path}/t.onnx"])
    assert load_classifier(f"{tmp_path}/t.pt").role == "teacher"


def test_another_models_onnx(exported, tmp_path):
    import onnx

    model = onnx.load(str(exported["int8"]))
    model.graph.output.pop()
    onnx.save(model, f"{tmp_path}/other.onnx")
    with pytest.raises(UserError, match="ONNX file of another model"):
        load_classifier(f"{tmp_path}/other.onnx")
    (tmp_path / "none.onnx").write_text(json.dumps({}))
    with pytest.raises(UserError, match="not a readable ONNX file"):
        load_classifier(f"{tmp_path}/none.onnx")
