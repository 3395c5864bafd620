"""CSV, photos of every kind, and the cached array."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from conftest import ATTRIBUTES, odd_exif
from PIL import Image, ImageOps, PngImagePlugin, UnidentifiedImageError
from skimage.transform import resize

from utils.base.errors import UserError
from utils.base.log import logger
from utils.data import photo_cache
from utils.data import photos as reader
from utils.data.attributes import Attributes
from utils.data.dataset import load_pixels, load_training_data, read_all_tables, read_tables
from utils.data.photos import SIZE, letterbox, letterboxed_box, photo_size, read_rgb
from utils.data.twins import without_twins

RANDOM = np.random.RandomState(0)
HEADER = "image_name,BBox_xmin,BBox_ymin,BBox_xmax,BBox_ymax,Daily,Gender,Embellishment\n"


def reference(image):
    """The published letterbox, by scikit-image: float RGB in 0..1 -> float in grey levels."""
    height, width = image.shape[:2]
    longer = max(height, width)
    new = [int(SIZE * side / longer) for side in (height, width)]
    canvas = np.zeros((SIZE, SIZE, 3))
    y, x = SIZE // 2 - new[0] // 2, SIZE // 2 - new[1] // 2
    canvas[y : y + new[0], x : x + new[1]] = resize(image, new, mode="constant", anti_aliasing=True)
    return canvas * 255


@pytest.mark.parametrize(
    "size", [(533, 400), (224, 224), (60, 100), (37, 224), (1000, 7), (300, 299), (2700, 900)]
)
def test_letterbox_is_the_published_one(size):
    image = RANDOM.randint(40, 256, (*size, 3)).astype(np.uint8)  # noise: the hardest to resize
    expected = reference(image / 255)
    assert np.abs(letterbox(image) - expected).max() <= 0.51
    assert np.abs(letterbox(image) - np.rint(expected)).mean() < 1e-3


def test_a_side_is_never_less_than_a_pixel():
    image = letterbox(np.full((1000, 1, 3), 200, np.uint8))
    assert image[:, 112].all() and not image[:, :112].any() and not image[:, 113:].any()


def rgba(size=(50, 40)):
    return Image.fromarray(RANDOM.randint(0, 256, (*size, 4)).astype(np.uint8), "RGBA")


def over_white(image):
    values = np.asarray(image.convert("RGBA")).astype(float)
    alpha = values[:, :, 3:] / 255
    return values[:, :, :3] * alpha + 255 * (1 - alpha)


KINDS = {
    "rgb.jpg": lambda: rgba().convert("RGB"),
    "rgb.png": lambda: rgba().convert("RGB"),
    "rgb.webp": lambda: rgba().convert("RGB"),
    "rgba.png": rgba,
    "rgba.webp": rgba,
    "la.png": lambda: rgba().convert("LA"),
    "grey.png": lambda: rgba().convert("L"),
    "grey.jpg": lambda: rgba().convert("L"),
    "bilevel.png": lambda: rgba().convert("1"),
    "palette.png": lambda: rgba().convert("RGB").convert("P"),
    "cmyk.jpg": lambda: rgba().convert("CMYK"),
}


@pytest.mark.parametrize("name", KINDS)
def test_every_kind_of_photo_gives_rgb(name, tmp_path):
    path = tmp_path / name
    KINDS[name]().save(path)
    image = read_rgb(path)
    assert image.shape == (50, 40, 3)
    assert np.abs(image - over_white(Image.open(path))).max() < 1e-3


def test_transparent_palette_and_16_bits(tmp_path):
    palette = Image.new("P", (2, 1))
    palette.putpalette([10, 20, 30, 200, 100, 50])
    palette.putdata([0, 1])
    palette.save(tmp_path / "palette.png", transparency=1)
    assert read_rgb(tmp_path / "palette.png").tolist() == [[[10, 20, 30], [255, 255, 255]]]
    Image.fromarray(np.array([[0, 257 * 100, 65535]], np.uint16)).save(tmp_path / "deep.png")
    assert read_rgb(tmp_path / "deep.png").tolist() == [[[0] * 3, [100] * 3, [255] * 3]]


def test_alpha_is_composited_before_rounding(tmp_path):
    rgba((300, 200)).save(tmp_path / "a.png")
    expected = reference(over_white(Image.open(tmp_path / "a.png")) / 255)
    assert np.abs(letterbox(read_rgb(tmp_path / "a.png")) - expected).max() <= 0.51


def test_avif_where_pillow_reads_it(tmp_path, monkeypatch):
    path = tmp_path / "a.avif"
    if not reader.AVIF:
        path.write_bytes(b"\0\0\0\x1cftypavif")
        assert ".avif" not in reader.SUFFIXES
        with pytest.raises(UnidentifiedImageError):
            read_rgb(path)
        return
    Image.new("RGB", (40, 30), (200, 40, 40)).save(path)
    assert np.abs(read_rgb(path).mean((0, 1)) - (200, 40, 40)).max() < 5
    monkeypatch.setattr(reader, "MAX_PIXELS", 1199)
    with pytest.raises(ValueError, match="40 x 30: more than"):
        read_rgb(path)


def test_megabytes_of_text_and_a_large_profile_beside_the_pixels(tmp_path):
    path, said = tmp_path / "a.png", PngImagePlugin.PngInfo()
    said.add_text("prompt", "x" * 3_000_000, zip=True)
    Image.new("RGB", (9, 9), 7).save(path, pnginfo=said, icc_profile=RANDOM.bytes(2_000_000))
    assert read_rgb(path).shape == (9, 9, 3)
    said.add_text("bomb", "x" * 70_000_000, zip=True)
    Image.new("RGB", (9, 9), 7).save(path, pnginfo=said)
    with pytest.raises(ValueError, match=r"(?i)too large"):
        read_rgb(path)


def test_exif_rotation_is_not_applied(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (40, 20)).save(tmp_path / "a.jpg", exif=exif)
    assert read_rgb(tmp_path / "a.jpg").shape == (20, 40, 3)


@pytest.mark.parametrize("orientation", range(10))  # 1 to 8 are known
def test_exif_rotation(tmp_path, orientation):
    photo, exif = rgba((30, 20)).convert("RGB"), Image.Exif()
    exif[0x0112] = orientation
    photo.save(tmp_path / "plain.png", exif=exif)
    photo.save(tmp_path / "odd.png", exif=odd_exif(orientation))
    expected = np.asarray(ImageOps.exif_transpose(Image.open(tmp_path / "plain.png")))
    photo.save(tmp_path / "a.tiff", exif=exif)  # Pillow turns it as soon as it is decoded
    for name in ("plain.png", "odd.png", "a.tiff"):
        assert np.array_equal(read_rgb(tmp_path / name, exif=True), expected), name
        height, width = expected.shape[:2]
        box = letterboxed_box([0, 0, width, height], *photo_size(tmp_path / name, exif=True))
        assert sorted([box[2] - box[0], box[3] - box[1]]) == [pytest.approx(SIZE * 2 // 3), SIZE], name


@pytest.mark.parametrize("exif", [False, True])
def test_a_damaged_photo_is_never_read(tmp_path, exif):
    """A PNG's EXIF is looked for behind its pixels."""
    Image.fromarray(RANDOM.randint(0, 256, (60, 50, 3)).astype(np.uint8)).save(tmp_path / "a.png")
    content = bytearray((tmp_path / "a.png").read_bytes())
    content[len(content) // 2] ^= 255
    (tmp_path / "a.png").write_bytes(content)
    with pytest.raises((OSError, SyntaxError)):
        read_rgb(tmp_path / "a.png", exif)


@pytest.mark.parametrize("exif", [b"", bytes(20), b"II*\0", b"rubbish" * 9])
def test_exif_that_is_none(tmp_path, exif):
    Image.new("RGB", (40, 20)).save(tmp_path / "a.jpg", exif=b"Exif\0\0" + exif)
    assert read_rgb(tmp_path / "a.jpg", exif=True).shape == (20, 40, 3)


@pytest.fixture
def own(photos, tmp_path):
    """A copy of the drawn data set that a test may spoil; its times are those of the original."""
    return Path(shutil.copytree(photos, tmp_path / "own data"))


def test_a_folder_without_the_table(tmp_path):
    with pytest.raises(UserError, match=r"_train\.csv: no such table; name its folder with --data-dir"):
        read_tables(str(tmp_path), ATTRIBUTES)


def load(folder, cache, attributes=ATTRIBUTES, skip=False):
    return load_pixels(read_tables(str(folder), attributes, skip_unreadable=skip), str(cache), skip)


def test_the_array_is_made_once_and_remade_when_a_photo_changes(own, tmp_path, monkeypatch):
    cache = tmp_path / "cache"
    before = sorted(os.walk(own))
    tables, pixels = load(own, cache)
    assert sorted(os.walk(own)) == before, "something was written into the data set"
    train, pixels = tables["train"], pixels["train"]
    assert pixels[:].shape == (16, SIZE, SIZE, 3)
    assert all(isinstance(array, np.memmap) for array in pixels.arrays)
    assert list(train.labels) == list(ATTRIBUTES) and train.labels["daily"].dtype == np.int64
    path = own / "train" / train.names[3]
    assert np.array_equal(pixels[3], letterbox(read_rgb(path)))

    with monkeypatch.context() as patch:
        patch.setattr(reader, "read_rgb", lambda *args: pytest.fail("decoded again"))
        _, again = load(own, cache)
    assert np.array_equal(again["train"], pixels)

    before = pixels[3]
    Image.new("RGB", (100, 100), "red").save(path, "PNG")
    assert load(own, cache)[1]["train"][3][112, 112].tolist() == [255, 0, 0]
    assert np.array_equal(pixels[3], before), "the array of a run under way was taken away"


def count_decoded(monkeypatch):
    """A list that grows by each photo that is decoded."""
    decoded, real = [], reader.read_rgb
    monkeypatch.setattr(reader, "read_rgb", lambda path, exif: decoded.append(path) or real(path, exif))
    return decoded


def is_right(tables, pixels):
    return all(
        np.array_equal(image, letterbox(read_rgb(path)))
        for part, table in tables.items()
        for path, image in zip(table.paths(), pixels[part][:])
    )


def change_mode(folder):
    for path in filter(Path.is_file, folder.rglob("*")):
        path.chmod(0o600)


def copy_back(folder):
    shutil.move(str(folder), f"{folder} 2")
    shutil.copytree(f"{folder} 2", folder)


@pytest.mark.parametrize("change", [change_mode, copy_back])
def test_what_has_not_changed_is_not_decoded_again(own, tmp_path, monkeypatch, change):
    load(own, tmp_path / "cache")
    change(own)
    decoded = count_decoded(monkeypatch)
    data = load(own, tmp_path / "cache")
    assert not decoded and is_right(*data)
    hashed = []
    monkeypatch.setattr(photo_cache, "_hash_of_file", lambda path: hashed.append(path))
    load(own, tmp_path / "cache")
    assert not hashed, "stamps are not kept"


def test_another_photo_of_the_same_size_and_time_is_seen(own, tmp_path):
    path = own / "train" / load(own, tmp_path / "cache")[0]["train"].names[0]
    for colour in ("red", "blue"):
        before = path.stat()
        Image.new("RGB", (50, 40), colour).save(tmp_path / "new.bmp")
        if colour == "blue":
            assert (tmp_path / "new.bmp").stat().st_size == before.st_size
            os.utime(tmp_path / "new.bmp", ns=(before.st_atime_ns, before.st_mtime_ns))
        os.replace(tmp_path / "new.bmp", path)
        assert is_right(*load(own, tmp_path / "cache"))


def test_only_new_photos_are_decoded_and_old_arrays_go(own, tmp_path, monkeypatch):
    cache, table = tmp_path / "cache", own / "Fashion-How24_sub1_train.csv"
    load(own, cache)
    lines = table.read_text().splitlines()
    decoded = count_decoded(monkeypatch)
    for number in range(7):
        name = f"new {number}.png"
        Image.new("RGB", (10, 10), (number, 0, 0)).save(own / "train" / name)
        lines.append(lines[1].replace(lines[1].split(",")[0], name))
        table.write_text("\n".join([lines[0], *reversed(lines[3:])]) + "\n")  # others removed, another order
        data = load(own, cache)
        assert [os.path.basename(path) for path in decoded] == [name]
        decoded.clear()
    assert is_right(*data)
    del data
    sizes = [len(np.load(path, mmap_mode="r")) for path in cache.glob("*.npy")]
    assert sorted(sizes) == [1, 2, 4, 8, 16], "small arrays are not taken into larger ones"
    for path in filter(Path.is_file, [*(own / "train").rglob("*"), *(own / "val").rglob("*")]):
        Image.new("RGB", (10, 10), (0, 0, len(str(path)))).save(path, "PNG")
    load(own, cache)
    sizes = [len(np.load(path, mmap_mode="r")) for path in cache.glob("*.npy")]
    assert sorted(sizes) == [8, 23], "old arrays are left"


def test_an_array_that_a_run_has_mapped_stays(own, tmp_path):
    """Another program's shared lock tells; whoever comes later removes it."""
    cache = tmp_path / "cache"
    _, first = load(own, cache)
    paths = set(cache.glob("*.npy"))
    for photo in filter(Path.is_file, own.rglob("*.*g")):
        Image.new("RGB", (10, 10), (0, len(str(photo)), 9)).save(photo, "PNG")
    before = first["train"][:]
    second = load(own, cache)
    assert paths < set(cache.glob("*.npy")) and np.array_equal(first["train"], before)
    del first, second
    load(own, cache)
    assert not paths & set(cache.glob("*.npy"))


def test_two_programs_with_one_cache(own, tmp_path):
    """The second waits for the first, and takes what that has made."""
    code = (
        "import sys; from utils.base import log; from utils.data import photos; from utils.data.attributes import read_attributes\n"
        "from utils.data.dataset import load_pixels, read_tables\n"
        "log.start(); real = photos.read_rgb\n"
        "photos.read_rgb = lambda *a: print('decoded') or real(*a)\n"
        "_, pixels = load_pixels(read_tables(sys.argv[1], read_attributes()), sys.argv[2])\n"
        "print('rows', sum(len(part[:]) for part in pixels.values()))"
    )
    command = [sys.executable, "-c", code, str(own), str(tmp_path / "cache")]
    both = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    said = "".join(one.communicate()[0] for one in both)
    assert said.count("rows 24") == 2 and said.count("decoded") == 24


def test_rows_may_move_between_runs(own, tmp_path):
    file = own / "Fashion-How24_sub1_train.csv"
    tables, first = load(own, tmp_path / "cache")
    header, *lines = file.read_text().splitlines()
    file.write_text("\n".join([header, *reversed(lines)]) + "\n")
    turned, second = load(own, tmp_path / "cache")
    assert turned["train"].names == tables["train"].names[::-1]
    assert np.array_equal(second["train"], first["train"][::-1])


# --- photos that come more than once -----------------------------------------------------------------

KIND = {"image": "file", "attributes": {"kind": {"classes": {"a": {}, "b": {}}}}}
APART = {part: {"table": f"{part}.csv", "photos": "photos"} for part in ("train", "val")}
SHARES = {"train": APART["train"], "val": 0.2, "test": 0.2}


@pytest.fixture
def caplog(caplog, monkeypatch):
    """Also after a test whose command has kept the lines to itself."""
    monkeypatch.setattr(logger, "propagate", True)
    caplog.set_level("INFO", "fashion")
    return caplog


@pytest.fixture
def shop(tmp_path):
    """A function of (table -> list of (photo, class)) that writes a data set; a photo's first letter is its look."""

    def write(**tables):
        (tmp_path / "shop" / "photos").mkdir(parents=True)
        for table, rows in tables.items():
            lines = [f"{name},{kind}" for name, kind in rows]
            (tmp_path / "shop" / f"{table}.csv").write_text("\n".join(["file,kind", *lines]))
            for name, _ in rows:
                number = int(name.split("-")[0])
                picture = Image.new("RGB", (8, 8), (number, 255 - number, 0))
                picture.save(tmp_path / "shop" / "photos" / name)
        return str(tmp_path / "shop")

    return write


def training(folder, parts, unlabelled=()):
    attributes = Attributes({**KIND, **parts}, "own.json")
    args = SimpleNamespace(
        data_dir=folder, skip_unreadable=False, crop_to_box=False, unlabelled=unlabelled, follow_links=False
    )
    tables, pixels = load_pixels(read_all_tables(args, attributes), f"{folder}/cache")
    return tables, *without_twins(tables, pixels, attributes.layout.shares)


def test_twins_of_what_is_held_out_are_not_trained_on(shop, caplog):
    folder = shop(train=[(f"{i}-{twin}.png", "ab"[i % 2]) for i in range(40) for twin in "xy"])
    before, after, pixels = training(folder, SHARES)
    looks = {name: {photo.split("-")[0] for photo in split.names} for name, split in after.items()}
    assert not looks["train"] & (looks["val"] | looks["test"])
    gone = len(before["train"].names) - len(after["train"].names)
    assert gone > 0 and before["val"] is after["val"]
    assert looks["val"] & looks["test"] and "1 photo of test is in validation, too" in caplog.text
    assert sum(int(n) for n in re.findall(r"(\d+) photos? ha(?:ve|s) the pixels of", caplog.text)) == gone
    assert is_right(after, pixels)


def test_photos_of_both_tables_and_with_two_labels_are_told(shop, caplog):
    rows = [(f"{i}-x.png", "a") for i in range(9)]
    folder = shop(train=[*rows, ("0-x.png", "b"), ("1-y.png", "b"), ("2-y.png", "a")], val=rows[:3])
    _, after, _ = training(folder, APART)
    assert len(after["train"].names) == 12, "tables that are given stay as they are"
    assert "3 photos of val are in the training table, too, such as 0-x.png" in caplog.text
    assert "2 photos have several rows in training, with different labels, such as 0-x.png" in caplog.text


def test_copies_in_a_folder_without_labels_are_left_out(shop, tmp_path, caplog):
    folder = shop(train=[("1-x.png", "a"), ("2-x.png", "b")], val=[("3-x.png", "a")], test=[("4-x.png", "a")])
    parts = {**APART, "test": {"table": "test.csv", "photos": "photos"}}
    os.mkdir(tmp_path / "more")
    shutil.copy(f"{folder}/photos/1-x.png", tmp_path / "more" / "copy.png")
    os.link(f"{folder}/photos/3-x.png", tmp_path / "more" / "link.png")
    shutil.copy(f"{folder}/photos/4-x.png", tmp_path / "more" / "last.png")
    with pytest.raises(
        UserError, match=r"unlabelled .*more: 3 photos have the pixels of others of the tables.*none is left"
    ):
        training(folder, parts, [str(tmp_path / "more")])
    Image.new("RGB", (8, 8), "blue").save(tmp_path / "more" / "new.png")
    before, after, _ = training(folder, parts, [str(tmp_path / "more")])
    assert after[f"unlabelled {tmp_path / 'more'}"].names == ["more/new.png"]
    whole = load_training_data(before, f"{folder}/cache", {})
    assert whole[0]["train"].names == ["1-x.png", "2-x.png", "more/new.png"]
    assert len(whole[1]["train"]) == 3 and whole[1]["train"][2][112, 112].tolist() == [0, 0, 255]


# --- bad input ---------------------------------------------------------------------------------------


def test_no_dataset(fails):
    message = fails("--version", "a", data_dir="./Dataset")
    assert "./Dataset" in message and "--data-dir" in message


@pytest.mark.parametrize(
    "text, named",
    [
        (HEADER, "no rows"),
        ("", "no column image_name"),
        (HEADER.replace("Gender", "Sex") + "a.jpg,0,0,0,0,1,1,1\n", "no column Gender"),
        (HEADER + "a.jpg,0,0,0,0,6,1,1\n", "line 2: Daily is 6"),
        (HEADER + "a.jpg,0,0,0,0,1,1,1\na.jpg,0,0,0,0,1,-1,1\n", "line 3: Gender is -1"),
        (HEADER + "a.jpg,0,0,0,0,1,1,\n", "line 2: Embellishment is empty"),
        (HEADER + "a.jpg,0,0,0,0,1\n", "line 2: 6 cells, and the header has 8"),
        (HEADER + ",0,0,0,0,1,1,1\n", "line 2: image_name is empty"),
        (HEADER + "a.jpg,0,0,0,0,one,1,1\n", "line 2: Daily is one"),
        ("\x00\xff", "Fashion-How24_sub1_train.csv"),
    ],
)
def test_bad_csv(fails, own, text, named):
    (own / "Fashion-How24_sub1_train.csv").write_bytes(text.encode("latin-1"))
    message = fails("--version", "a", data_dir=own)
    assert named in message and "Fashion-How24_sub1_train.csv" in message


def test_no_csv(fails, own):
    (own / "Fashion-How24_sub1_val.csv").unlink()
    assert "Fashion-How24_sub1_val.csv" in fails("--version", "a", data_dir=own)


def test_all_bad_photos_are_listed_at_once(fails, own, monkeypatch):
    train = sorted(p for p in (own / "train").rglob("*") if p.is_file())
    val = sorted(p for p in (own / "val").rglob("*") if p.is_file())
    train[0].write_bytes(train[0].read_bytes()[:-200])
    train[1].write_text("no image")
    val[2].write_bytes(b"")
    message = fails("--version", "a", data_dir=own)
    assert "3 photos" in message and all(path.name in message for path in (train[0], train[1], val[2]))
    monkeypatch.setattr(reader, "read_rgb", lambda *args: pytest.fail("decoded again"))
    assert fails("--version", "a", data_dir=own) == message
    train[0].unlink()
    assert train[0].name in fails("--version", "a", data_dir=own)


def test_no_room_for_the_cache(fails, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10**9, 10**9, 1000))
    message = fails("--version", "a", "--cache-dir", "cache/full", code=4)
    assert "cache/full" in message and "--cache-dir" in message


def test_a_cache_that_cannot_be_made(fails):
    Path("file").write_text("")
    assert "--cache-dir" in fails("--version", "a", "--cache-dir", "file/cache")


def test_classes_that_do_not_occur_are_fine(train, own):
    for split in ("train", "val"):
        file = own / f"Fashion-How24_sub1_{split}.csv"
        header, *lines = file.read_text().splitlines()
        file.write_text("\n".join([header, *(line.rsplit(",", 3)[0] + ",2,2,0" for line in lines)]) + "\n")
    train("--version", "a", "--epochs", "1", "--loss-weight", "True", data_dir=own)
    assert "nan" not in Path("logs/a/metrics.csv").read_text()


def test_labels_are_checked_with_an_empty_folder(tmp_path):
    with pytest.raises(UserError, match=r"Fashion-How24_sub1_train\.csv"):
        load(tmp_path, tmp_path / "cache")
