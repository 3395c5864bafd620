"""CSV, photos of every kind, and the cached array."""

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from conftest import ATTRIBUTES, odd_exif
from PIL import Image, ImageOps, PngImagePlugin, UnidentifiedImageError
from skimage.transform import resize

from utils import photos as reader
from utils.dataset import load_pixels, read_tables
from utils.errors import UserError
from utils.photos import SIZE, letterbox, letterboxed_box, read_rgb

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
        box = letterboxed_box(tmp_path / name, ["0", "0", str(width), str(height)], exif=True)
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
    data = load(own, cache)
    assert sorted(os.walk(own)) == before, "something was written into the data set"
    train = data["train"]
    assert train.pixels.shape == (16, SIZE, SIZE, 3) and isinstance(train.pixels, np.memmap)
    assert list(train.labels) == list(ATTRIBUTES) and train.labels["daily"].dtype == np.int64
    path = own / "train" / train.names[3]
    assert np.array_equal(train.pixels[3], letterbox(read_rgb(path)))

    with monkeypatch.context() as patch:
        patch.setattr(reader, "read_rgb", lambda *args: pytest.fail("decoded again"))
        again = load(own, cache)
    assert np.array_equal(again["train"].pixels, train.pixels)

    Image.new("RGB", (100, 100), "red").save(path, "PNG")
    assert load(own, cache)["train"].pixels[3, 112, 112].tolist() == [255, 0, 0]
    assert train.pixels[3].any(), "the array of a run under way was taken away"
    arrays = {name for name in os.listdir(cache) if name.endswith(".npy")}
    assert len(arrays) == 2, "superseded arrays are left in the cache"
    assert set(os.listdir(cache)) == arrays | {f"{name}.unreadable" for name in arrays}


def test_rows_may_move_between_runs(own, tmp_path):
    file = own / "Fashion-How24_sub1_train.csv"
    first = load(own, tmp_path / "cache")["train"]
    header, *lines = file.read_text().splitlines()
    file.write_text("\n".join([header, *reversed(lines)]) + "\n")
    second = load(own, tmp_path / "cache")["train"]
    assert second.names == first.names[::-1]
    assert np.array_equal(second.pixels, first.pixels[::-1])


# --- bad input ---------------------------------------------------------------------------------------


def test_no_dataset(fails):
    message = fails("--version", "a", data_dir="./Dataset")
    assert "./Dataset" in message and "ln -s" in message


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
