"""predict.py: which photos, what is written, and what happens to a broken one."""

import csv

import numpy as np
import pytest
from PIL import Image

import predict
from utils.attributes import ATTRIBUTES, num_classes
from utils.dataset import letterbox, read_rgb
from utils.errors import SkippedPhotos, UserError


class Stub:
    """A classifier whose probabilities follow from a photo's mean colour."""

    def __init__(self, path):
        self.seen = []

    def __call__(self, pixels):
        self.seen.append(pixels)
        level = pixels.reshape(len(pixels), -1).mean(axis=1)
        return {
            k: np.float32([np.roll(np.linspace(0.5, 0, n), int(x)) for x in level])
            for k, n in num_classes().items()
        }


@pytest.fixture
def photos(tmp_path, monkeypatch):
    folder = tmp_path / "my photos"
    (folder / "SUB 2019").mkdir(parents=True)
    rng = np.random.default_rng(0)
    for name, level in (("b.jpg", 80), ("a.png", 120), ("SUB 2019/c.JPG", 160)):
        Image.fromarray(rng.integers(level - 40, level + 40, (90, 60, 3), dtype=np.uint8)).save(folder / name)
    (folder / "notes.txt").write_text("no photo")
    stub = Stub(None)
    monkeypatch.setattr(predict, "load_classifier", lambda path: stub)
    monkeypatch.chdir(tmp_path)
    return folder, stub


def run(*arguments):
    predict.main(["--checkpoint", "any.pt", "--output", "out.csv", *map(str, arguments)])
    return read()


def read():
    with open("out.csv", newline="", encoding="utf-8") as file:
        return list(csv.reader(file))


def test_folder_and_letterbox(photos):
    folder, stub = photos
    header, *rows = run(folder, "--batch-size", 2)
    assert header == ["image_name", *(attribute.short for attribute in ATTRIBUTES.values())]
    assert [row[0] for row in rows] == ["a.png", "b.jpg", "SUB 2019/c.JPG"]
    assert [len(pixels) for pixels in stub.seen] == [2, 1]
    for pixels, row in zip(np.concatenate(stub.seen), rows):
        assert np.array_equal(pixels, letterbox(read_rgb(folder / row[0])))
    for row in rows:
        level = int(letterbox(read_rgb(folder / row[0])).mean())
        assert [int(cell) for cell in row[1:]] == [level % classes for classes in num_classes().values()]


def test_names_and_probabilities(photos):
    folder, _ = photos
    numbers = run(folder / "a.png")[1]
    for language, field in (("ko", "classes_ko"), ("en", "classes")):
        header, row = run(folder / "a.png", "--names", language, "--probabilities")
        names = [getattr(a, field)[int(cell)] for a, cell in zip(ATTRIBUTES.values(), numbers[1:])]
        assert row[1 : 1 + len(names)] == names
        assert len(header) == len(row) == 1 + len(names) + sum(num_classes().values())
        assert max(map(float, row[1 + len(names) :])) == 0.5


def test_csv(photos):
    folder, _ = photos
    (folder.parent / "list.csv").write_text(
        "image_name,other\nSUB 2019/c.JPG,1\nb.jpg,2\n", encoding="utf-8-sig"
    )
    assert [row[0] for row in run("list.csv", "--images", folder)[1:]] == ["SUB 2019/c.JPG", "b.jpg"]


def test_broken_photo_is_skipped(photos, capsys):
    folder, _ = photos
    (folder / "aa.jpg").write_bytes(b"no picture")
    with pytest.raises(SkippedPhotos, match="1 of 4 photos were skipped") as error:
        run(folder)
    assert error.value.exit_code == 3
    assert "aa.jpg: cannot identify" in capsys.readouterr().err
    assert [row[0] for row in read()[1:]] == ["a.png", "b.jpg", "SUB 2019/c.JPG"]


def test_bad_input(photos):
    folder, _ = photos
    (folder.parent / "empty").mkdir()
    (folder.parent / "list.csv").write_text("name\nb.jpg\n")
    for arguments, message in (
        (["empty"], "a folder without photos"),
        (["list.csv"], "no column image_name"),
        (["absent"], "absent: no such file or folder"),
        ([folder, "--output", "nowhere/x.csv"], "there is no folder nowhere"),
    ):
        with pytest.raises(UserError, match=message) as error:
            run(*arguments)
        assert error.value.exit_code == 2
    assert not (folder.parent / "out.csv").exists()
