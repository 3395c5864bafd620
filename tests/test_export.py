"""The exported student is the checkpoint: folded, merged, in one small file that needs no PyTorch."""

import csv
import json
import subprocess
import sys

import numpy as np
import pytest
import torch
from utils.folding import fold

import export
from clip_model import PROMPTS
from utils.attributes import ATTRIBUTES, num_classes
from utils.checkpoint import save_checkpoint
from utils.errors import UserError
from utils.export import prompts_hash
from utils.inference import load_classifier, load_network

SIZES = {"fp32": 21.0, "fp16": 10.8, "int8": 6.5}  # MB at most
CLOSE = {"fp32": 1e-5, "fp16": 1e-2, "int8": 0.1}  # in probability


def command(work, output, *more):
    return f"--checkpoint {work}/student.pt --output {output} --data-dir {work}/data".split() + list(more)


def noise(count):
    return np.random.default_rng(1).integers(0, 256, (count, 224, 224, 3), dtype=np.uint8)


def test_folded_is_equal(work):
    net, _ = load_network(f"{work}/student.pt")
    folded, pixels = fold(net), torch.from_numpy(noise(2)).permute(0, 3, 1, 2)
    assert net.distillation and not folded.distillation
    assert not any(isinstance(module, torch.nn.BatchNorm2d) for module in folded.modules())
    with torch.no_grad():
        for key, logits in net(pixels).items():
            assert (logits - folded(pixels)[key]).abs().max() < 1e-5
        features = torch.randn(8, net.backbone.num_features)
        for key, head in folded.class_heads.items():
            average = (net.class_heads[key](features) + net.distillation_heads[key](features)) / 2
            assert (head(features) - average).abs().max() < 1e-6


@pytest.mark.parametrize("precision", SIZES)
def test_onnx(work, exported, precision):
    assert exported[precision].stat().st_size < SIZES[precision] * 1e6
    assert [p.name for p in work.iterdir() if p.name.startswith(exported[precision].name)] == [
        exported[precision].name
    ]
    reference, classify = load_classifier(f"{work}/student.pt"), load_classifier(str(exported[precision]))
    for count in (1, 3):  # any number of photos
        expected, got = reference(noise(count)), classify(noise(count))
        for key, classes in num_classes().items():
            assert got[key].shape == (count, classes) and got[key].dtype == np.float32
            assert np.abs(got[key] - expected[key]).max() < CLOSE[precision]
    assert classify.role == "student"
    assert classify.meta["export"]["precision"] == precision and classify.meta["version"] == "tried"
    assert classify.meta["metrics"] == {"val_top1": 0.5}
    assert list(classify.meta["classes"]) == list(ATTRIBUTES)


@pytest.mark.parametrize("precision", ("fp32", "fp16"))
def test_pt(work, precision, capsys):
    path = work / f"{precision}.pt"
    export.main(command(work, path, "--format", "pt", "--precision", precision))
    assert path.stat().st_size < SIZES[precision] * 1e6
    expected, got = load_classifier(f"{work}/student.pt")(noise(2)), load_classifier(str(path))(noise(2))
    assert all(np.abs(expected[key] - got[key]).max() < CLOSE[precision] for key in expected)
    said = capsys.readouterr().out
    assert all(words in said for words in ("MB of 25 MB", "one thread", "differ by at most", "mean Top-1"))


def test_onnx_needs_no_torch(work, exported):
    """predict.py reads an exported file where PyTorch cannot be imported."""
    code = "import sys; sys.modules['torch'] = None; import predict; predict.main(sys.argv[1:])"
    subprocess.run(
        [sys.executable, "-c", code, "--checkpoint", str(exported["fp32"]), "--output", f"{work}/out.csv",
         f"{work}/data/val"], check=True,
    )  # fmt: skip
    with open(work / "out.csv", encoding="utf-8") as file:
        assert len(list(csv.reader(file))) == 1 + 10


def test_refused(work, exported, tmp_path):
    out = tmp_path / "x.onnx"
    with pytest.raises(UserError, match="--max-mb 20"):
        export.main(command(work, out, "--max-mb", "20"))
    with pytest.raises(UserError, match="calibrated on photos"):
        export.main(command(work, out, "--precision", "int8", "--data-dir", str(tmp_path)))
    with pytest.raises(UserError, match="exported already"):
        export.main(["--checkpoint", str(exported["fp32"]), "--output", str(out)])
    (tmp_path / "none.pt").write_bytes(b"no checkpoint")
    with pytest.raises(UserError, match=r"none\.pt: not a readable checkpoint"):
        export.main(["--checkpoint", f"{tmp_path}/none.pt", "--output", str(out)])
    for bad in (["--output", "x.pt"], ["--output", "x.pt", "--format", "pt", "--precision", "int8"]):
        with pytest.raises(UserError, match=r"export\.py --help"):
            export.parse_args(["--checkpoint", "x", *bad])
    assert not out.exists() and [p.name for p in tmp_path.iterdir()] == ["none.pt"]


def test_fall_in_accuracy_is_refused(work, tmp_path, monkeypatch):
    scores = iter([0.9, 0.5])
    monkeypatch.setattr("utils.metrics.evaluate", lambda *_: {"mean_top1": next(scores)})
    with pytest.raises(UserError, match=r"mean Top-1 falls by 0\.4000"):
        export.main(command(work, tmp_path / "x.pt", "--format", "pt"))
    assert not list(tmp_path.iterdir())


def test_without_data(work, tmp_path, capsys):
    """Drawn pictures are compared, and that is said."""
    options = (
        f"--checkpoint {work}/student.pt --output {tmp_path}/x.pt --format pt --data-dir {tmp_path}".split()
    )
    export.main(options)
    said = capsys.readouterr().out
    assert "compared on drawn pictures" in said and "drawn pictures; the same classes" in said
    assert "Top-1" not in said and (tmp_path / "x.pt").is_file()


def test_prompts_hash(tmp_path, monkeypatch):
    """It is that of the teacher's prompts: its own, those of --prompts, or this project's."""
    monkeypatch.chdir(tmp_path)
    turned = {key: list(sentences)[::-1] for key, sentences in PROMPTS.items()}
    (tmp_path / "model" / "a").mkdir(parents=True)
    save_checkpoint("model/a/t.pt", torch.nn.Linear(1, 1), {"prompts": turned})
    (tmp_path / "p.json").write_text(json.dumps(turned))
    ours = prompts_hash({"teacher": "zero-shot"})
    others = [{"teacher": "a/t.pt"}, {"teacher": "zero-shot", "prompts": "p.json"}]
    assert len(ours) == 64 and {prompts_hash(options) for options in others}.isdisjoint({ours, None})
    assert prompts_hash(others[0]) == prompts_hash(others[1])
    assert prompts_hash({}) is prompts_hash({"teacher": "gone.pt"}) is None


def test_teacher_is_refused(tmp_path):
    from clip_model import FashionCLIP

    net = FashionCLIP("random")
    save_checkpoint(tmp_path / "t.pt", net, dict(net.describe(), role="teacher"))
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
