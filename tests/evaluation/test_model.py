"""`from predict import load`: the answers of predict.py, as a pandas.DataFrame, for Python programs."""

import csv
import os
import re
from pathlib import Path

import numpy as np
import pandas
import pytest
import torch
from conftest import ATTRIBUTES
from kinds import save_student
from PIL import Image

import export
import predict
from clip_model import FashionCLIP
from networks import load_network
from predict import load
from utils.base.errors import UserError
from utils.data.photos import letterbox, read_rgb
from utils.deployment import share
from utils.evaluation import model
from utils.evaluation.predictions import distinct
from utils.nets.checkpoint import save_checkpoint


@pytest.fixture(scope="module")
def own(tmp_path_factory, work):
    """A folder with a student of own attributes as .pt, .onnx and hub, and its photos."""
    folder = tmp_path_factory.mktemp("own")
    save_student(folder / "a.pt", "lists")
    export.main(["--checkpoint", f"{folder}/a.pt", "--output", f"{folder}/a.onnx"])
    net, meta = load_network(folder / "a.pt")
    share.write_folder(f"{folder}/a.hub", f"{folder}/a.onnx", net, meta, "# a card")
    (folder / "photos").symlink_to(work / "data" / "val")
    return folder


def photos_of(folder):
    return sorted(str(path) for path in (folder / "photos").rglob("*.*g"))


@pytest.mark.parametrize("form", ["pt", "onnx", "hub"])
@pytest.mark.parametrize("sure", [None, 0.95])
def test_it_says_what_predict_writes(own, place, form, sure, capsys, monkeypatch):
    steps = {"temperature": 2.0, "steps": [[0.96, 0.6]]}
    monkeypatch.setattr(model, "find_measured", lambda one, _: dict.fromkeys(one.attributes, steps))
    photos, options = photos_of(own), ["--checkpoint", f"{own}/a.{form}"]
    predict.main([*photos, *options, *(["--sure", str(sure)] if sure else [])])
    with open("predictions.csv", newline="") as file:
        header, *rows = csv.reader(file)
    os.remove("predictions.csv")
    capsys.readouterr()
    frame = load(f"{own}/a.{form}", sure=sure, batch_size=3)(photos)
    assert isinstance(frame, pandas.DataFrame) and list(frame.columns) == ["photo", *header[1:]]
    assert list(frame.photo) == photos
    assert frame.isna().any(axis=None) == bool(sure)
    for at, row in enumerate(rows):
        classes, confidences = frame.iloc[at, 1:4], frame.iloc[at, 4:]
        assert [one or "" for one in classes] == row[1:4]
        assert [f"{one:.4f}" for one in confidences] == row[4:]
    assert capsys.readouterr() == ("", "") and os.listdir() in ([], ["cache"])


def test_images_and_arrays(own):
    ask, paths = load(f"{own}/a.pt"), photos_of(own)[:3]
    expected = ask(paths).drop(columns="photo")
    with Image.open(paths[1]) as image:
        arrays = read_rgb(paths[0]), image, Path(paths[2])
        frame = ask(arrays)
    assert list(frame.photo) == [0, 1, paths[2]]
    pandas.testing.assert_frame_equal(frame.drop(columns="photo"), expected, atol=1e-6)
    assert list(ask(paths[0]).photo) == [paths[0]] and len(ask(Image.fromarray(arrays[0]))) == 1
    assert list(ask(arrays[0]).photo) == [0] and len(ask(np.stack([arrays[0]] * 2))) == 2
    grey = Image.open(paths[0]).convert("L")
    alpha = Image.open(paths[0]).convert("RGBA")
    assert len(ask(iter([grey, alpha, np.zeros((1, 9, 3), np.uint8)]))) == 3


def test_bad_photos(own, place):
    ask, good = load(f"{own}/a.pt"), photos_of(own)[0]
    Path("bad.jpg").write_bytes(b"no photo")
    for photos, said in (
        ([good, "absent.jpg"], "^absent.jpg: no such file$"),
        ([good, Path("bad.jpg")], "^bad.jpg: cannot identify image file"),
        ([good, np.ones((9, 9, 3))], r"^photos\[1\]: ndarray: float64 \(9, 9, 3\); .* uint8 \(H, W, 3\), is"),
        (np.ones((9, 9, 3), np.float32), r"^photos\[0\]: ndarray: float32 \(9, 9, 3\); "),
        *(
            ([np.zeros(shape, np.uint8)], rf"^photos\[0\]: ndarray: uint8 {re.escape(str(shape))}; ")
            for shape in ((3, 9, 9), (9, 9), (9, 9, 1), (9, 9, 2), (9, 9, 4), (0, 9, 3))
        ),
        ([np.ones((9, 9, 3), bool)], "uint8"),
        ([good, None], r"^photos\[1\]: NoneType: no photo; a path, an image of Pillow, or"),
        ([torch.zeros(9, 9, 3, dtype=torch.uint8)], r"^photos\[0\]: Tensor: no photo; "),
        ([], "^no photos: "),
    ):
        with pytest.raises(UserError, match=said):
            ask(photos)


def test_bad_options(own, work):
    for options, said in (
        ({"sure": 1}, "^sure 1: a share of right answers is from 0.5 to below 1"),
        ({"sure": "0.9"}, "^sure 0.9: a share of right answers is from 0.5 to below 1"),
        ({"prior": "even"}, "^--prior even: not known; there are trained, balanced"),
        ({"device": "mps"}, "^--device mps: not known; there are auto, cpu, cuda"),
        ({"batch_size": 0}, "^batch_size 0: a whole number from 1 on is needed"),
        ({"batch_size": 2.5}, "^batch_size 2.5: "),
        ({"path": "absent.pt"}, "^checkpoint absent.pt: no such file"),
        ({"path": f"{work}/student.pt", "sure": 0.9}, "was never evaluated"),
    ):
        with pytest.raises(UserError, match=said):
            load(**{"path": f"{own}/a.pt", **options})


def test_embeddings(own, tmp_path):
    photos = photos_of(own)[:3]
    pixels = torch.from_numpy(np.stack([letterbox(read_rgb(path)) for path in photos])).permute(0, 3, 1, 2)
    said = load(f"{own}/a.pt", batch_size=2).embed(photos)
    net, _ = load_network(f"{own}/a.pt")
    assert said.shape == (3, net.width) and said.dtype == np.float32
    with torch.no_grad():
        assert np.abs(said - net.backbone(net.normalize(pixels)).numpy()).max() < 1e-4
    teacher = FashionCLIP(ATTRIBUTES, "random")
    meta = dict(teacher.describe(), attributes=ATTRIBUTES.to_meta())
    save_checkpoint(tmp_path / "t.pt", teacher, meta)
    said = load(tmp_path / "t.pt").embed(photos)
    with torch.no_grad():
        logits = teacher.eval()(pixels)
    unit = said / np.linalg.norm(said, axis=1, keepdims=True)
    text = teacher.encode_prompts().detach().numpy()
    expected = torch.cat(list(logits.values()), dim=1).numpy()
    assert np.allclose(unit @ text.T * teacher.clip.logit_scale.exp().item(), expected, atol=1e-3)
    with pytest.raises(UserError, match=r"a\.onnx: an \.onnx does not tell what it sees"):
        load(f"{own}/a.onnx").embed(photos)


def test_columns_that_are_alike():
    assert distinct(["photo", "photo", "a", "photo"]) == ["photo", "photo_2", "a", "photo_2_2"]
