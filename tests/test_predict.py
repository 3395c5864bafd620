"""predict.py: which photos, what is written, and what happens to a broken one."""

import csv
import errno
import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import predict
from utils.base.cli import exit_code
from utils.base.errors import SkippedPhotos, UserError
from utils.data import folders
from utils.data.attributes import Attributes, read_attributes
from utils.data.photos import letterbox, read_rgb
from utils.evaluation import model, photo_lists
from utils.evaluation.inference import load_classifier
from utils.evaluation.predictions import PredictionTable, class_texts

ATTRIBUTES = read_attributes()  # the competition's


class Stub:
    """A classifier whose probabilities follow from a photo's mean colour."""

    def __init__(self, attributes):
        self.attributes, self.seen = attributes, []

    def __call__(self, pixels):
        self.seen.append(pixels)
        level = pixels.reshape(len(pixels), -1).mean(axis=1)
        return {
            k: np.float32([np.roll(np.linspace(0.5, 0, n), int(x)) for x in level])
            for k, n in self.attributes.sizes.items()
        }


@pytest.fixture
def photos(tmp_path, monkeypatch):
    folder = tmp_path / "my photos"
    (folder / "SUB 2019").mkdir(parents=True)
    rng = np.random.default_rng(0)
    for name, level in (("b.jpg", 80), ("a.png", 120), ("SUB 2019/c.JPG", 160)):
        Image.fromarray(rng.integers(level - 40, level + 40, (90, 60, 3), dtype=np.uint8)).save(folder / name)
    (folder / "notes.txt").write_text("no photo")
    stub = Stub(ATTRIBUTES)
    monkeypatch.setattr(model, "load_classifier", lambda path, **_: stub)
    monkeypatch.chdir(tmp_path)
    Path("any.pt").touch()
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
        assert [int(cell) for cell in row[1:]] == [level % classes for classes in ATTRIBUTES.sizes.values()]


def test_names_and_probabilities(photos):
    folder, _ = photos
    numbers = run(folder / "a.png")[1]
    for language in ("ko", "en"):
        header, row = run(folder / "a.png", "--names", language, "--probabilities")
        names = [
            a.names.get(language, a.classes)[int(cell)] for a, cell in zip(ATTRIBUTES.values(), numbers[1:])
        ]
        assert row[1 : 1 + len(names)] == names
        assert len(header) == len(row) == 1 + len(names) + sum(ATTRIBUTES.sizes.values())
        assert max(map(float, row[1 + len(names) :])) == 0.5


def test_csv(photos):
    folder, _ = photos
    (folder.parent / "list.csv").write_text(
        "image_name,other\nSUB 2019/c.JPG,1\nb.jpg,2\n", encoding="utf-8-sig"
    )
    assert [row[0] for row in run("list.csv", "--images", folder)[1:]] == ["SUB 2019/c.JPG", "b.jpg"]


FORMULAS = ["=1+1.jpg", "+1.jpg", "-1.jpg", "@a.jpg", "\ta.jpg", "\ra.jpg", "＝a.jpg"]


def test_no_cell_is_a_formula(photos):
    """Names of files get an apostrophe; a user's own table has its names unchanged, and finds them again."""
    folder, _ = photos
    for name in FORMULAS:
        shutil.copy(folder / "b.jpg", folder / name)
    names = {row[0] for row in run(folder)[1:]}
    assert names == {"a.png", "b.jpg", "SUB 2019/c.JPG", *(f"'{name}" for name in FORMULAS)}
    assert run(folder / FORMULAS[0])[1][0] == "'=1+1.jpg"
    printable = [name for name in FORMULAS if name.isprintable()]  # as names in a table must be
    with open("list.csv", "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([["image_name"], *([name] for name in printable)])
    assert [row[0] for row in run("list.csv", "--images", folder)[1:]] == printable


def test_classes_and_headers_are_no_formulas(photos):
    """They may be a stranger's; numbers stay numbers."""
    classes = {"=1+1": {}, "-0.5": {}, "+3": {}, "- ": {"names": {"ko": "@x"}}, "plain": {}}
    content = {"image": "@name", "attributes": {"=a": {"classes": classes}, "-1": {"classes": classes}}}
    attributes = Attributes(content, "test")
    shown = ["'=1+1", "-0.5", "+3", "'- ", "plain"]
    assert class_texts(attributes, "en")["=a"] == shown
    assert class_texts(attributes, "ko")["=a"] == [*shown[:3], "'@x", "plain"]
    header = PredictionTable(attributes, probabilities=True).header
    assert header[:5] == ["'@name", "'=a", "-1", "'=a_confidence", "'-1_confidence"]
    assert header[5:] == [f"'{name}_{one}" for name in ("=a", "-1") for one in classes]


def test_a_mark_for_excel(photos):
    folder, _ = photos
    run(folder, "--encoding", "utf-8-sig")
    with open("out.csv", "rb") as file:
        assert file.read(13) == b"\xef\xbb\xbfimage_name"


def test_escape_sequences_of_a_name_are_not_said(photos, capsys):
    folder, _ = photos
    (folder / "\x1b[2Jbroken.jpg").write_bytes(b"no photo")
    with pytest.raises(SkippedPhotos):
        run(folder)
    said = capsys.readouterr().err
    assert r"\x1b[2Jbroken.jpg" in said and "\x1b[2J" not in said


def test_a_name_that_two_photos_have_is_their_path(photos):
    folder, _ = photos
    (folder / "b").mkdir()
    shutil.copy(folder / "b.jpg", folder / "b")
    named = [
        row[0]
        for row in run(folder / "b.jpg", folder / "b" / "b.jpg", folder / "a.png", folder / "a.png")[1:]
    ]
    assert named == [str(folder / "b.jpg"), str(folder / "b" / "b.jpg"), "a.png", "a.png"]


def test_what_a_folder_holds(photos, tmp_path, monkeypatch):
    """Photos by whatever ending; what is not read is told, by kind."""
    folder, _ = photos
    said = []
    monkeypatch.setattr(folders.logger, "warning", said.append)
    for name in ("b.jfif", "._b.jpg", ".trash/b.jpg", "__MACOSX/b.jpg", "b.HEIC", "c.heic", "../other/d.jpg"):
        (folder / name).parent.mkdir(exist_ok=True)
        shutil.copy(folder / "b.jpg", folder / name)
    (folder / "linked").symlink_to("../other")
    (folder / "loop").symlink_to(".")
    names = ["a.png", "b.jfif", "b.jpg", "SUB 2019/c.JPG"]
    assert [row[0] for row in run(folder)[1:]] == names
    assert len(said) == 1
    told = "3 hidden, 2 linked folders (--follow-links), 2 .heic, 1 .txt"
    assert said[0].startswith(f"warning: {folder}: 4 photos; not read: ") and sorted(
        said[0].partition("read: ")[2].split(", ")
    ) == sorted(told.split(", "))
    assert [row[0] for row in run(folder, "--follow-links")[1:]] == [*names, "linked/d.jpg"]
    (tmp_path / "other" / "d.jpg").rename(tmp_path / "other" / "d.heic")
    with pytest.raises(UserError, match=r"other: a folder without photos \(.*\); not read: 1 .heic$"):
        run(tmp_path / "other")


def test_a_list_whose_names_miss_by_a_little(photos, monkeypatch):
    folder, _ = photos
    said = []
    monkeypatch.setattr(photo_lists.logger, "warning", said.append)
    (folder / "list.csv").write_text("image_name\nsub 2019\\C.jpg\nc.jpg\nb.jpg\n")
    with pytest.raises(SkippedPhotos, match="1 of 3"):
        run(folder / "list.csv")
    assert [row[0] for row in read()[1:]] == ["sub 2019\\C.jpg", "b.jpg"], "the table's own names"
    near, found = said
    assert "1 photo is called otherwise" in found and "sub 2019\\C.jpg: SUB 2019/c.JPG" in found
    assert near.endswith("c.jpg; there is SUB 2019/c.JPG")


def test_names_of_a_folder_that_are_not_in_utf8(photos):
    folder, _ = photos
    shutil.copy(folder / "b.jpg", os.fsencode(folder) + b"/\xb0\xa1.jpg")
    with pytest.raises(UserError, match=r"my photos: photo '\\udcb0\\udca1.jpg' is not in UTF-8") as error:
        run(folder)
    str(error.value).encode()


def test_a_folder_that_cannot_be_read(photos, monkeypatch):
    folder, _ = photos
    scandir = os.scandir

    def closed(path):  # in place of its mode, since root may read all folders
        if str(path).endswith("SUB 2019"):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", closed)
    with pytest.raises(UserError, match=r"SUB 2019: cannot be read \(Permission denied\)"):
        run(folder)


def test_broken_photo_is_skipped(photos, capsys):
    folder, _ = photos
    (folder / "aa.jpg").write_bytes(b"no picture")
    with pytest.raises(SkippedPhotos, match=r"^1 of 4 photos cannot be read and was skipped") as error:
        run(folder)
    assert error.value.exit_code == 6
    assert "aa.jpg: cannot identify" in capsys.readouterr().err
    assert [row[0] for row in read()[1:]] == ["a.png", "b.jpg", "SUB 2019/c.JPG"]


def test_bad_input(photos):
    folder, _ = photos
    (folder.parent / "empty").mkdir()
    (folder.parent / "list.csv").write_text("name\nb.jpg\n")
    for arguments, message in (
        ([folder, "--names", "de"], "--names de: there are no such names; there are en, ko"),
        (["empty"], "a folder without photos"),
        (["list.csv"], "no column image_name"),
        (["absent"], "absent: no such file or folder"),
        ([folder, "--output", "nowhere/x.csv"], "there is no folder nowhere"),
    ):
        with pytest.raises(UserError, match=message) as error:
            run(*arguments)
        assert error.value.exit_code == 2
    assert not (folder.parent / "out.csv").exists()


def test_any_attributes(photos):
    """The table's column, EXIF, and a class's own name where a language has none are the attributes' file's."""
    folder, stub = photos
    classes = {"red": {"names": {"de": "rot"}}, "blue": {}}
    content = {
        "image": "file",
        "exif": True,
        "encoding": "cp949",
        "attributes": {"a.b": {"classes": classes}},
    }
    stub.attributes = Attributes(content, "test")
    turned = Image.Exif()
    turned[0x0112] = 6
    with Image.open(folder / "b.jpg") as photo:
        photo.save(folder / "소매.jpg", exif=turned)
    (folder.parent / "list.csv").write_text("n;file\n1;소매.jpg\n2;a.png\n", encoding="cp949")
    header, *rows = run("list.csv", "--images", folder, "--names", "de", "--probabilities")
    assert header == ["file", "a.b", "a.b_confidence", "a.b_red", "a.b_blue"]
    for row, pixels in zip(rows, np.concatenate(stub.seen)):
        assert np.array_equal(pixels, letterbox(read_rgb(folder / row[0], exif=True)))
        assert row[1:3] == ["rot" if float(row[3]) == 0.5 else "blue", "0.5000"]
    assert {row[0] for row in rows} == {"소매.jpg", "a.png"}


OWN = {
    "kind": {"classes": {"t-shirt": {"names": {"ko": "티"}}, "coat": {}}},
    "fit": {"classes": {"slim": {}, "wide": {}}},
}


def test_own_attributes_have_names_and_confidences(photos):
    """Numbers where they are asked for; headers of probabilities carry what stands for the class."""
    folder, stub = photos
    stub.attributes = Attributes({"image": "file", "attributes": OWN}, "test")
    header, *rows = run(folder)
    assert header == ["file", "kind", "fit", "kind_confidence", "fit_confidence"]
    assert {row[1] for row in rows} == {"t-shirt", "coat"} and {row[3] for row in rows} == {"0.5000"}
    header, *named = run(folder, "--probabilities", "--names", "ko")
    assert header[5:] == ["kind_t-shirt", "kind_coat", "fit_slim", "fit_wide"]
    assert [row[1] for row in named] == [{"t-shirt": "티"}.get(row[1], row[1]) for row in rows]
    header, *numbers = run(folder, "--probabilities", "--names", "numbers")
    assert header[3:] == ["kind_confidence", "fit_confidence", "kind_0", "kind_1", "fit_0", "fit_1"]
    assert [row[1] for row in numbers] == [str(["t-shirt", "coat"].index(row[1])) for row in rows]
    assert [row[3:] for row in numbers] == [row[3:] for row in named]


def test_the_competitions_table_stays(photos):
    """Numbers without being asked, and no column of a confidence."""
    folder, _ = photos
    assert run(folder) == run(folder, "--names", "numbers")
    assert run(folder, "--names", "en")[0] == ["image_name", "daily", "gender", "embel"]
    header = run(folder, "--probabilities")[0]
    assert header[4:] == [
        f"{a.short}_{number}" for a in ATTRIBUTES.values() for number in range(len(a.classes))
    ]


@pytest.mark.parametrize(
    "name, way_out",
    [
        ("b.jpg", "such as b.jpg; --images 'my photos' has them"),
        ("my photos/b.jpg", "--images . has them"),
        ("c.JPG", "--images linked has them"),
        ("x.jpg", "--images names their folder"),
        ("B", "there is my photos/b.jpg; --images names their folder"),
    ],
)
def test_a_list_none_of_whose_photos_is_there(photos, name, way_out):
    """No table is written, and an earlier one stays. The folder that has them is looked for."""
    folder, _ = photos
    run(folder / "a.png")
    before = Path("out.csv").read_bytes()
    (folder.parent / "linked").symlink_to(folder / "SUB 2019")
    place = folder if name.startswith("my") else Path(".")
    Path(place, "list.csv").write_text(f"image_name\n{name}\nother.jpg\n")
    with pytest.raises(UserError, match=r"list\.csv: none of its photos is there, such as ") as error:
        run(os.path.relpath(place / "list.csv"))
    assert way_out in str(error.value) and error.value.exit_code == 2 and "\n" not in str(error.value)
    assert Path("out.csv").read_bytes() == before


def test_nothing_is_written_of_photos_none_of_which_can_be_read(photos, capsys):
    folder, _ = photos
    run(folder / "a.png")
    assert capsys.readouterr().out == "1 photo: out.csv\n"
    before = Path("out.csv").read_bytes()
    (folder / "a.png").write_bytes(b"no photo")
    with pytest.raises(SkippedPhotos, match=r"^out\.csv: not written, since no photo can be read$"):
        run(folder / "a.png")
    assert Path("out.csv").read_bytes() == before


def test_en_are_the_classes_own_names(photos):
    """Whatever the file calls them in English."""
    folder, stub = photos
    classes = {"빨강": {"names": {"en": "red"}}, "파랑": {"names": {"en": "blue"}}}
    stub.attributes = Attributes({"attributes": {"a": {"classes": classes}}}, "test")
    assert {row[1] for row in run(folder, "--names", "en")[1:]} <= set(classes)


def test_no_two_columns_are_alike():
    classes = {"1": {}, "2": {}}
    shorts = {"x": "file", "y": "a", "z": "b", "u": "a_1", "v": "a_2", "w": "a_label"}
    content = {
        "image": "file",
        "attributes": {k: {"short": v, "classes": classes} for k, v in shorts.items()},
    }
    header = PredictionTable(Attributes(content, "test"), labels=True, probabilities=True).header
    assert len(set(header)) == len(header) == 1 + 3 * 6 + 12 + 2 * 6
    assert header[:7] == ["file", "file_2", "a", "b", "a_1", "a_2", "a_label"]


LISTS = {"contains": "floral", "separator": "|", "classes": {"yes": {"names": {"ko": "꽃무늬"}}}}
SHOP = {
    "image": "file",
    "exif": True,
    "attributes": {"flowers": LISTS, "kind": {"classes": {"dress": {}, "coat": {}}}},
}


def predict_zero_shot(folder, *more):
    options = "--checkpoint zero-shot --clip-model random --output out.csv --probabilities".split()
    predict.main([str(folder), *options, *more])
    return read()


def test_zero_shot(photos, monkeypatch):
    """With the file's attributes and prompts, else the competition's; a file of that name is not looked at."""
    torch = pytest.importorskip("torch")
    from clip_model import FashionCLIP

    folder, _ = photos
    monkeypatch.setattr(model, "load_classifier", load_classifier)
    made, begin = [], FashionCLIP.__init__
    monkeypatch.setattr(FashionCLIP, "__init__", lambda net, *given: made.append(net) or begin(net, *given))
    encode = FashionCLIP.encode_prompts
    asked = []
    monkeypatch.setattr(FashionCLIP, "encode_prompts", lambda net: asked.append(net) or encode(net))
    (folder.parent / "zero-shot").mkdir()
    (folder.parent / "shop.json").write_text(json.dumps(SHOP))
    header, *rows = predict_zero_shot(
        folder, "--attributes", "shop.json", "--batch-size", "1", "--names", "ko"
    )
    columns = ["flowers", "kind", "flowers_confidence", "kind_confidence"]
    assert header == ["file", *columns, "flowers_no", "flowers_yes", "kind_dress", "kind_coat"]
    assert len(rows) == 3 and asked == made and len(made) == 1, "the prompts are encoded once"
    assert made[0].attributes["flowers"].prompts[0] == ("a photo of a garment without floral",)
    for row in rows:
        with torch.no_grad():
            pixels = torch.from_numpy(letterbox(read_rgb(folder / row[0]))).permute(2, 0, 1)[None]
            expected = [p for logits in made[0](pixels).values() for p in logits.softmax(dim=1)[0].tolist()]
        assert [float(cell) for cell in row[5:]] == pytest.approx(expected, abs=2e-6)
        sure = [max(expected[:2]), max(expected[2:])]
        assert [float(cell) for cell in row[3:5]] == pytest.approx(sure, abs=6e-5)
        assert row[1:3] == [("no", "꽃무늬")[expected[1] > 0.5], ("dress", "coat")[expected[3] > 0.5]]
    os.remove("out.csv")  # other attributes' predictions are not replaced
    assert predict_zero_shot(folder)[0][:4] == ["image_name", *(a.short for a in ATTRIBUTES.values())]


def test_zero_shot_bad_input(photos, monkeypatch, capsys):
    folder, _ = photos
    monkeypatch.setattr(model, "load_classifier", load_classifier)
    (folder.parent / "no_clip").mkdir()
    shop = {**SHOP, "attributes": {"flowers": {"contains": "floral"}}}
    (folder.parent / "shop.json").write_text(json.dumps(shop))
    for options, message in (
        ("--checkpoint any.pt --attributes shop.json", "--attributes, --clip-model: for zero-shot"),
        ("--checkpoint any.onnx --clip-model random", "--attributes, --clip-model: for zero-shot"),
        ("--checkpoint zero-shot --attributes absent.json", "absent.json: no such file"),
        ("--checkpoint zero-shot --attributes shop.json", "attributes.flowers.separator: must be"),
        ("--checkpoint zero-shot --clip-model no_clip", "CLIP model no_clip cannot be loaded"),
        ("--checkpoint ./zero-shot", "checkpoint ./zero-shot: no such file"),
    ):
        assert (
            exit_code(lambda o=options: predict.main([str(folder), "--output", "out.csv", *o.split()])) == 2
        )
        error = capsys.readouterr().err
        assert message in error and error.count("\n") == 1, error
    assert not (folder.parent / "out.csv").exists()


@pytest.mark.parametrize(
    "content",
    [
        b"image_name,price\r\nb.jpg,10\r\n",
        b"image_name,daily,gender,embel,price\r\n",
        b"image_name,daily,gender,embel\nb.jpg,formal,unisex,none\n",  # labels, in lines of another program
        b"image_name,daily,gender,embel\r\nb.jpg,1,2,0\r\n",  # labels, in the very form of predictions
        b"\xff\xd8\xff",
        b"",
    ],
)
def test_only_earlier_predictions_are_replaced(photos, content):
    folder, _ = photos
    Path("out.csv").write_bytes(content)
    with pytest.raises(UserError, match=r"out\.csv: is there, and not from an earlier run"):
        run(folder)
    assert Path("out.csv").read_bytes() == content
    os.remove("out.csv")
    first = run(folder, "--encoding", "utf-8-sig", "--probabilities")
    assert len(run(folder, "--names", "en")) == len(first) == 4 and len(run(folder)) == 4


@pytest.mark.parametrize("make", [os.symlink, os.link])
def test_a_table_that_is_read_is_not_replaced(photos, make):
    """Though it is one of earlier predictions, and has another name."""
    folder, _ = photos
    run(folder)
    os.rename("out.csv", folder / "list.csv")
    make(folder / "list.csv", "out.csv")
    before = Path("out.csv").read_bytes()
    with pytest.raises(UserError, match=r"out\.csv: the same file as .*list\.csv, which is read"):
        run(folder / "list.csv")
    assert Path("out.csv").read_bytes() == before
