"""The drawn sample has the data set's layout, is reproducible, and never overwrites anything."""

import csv

import numpy as np
import pytest
from conftest import ATTRIBUTES
from PIL import Image

from utils.base import log
from utils.base.cli import exit_code
from utils.base.errors import UserError
from utils.tools import sample as sample_data

COUNTS = {"train": 8, "val": 4}
BOX_COLUMNS = ("BBox_xmin", "BBox_ymin", "BBox_xmax", "BBox_ymax")


def files(directory):
    """Relative name -> bytes of every file."""
    return {str(p.relative_to(directory)): p.read_bytes() for p in directory.rglob("*") if p.is_file()}


def command(*options):
    """Exit code of the command, whose errors are on stderr."""
    log.start()
    try:
        return exit_code(lambda: sample_data.main([str(option) for option in options]))
    finally:
        log.stop()


def rows(directory, part):
    with open(directory / f"Fashion-How24_sub1_{part}.csv", newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def sample(tmp_path_factory):
    directory = tmp_path_factory.mktemp("sample") / "new" / "data set"
    assert sample_data.make_sample(directory, seed=3, **COUNTS)
    return directory


def test_layout(sample):
    box = ["BBox_xmin", "BBox_ymin", "BBox_xmax", "BBox_ymax"]
    for part, count in COUNTS.items():
        assert len(rows(sample, part)) == count
        for row in rows(sample, part):
            assert list(row) == ["image_name", *box, "Daily", "Gender", "Embellishment"]
            folder, name = row["image_name"].split("/")
            assert " " in folder and name.endswith(("-1.jpg", "-1.png"))
            for attribute in ATTRIBUTES.values():
                assert 0 <= int(row[attribute.column]) < len(attribute.classes)
    assert [path.name for path in sample.parent.iterdir()] == [sample.name]  # nothing temporary is left


def test_photos(sample):
    """Every row has its photo, of the promised size, and its box holds the garment."""
    for part in COUNTS:
        for row in rows(sample, part):
            photo = Image.open(sample / part / row["image_name"])
            left, top, right, bottom = (int(row[column]) for column in BOX_COLUMNS)
            assert min(photo.size) >= 300 and max(photo.size) <= 900
            assert 0 <= left < right <= photo.width and 0 <= top < bottom <= photo.height
            assert (right - left) * (bottom - top) > 0.05 * photo.width * photo.height
            if photo.format == "PNG":
                assert photo.mode == "RGBA"
                assert photo.getchannel("A").getextrema() == (0, 255)
                assert photo.getchannel("A").getbbox() == (left, top, right, bottom)
            else:
                assert (photo.format, photo.mode) == ("JPEG", "RGB")
    assert len(list(sample.rglob("*.png"))) == 2


def test_same_seed_draws_the_same_bytes(sample, tmp_path):
    sample_data.make_sample(tmp_path / "again", seed=3, **COUNTS)
    assert files(tmp_path / "again") == files(sample)
    sample_data.make_sample(tmp_path / "other", train=2, val=1, seed=4)
    assert not set(files(tmp_path / "other").values()) & set(files(sample).values())


def test_first_photos_do_not_depend_on_how_many_follow(sample, tmp_path):
    sample_data.make_sample(tmp_path / "few", train=2, val=1, seed=3)
    few, many = files(tmp_path / "few"), files(sample)
    photos = [name for name in few if name.endswith((".jpg", ".png"))]
    assert len(photos) == 3
    assert all(few[name] == many[name] for name in photos)


def test_every_class_can_be_drawn_and_shows():
    """With the same random numbers, another class of any attribute changes the picture."""
    for key, attribute in ATTRIBUTES.items():
        pictures = set()
        for label in range(len(attribute.classes)):
            labels = {**dict.fromkeys(ATTRIBUTES, 1), key: label}
            pictures.add(sample_data.draw_garment(np.random.default_rng(0), labels).tobytes())
        assert len(pictures) == len(attribute.classes)


def test_shares_leave_no_large_majority():
    for key, classes in sample_data.looks().items():
        shares = [look["share"] for look in classes]
        assert len(shares) == len(ATTRIBUTES[key].classes)
        assert sum(shares) == pytest.approx(1) and max(shares) <= 0.45


def test_running_again_changes_nothing(sample, capsys):
    before = files(sample)
    assert command(sample, "--train", "8", "--val", "4", "--seed", "3") == 0
    assert "already" in capsys.readouterr().out
    assert files(sample) == before


def test_other_arguments_are_refused(sample, capsys):
    before = files(sample)
    assert command(sample, "--train", "8", "--val", "4", "--seed", "5") == 2
    assert capsys.readouterr().err.startswith("error: ")
    assert files(sample) == before


def test_missing_photo_is_noticed(tmp_path):
    sample_data.make_sample(tmp_path, train=1, val=1)  # an existing empty directory will do
    next(tmp_path.glob("train/*/*")).unlink()
    with pytest.raises(UserError, match="is not this sample"):
        sample_data.make_sample(tmp_path, train=1, val=1)


def test_foreign_directory_is_left_alone(tmp_path, capsys):
    (tmp_path / "thesis.txt").write_text("mine")
    assert command(tmp_path) == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert files(tmp_path) == {"thesis.txt": b"mine"}
    assert command(tmp_path / "thesis.txt") == 2  # a file, not a directory
    assert command(tmp_path / "thesis.txt" / "below") == 2


def test_interrupted_drawing_leaves_nothing(tmp_path, monkeypatch):
    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(sample_data, "photograph", interrupt)
    with pytest.raises(KeyboardInterrupt):
        sample_data.make_sample(tmp_path / "data", train=1, val=1)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("option", ["--train=0", "--val=-1", "--seed=-1"])
def test_impossible_numbers(tmp_path, option, capsys):
    assert command(tmp_path / "data", option) == 2
    assert "error: " in capsys.readouterr().err


def test_another_program_draws_the_same_meanwhile(tmp_path, monkeypatch):
    draws, note = sample_data.progress, tmp_path / "sample" / sample_data.NOTE

    def meanwhile(*args, **kwargs):
        note.parent.mkdir(exist_ok=True)
        note.write_text("of the other")
        return draws(*args, **kwargs)

    monkeypatch.setattr(sample_data, "progress", meanwhile)
    assert sample_data.make_sample(tmp_path / "sample", 1, 1)
    assert note.read_text() == "of the other" and list(tmp_path.iterdir()) == [tmp_path / "sample"]
