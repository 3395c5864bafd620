"""--teacher-logits and --save-teacher-logits: distil from a file."""

import gc
import os
import shutil
import time
import weakref
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import ATTRIBUTES

from clip_model import FashionCLIP
from utils.base.cli import exit_code
from utils.base.errors import DiskFull, UserError
from utils.data.attributes import read_attributes
from utils.data.dataset import read_tables
from utils.data.photo_cache import PHOTO, Pixels
from utils.data.pixels import Images
from utils.data.views import ViewOptions, Views
from utils.training import engine
from utils.training import teacher as targets
from utils.training.answers import KEPT
from utils.training.teacher import PREFIX, PRIOR, LogitsFile, identity_of, load_teacher, save_logits

SOFT = "--kd-learning True --distillation-type soft --epochs 1".split()
ONE_VIEW = Views(ViewOptions(1, 0, 0.5, 0.7, 1.0, False, 0.0))


@pytest.fixture
def rows(photos):
    """What such a file holds for the training images, with numbers of no teacher."""
    names = read_tables(str(photos), ATTRIBUTES, ["train"])["train"].names
    random = np.random.RandomState(0)
    logits = {key: random.randn(len(names), len(a.classes)) for key, a in ATTRIBUTES.items()}
    return {"image_name": np.array(names), **logits}


def weights(version):
    return torch.load(f"model/{version}/model_1.pt", map_location="cpu")["model"]


@pytest.mark.cuda
def test_a_file_teaches_as_its_teacher_does(train, place):
    train("--version", "asked", *SOFT, "--teacher", "zero-shot", "--save-teacher-logits", "taught.npz")
    with np.load("taught.npz") as file:
        saved = {key: file[key] for key in file.files if not key.startswith((PRIOR, "fashion-"))}
        assert all((file[PRIOR + key] == 0).all() for key in ATTRIBUTES), "zero-shot has seen no labels"
    order = np.random.RandomState(0).permutation(len(saved["image_name"]))
    bare = {key.replace(PREFIX, ""): values for key, values in saved.items()}  # as earlier versions wrote it
    assert set(bare) == {"image_name", *ATTRIBUTES}
    np.savez("shuffled.npz", **{key: values[order] for key, values in bare.items()})
    np.savez("others.npz", **{**saved, PREFIX + "daily": saved[PREFIX + "daily"][::-1]})
    for version in ("shuffled", "others"):
        train("--version", version, *SOFT, "--teacher-logits", f"{version}.npz")
    asked, shuffled, others = weights("asked"), weights("shuffled"), weights("others")
    assert all(torch.equal(asked[name], shuffled[name]) for name in asked), "rows are not matched by name"
    assert not all(torch.equal(asked[name], others[name]) for name in asked), "the file plays no part"


@pytest.mark.cuda
@pytest.mark.parametrize("views", [1, 2])
def test_a_teacher_is_kept_for_further_views_only(train, place, monkeypatch, views):
    nets, kept = [], []
    load, epoch = targets.load_teacher, engine.train_one_epoch

    def loads(*args):
        net, meta = load(*args)
        nets.append(weakref.ref(net))
        return net, meta

    def trains(*args):
        gc.collect()
        kept.append(nets[0]() is not None)
        return epoch(*args)

    monkeypatch.setattr(targets, "load_teacher", loads)
    monkeypatch.setattr(engine, "train_one_epoch", trains)
    options = ["--teacher", "zero-shot", "--save-teacher-logits", "taught.npz", "--views", str(views)]
    train("--version", "a", *SOFT, *options)
    assert len(nets) == 1 and kept == [views == 2]


def without(key):
    return lambda rows: {name: values for name, values in rows.items() if name != key}


def with_first(key, value):
    def change(rows):
        changed = rows[key].copy()
        changed[0] = value
        return {**rows, key: changed}

    return change


@pytest.mark.parametrize(
    "change, named",
    [
        (without("image_name"), "image_name"),
        (lambda rows: {"image_name": rows["image_name"]}, "needs some of logits.daily, logits.gender"),
        (lambda rows: {**rows, "daily": rows["daily"][:, 1:]}, "(16, 6)"),
        (lambda rows: {**rows, "daily": rows["daily"].astype(str)}, "finite numbers"),
        (lambda rows: {**rows, "image_name": rows["image_name"].astype(object)}, "dtype=str"),
        (
            lambda rows: {**rows, "image_name": np.char.encode(rows["image_name"], "utf-16")},
            "not a readable .npz",
        ),
        (with_first("embellishment", np.nan), "finite numbers"),
        (with_first("image_name", "another.jpg"), "no row for 1 of the images"),
        (lambda rows: {name: np.concatenate([v, v[:2]]) for name, v in rows.items()}, "2 names occur"),
    ],
)
def test_files_that_do_not_fit(fails, rows, place, change, named):
    np.savez("bad.npz", **change(rows))
    message = fails("--version", "a", *SOFT, "--teacher-logits", "bad.npz")
    assert "bad.npz" in message and named in message


@pytest.mark.parametrize("content", [None, b"", b"no zip", b"PK\x03\x04 half of one"])
def test_no_such_file(fails, place, content):
    if content is not None:
        (place / "bad.npz").write_bytes(content)
    assert "bad.npz" in fails("--version", "a", *SOFT, "--teacher-logits", "bad.npz")


def test_any_damaged_byte_is_one_error(place):
    def read():
        try:
            LogitsFile("a.npz", {"kind": 2})
        except UserError as error:
            return str(error)

    np.save("a.npy", np.zeros((3, 2)))
    os.rename("a.npy", "a.npz")
    assert "a.npz: not a readable .npz file" in read()
    np.savez_compressed("a.npz", image_name=np.array(["a", "b", "c"]), kind=np.zeros((3, 2)))
    whole = Path("a.npz").read_bytes()
    assert read() is None
    damaged = 0
    for place_ in range(len(whole)):
        Path("a.npz").write_bytes(whole[:place_] + bytes([whole[place_] ^ 255]) + whole[place_ + 1 :])
        damaged += read() is not None
    assert damaged > len(whole) / 2


def answers(tmp_path, identity="a", precision="fp32", device="cpu", photos=1, attributes=ATTRIBUTES):
    """What the cache has of a teacher and three photos."""
    said = {"identity": identity, "prior": None}
    setup = SimpleNamespace(precision=SimpleNamespace(name=precision))
    teacher = targets.AskedTeacher(None, attributes, setup, str(tmp_path), said)
    images = Images(Pixels([], np.zeros(3, PHOTO)), torch.device("cpu"))
    images.pixels.photos["pixels"], images.device = photos, torch.device(device)
    teacher.prepare(None, images, ONE_VIEW)
    return teacher.answers


def test_the_cache_tells_teachers_apart(tmp_path):
    fewer = read_attributes()
    fewer.pop("gender")
    others = [
        {"identity": "b"},
        {"precision": "bf16"},
        {"device": "cuda"},
        {"photos": 2},
        {"attributes": fewer},
    ]
    paths = [
        answers(tmp_path, **other).path(view) for other in ({}, *others) for view in (None, ["options", 1])
    ]
    assert answers(tmp_path).path(None) == paths[0] and len(set(paths)) == 12


def said(number):
    return {key: np.full((3, size), number, np.float32) for key, size in ATTRIBUTES.sizes.items()}


def test_what_a_teacher_says_takes_its_numbers_only(tmp_path):
    first, view = answers(tmp_path), ["options", 1]
    assert first.read(view) is None
    first.save(None, said(0)), first.save(view, said(1))
    assert [first.read(each)["daily"][2, 5] for each in (None, view)] == [0, 1]
    assert os.path.getsize(first.path(None)) == 128 + 3 * 14 * 4


def test_what_nobody_has_read_for_long_goes(tmp_path):
    one, other, view = answers(tmp_path), answers(tmp_path, photos=2), ["options", 1]
    one.save(None, said(0)), one.save(view, said(1))
    for path in map(one.path, (None, view)):
        os.utime(path, (0, time.time() - KEPT - 60))
    one.read(view)
    other.save(None, said(3))
    assert other.read(None)["gender"][0, 0] == 3
    assert not os.path.exists(one.path(None)) and one.read(view)["daily"][2, 5] == 1


def test_room_for_what_a_teacher_will_say(tmp_path, monkeypatch):
    room = shutil._ntuple_diskusage(10**9, 10**9, 3 * 3 * 14 * 4 - 1)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: room)
    one = answers(tmp_path)
    one.check([None, ["options", 1]])
    with pytest.raises(DiskFull, match="--cache-dir"):
        one.check([None, ["options", 1], ["options", 2]])


@pytest.mark.parametrize("what", ["cache", "file"])
def test_what_is_wrong_is_found_before_an_earlier_run_is_removed(train, place, rows, capsys, what):
    train("--version", "a", *SOFT, "--teacher", "zero-shot", "--cache-dir", "cache/c")
    before = {path: path.read_bytes() for path in Path("model/a").iterdir()}
    if what == "cache":
        (cached,) = place.glob("cache/c/logits-*.npy")
        cached.write_bytes(cached.read_bytes()[:-100])
        options = ["--teacher", "zero-shot", "--cache-dir", "cache/c"]
    else:
        np.savez("bad.npz", **{key: values[1:] for key, values in rows.items()})
        options = ["--teacher-logits", "bad.npz", "--skip-unreadable"]
    assert exit_code(lambda: train("--version", "a", *SOFT, *options, "--overwrite", "True")) == 2
    assert ("remove it" if what == "cache" else "no row for 1") in capsys.readouterr().err
    assert {path: path.read_bytes() for path in Path("model/a").iterdir()} == before


def test_logits_of_a_finished_run_can_be_written(train, place):
    train("--version", "a", *SOFT, "--teacher", "zero-shot")
    before = Path("model/a/last.pt").read_bytes()
    train(
        "--version", "a", *SOFT, "--teacher", "zero-shot", "--resume", "--save-teacher-logits", "taught.npz"
    )
    saved = torch.load("model/a/last.pt", map_location="cpu")["progress"]["teacher_logits"]
    with np.load("taught.npz") as file:
        assert all(np.array_equal(file[PREFIX + key], saved[key].numpy()) for key in ATTRIBUTES)
    assert Path("model/a/last.pt").read_bytes() == before


def test_a_damaged_cache_is_named(train, capsys, place):
    options = [*SOFT, "--teacher", "zero-shot", "--cache-dir", "cache/c"]
    train("--version", "a", *options)
    (cached,) = place.glob("cache/c/logits-*.npy")
    cached.write_bytes(cached.read_bytes()[:-100])
    assert exit_code(lambda: train("--version", "b", *options)) == 2
    message = capsys.readouterr().err.splitlines()[-1]
    assert str(cached.relative_to(place)) in message and "remove it, to have it made anew" in message
    cached.unlink()
    train("--version", "b", *options, "--resume", "True")
    assert all(torch.equal(weights("a")[name], value) for name, value in weights("b").items())


def test_a_teacher_whose_logits_are_not_finite_is_named(train, capsys, place, monkeypatch):
    real = FashionCLIP.forward

    def broken(self, *args, **kwargs):
        return {key: values * float("nan") for key, values in real(self, *args, **kwargs).items()}

    monkeypatch.setattr(FashionCLIP, "forward", broken)
    options = [*SOFT, "--teacher", "zero-shot", "--cache-dir", "cache/c"]
    assert exit_code(lambda: train("--version", "a", *options)) == 2
    message = capsys.readouterr().err.splitlines()[-1]
    assert message.startswith("error: --teacher: its logits of daily are not finite")
    assert not list(place.glob("cache/c/logits-*")), "they are in the cache"
    monkeypatch.setattr(FashionCLIP, "forward", real)
    train("--version", "a", *options, "--overwrite")


def test_zero_shot_with_random_weights_is_the_same_each_time():
    state, found = torch.get_rng_state(), []
    for _ in range(2):
        found.append(identity_of(load_teacher("zero-shot", ATTRIBUTES, "random", None, 3)[0]))
        assert torch.equal(torch.get_rng_state(), state), "training's random numbers are others"
        state = torch.manual_seed(1).get_state()
    assert found[0] == found[1]


def test_names_in_bytes(place, rows):
    np.savez("a.npz", **{**rows, "image_name": np.char.encode(rows["image_name"], "utf-8")})
    assert LogitsFile("a.npz", ATTRIBUTES.sizes).names == rows["image_name"].tolist()


def test_an_image_that_is_named_twice(place):
    names = ["b.jpg", "a.jpg", "b.jpg"]
    logits = {key: torch.randn(3, len(a.classes)) for key, a in ATTRIBUTES.items()}
    for values in logits.values():
        values[2] = values[0]
    save_logits("taught.npz", names, logits)
    file = LogitsFile("taught.npz", ATTRIBUTES.sizes)
    file.prepare(names, None, ONE_VIEW)
    read = file.logits(SimpleNamespace(number=0))
    assert all(torch.equal(read[key], logits[key]) for key in logits)
