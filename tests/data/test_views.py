"""Views of the training photos: what makes them, boxes, what training sees, what the teacher says of them."""

import csv
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import ATTRIBUTES, same, write_own
from PIL import Image

from networks import load_network
from utils.base.cli import Parser, exit_code
from utils.base.errors import UserError
from utils.data import views
from utils.data.dataset import load_pixels, read_tables
from utils.data.photo_cache import PHOTO, Pixels
from utils.data.photos import SIZE, letterbox, letterboxed_box, photo_size, read_rgb
from utils.data.pixels import Images
from utils.data.views import NUMBERS, View, Views, view_options
from utils.nets import checkpoint
from utils.tools import write_views
from utils.training import engine
from utils.training.teacher import PREFIX, LogitsFile, save_logits

CPU = torch.device("cpu")
SMALL = "--kd-learning True".split()
SOFT = [*SMALL, "--distillation-type", "soft"]
ROUNDING = 1e-5


def options(line):
    parser = Parser(prog="test")
    parser.view_options(parser)
    return view_options(parser.parse_args(line.split()))


@pytest.fixture(scope="module")
def noise(tmp_path_factory):
    """Nine images that show every shift, memory-mapped as the cache's are."""
    path = tmp_path_factory.mktemp("noise") / "noise.npy"
    np.save(path, np.random.RandomState(0).randint(0, 256, (9, SIZE, SIZE, 3), dtype=np.uint8))
    return np.load(path, mmap_mode="r")


def view(array, line, number, boxes=None):
    return View(Views(options(line), boxes), number, images(array))


def images(array):
    photos = np.zeros(len(array), PHOTO)
    photos["pixels"] = photos["row"] = range(len(array))
    return Images(Pixels([array], photos), CPU)


def seen(array, *arguments):
    return next(view(array, *arguments).fetch([torch.arange(len(array))]))


# --- what makes a view -------------------------------------------------------------------------------


@pytest.mark.parametrize("line", ["", "--crop-ratio 1.5 --color-jitter 0.4"])
def test_a_view_of_a_row_is_its_own(noise, line):
    whole, few = seen(noise, line, 2), view(noise[:5], f"{line} --views 9", 2)
    assert whole.dtype == torch.uint8 and whole.shape == (9, 3, SIZE, SIZE)
    for rows in ([3], [4, 0, 2], [2, 2, 1], [0, 1, 2, 3, 4]):
        assert torch.equal(next(few.fetch([torch.tensor(rows)])), whole[rows]), "it depends on the other rows"
    for other in (seen(noise, line, 1), seen(noise, f"{line} --views-seed 1", 2)):
        assert not any(map(torch.equal, other, whole)), "it does not depend on seed and number"


def test_the_numbers_of_a_row_are_the_same_everywhere(noise):
    """On each stack and machine: others keep logits of these views."""
    crop = view(noise, "--views-seed 7", 2).crops[2].flatten().tolist()
    # Row 2 of Philox(key=[7, 2]): flip 0.5862, scale 0.1992, ratio 0.3676, x 0.8273, y 0.5376.
    side = 0.7 + 0.3 * 0.1991542
    expected = [(2 * 0.8272745 - 1) * (1 - side), side, (2 * 0.53756094 - 1) * (1 - side), side]
    assert crop == pytest.approx(expected, abs=1e-6)


def test_the_first_view_is_the_photo_itself(noise):
    photos, made = images(noise), Views(options("--views 3 --color-jitter 1"))
    assert [made.view(photos, number).number for number in range(5)] == [0, 1, 2, 0, 1]
    first = next(made.view(photos, 3).fetch([torch.arange(9)]))
    assert np.array_equal(first.permute(0, 2, 3, 1).numpy(), noise)


def drawn(line, boxes=None, count=4000):
    """Crops of views with random numbers, and these: (sizes `(N, 2)`, centres `(N, 2)`, flipped `(N,)`)."""
    crops = views._crops(torch.rand(count, NUMBERS), options(line), boxes)
    return crops[:, :, 1].abs(), crops[:, :, 0], crops[:, 0, 1] < 0


def test_crops_stay_within_the_photo():
    torch.manual_seed(0)
    sizes, centres, _ = drawn("--crop-scale 0.5")
    assert (sizes[:, 0] == sizes[:, 1]).all()
    assert 0.5 <= sizes.min() < 0.51 and 0.99 < sizes.max() <= 1
    assert (centres.abs() + sizes).max() <= 1 + ROUNDING, "it leads out"
    room = (centres / (1 - sizes))[sizes[:, 0] < 0.9]
    assert room.min() < -0.98 and room.max() > 0.98, "it never touches an edge"
    assert room.mean(0).abs().max() < 0.05 and np.corrcoef(room.T)[0, 1] < 0.05

    sizes, centres, _ = drawn("--crop-scale 0.5 --crop-ratio 2")
    assert (centres.abs() + sizes).max() <= 1 + ROUNDING
    ratios = sizes[:, 0] / sizes[:, 1]
    assert 1 / 2 - ROUNDING <= ratios.min() < 0.52 and 1.9 < ratios.max() <= 2 + ROUNDING
    assert sizes.min() >= 0.5 / 2**0.5 - ROUNDING and sizes.max() == 1

    sizes, centres, _ = drawn("--crop-scale 1")
    assert (sizes == 1).all() and (centres == 0).all()


def test_flips():
    torch.manual_seed(0)
    assert drawn("--flip 0.3")[2].float().mean() == pytest.approx(0.3, abs=0.03)
    assert not drawn("--flip 0")[2].any() and drawn("--flip 1")[2].all()


def test_pixels_come_from_where_the_crop_lies(noise, tmp_path):
    """Images whose red is the column, whose green is the row."""
    y, x = np.mgrid[:SIZE, :SIZE]
    np.save(tmp_path / "a.npy", np.tile(np.stack([x, y, 0 * x], axis=-1).astype(np.uint8), (9, 1, 1, 1)))
    array = np.load(tmp_path / "a.npy", mmap_mode="r")
    for flip in (0, 1):
        made = view(array, f"--flip {flip} --crop-scale 0.4 --crop-ratio 1.3", 3)
        got = next(made.fetch([torch.arange(9)])).float()
        for row, ((cx, sx), (cy, sy)) in enumerate(made.crops):
            assert (sx < 0) == bool(flip)
            ends = (2 * torch.arange(SIZE) + 1) / SIZE - 1  # centres of the pixels, -1 to 1
            columns, lines = (((s * ends + c + 1) * SIZE - 1) / 2 for s, c in ((sx, cx), (sy, cy)))
            inner = slice(2, -2)  # at the border black is mixed in
            assert (got[row, 0, 112] - columns)[inner].abs().max() < 0.51
            assert (got[row, 1, :, 112] - lines)[inner].abs().max() < 0.51
    plain, mirrored = (seen(noise, f"--flip {flip} --crop-scale 1", 1) for flip in (0, 1))
    assert np.array_equal(plain.permute(0, 2, 3, 1).numpy(), noise)
    assert torch.equal(mirrored, plain.flip(3))


def test_colours():
    grey = (0.299 * 200 + 0.587 * 100 + 0.114 * 50) * torch.ones(3)
    image = torch.tensor([200.0, 100.0, 50.0]).view(1, 3, 1, 1).expand(1, 3, 4, 4)
    for factors, expected in (
        ((1, 1, 1), [200, 100, 50]),
        ((1.2, 1, 1), [240, 120, 60]),
        ((2, 1, 1), [255, 200, 100]),
        ((0, 1, 1), [0, 0, 0]),
        ((1, 0, 1), grey),
        ((1, 1, 0), grey),
        ((1, 1, 0.5), (grey + torch.tensor([200, 100, 50])) / 2),
    ):
        got = views._recolored(image, torch.tensor([factors], dtype=torch.float32))
        assert got[0, :, 1, 1].tolist() == pytest.approx(torch.as_tensor(expected).tolist(), abs=1e-3), (
            factors
        )
    halves = image.clone()
    halves[:, :, :2] = 0
    got = views._recolored(halves, torch.tensor([[1.0, 0.0, 1.0]]))
    assert got.flatten().tolist() == pytest.approx([grey[0].item() / 2] * 48, abs=1e-3), (
        "not the image's mean"
    )


def test_jitter(noise, tmp_path):
    still, moved = (view(noise, f"--color-jitter {share}", 1) for share in (0, 0.3))
    assert (still.colors == 1).all() and torch.equal(still.crops, moved.crops)
    assert 0.7 <= moved.colors.min() < 0.8 and 1.2 < moved.colors.max() <= 1.3
    assert not any(map(torch.equal, seen(noise, "--color-jitter 0.3", 1), seen(noise, "", 1)))
    np.save(tmp_path / "white.npy", np.full((9, SIZE, SIZE, 3), 255, np.uint8))
    white = view(np.load(tmp_path / "white.npy", mmap_mode="r"), "--color-jitter 1 --crop-scale 1", 1)
    brighter = white.colors[:, 0] > 1
    assert 0 < brighter.sum() < 9 and (next(white.fetch([torch.arange(9)]))[brighter] == 255).all(), (
        "it runs over"
    )


# --- boxes -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "weights, size, centre",
    [
        ((0, 0, 0, 0), 1, (0, 0)),  # the whole image
        ((1, 1, 1, 1), 0.75, (-0.25, 0.25)),  # the box: -0.75 to 0.25, -0.5 to 1, filled up to a square
        ((0.5, 0.5, 0.5, 0.5), 0.875, (-0.125, 0.125)),
        ((1, 0, 0, 0), 1, (0.125, 0)),
        ((0, 1, 0, 1), 1, (0, 0.25)),
        ((0, 0, 1, 0), 1, (-0.375, 0)),
    ],
)
def test_a_crop_lies_between_box_and_photo(weights, size, centre):
    numbers = torch.tensor([[0.9, *weights, 0, 0, 0]])
    boxes = torch.tensor([[28.0, 56.0, 140.0, 224.0]])
    crop = views._crops(numbers, options("--crop-to-box"), boxes)[0]
    assert crop.flatten().tolist() == pytest.approx([centre[0], size, centre[1], size])


def test_a_crop_holds_the_box():
    torch.manual_seed(0)
    corners = (224 * torch.rand(4000, 2, 2)).sort(dim=1)[0]
    sizes, centres, _ = drawn("--crop-to-box", corners.flatten(1))
    low, high = (2 * corners / SIZE - 1).unbind(1)
    assert (sizes[:, 0] == sizes[:, 1]).all() and sizes.max() <= 1
    assert (centres - sizes <= low + ROUNDING).all() and (centres + sizes >= high - ROUNDING).all()


def test_rows_without_a_box_get_a_plain_crop(noise):
    boxes = np.full((9, 4), np.nan, np.float32)
    boxes[4] = 20, 30, 200, 150
    plain, boxed = seen(noise, "", 1), seen(noise, "--crop-to-box", 1, boxes)
    assert [torch.equal(*both) for both in zip(plain, boxed)] == [row != 4 for row in range(9)]
    assert torch.equal(seen(noise, "", 1, boxes), plain), "not asked for"


def test_what_a_view_is_kept_by(noise):
    """Whatever changes the pixels changes the name of the teacher's logits in the cache."""
    boxes = np.zeros((9, 4), np.float32)
    lines = ["", "--views-seed 1", "--flip 0.1", "--crop-scale 0.5", "--crop-ratio 2", "--color-jitter 0.1"]
    keys = [repr(view(noise, line, 1).key) for line in lines]
    keys += [repr(view(noise, "", 2).key), repr(images(noise).key)]
    keys += [repr(view(noise, "--crop-to-box", 1, each).key) for each in (boxes, boxes + 1)]
    assert len(set(keys)) == len(keys)
    assert repr(view(noise, "--views 7", 1).key) == keys[0], "more views make all of them anew"


def test_letterboxed_boxes(tmp_path):
    """By hand: 400 x 200 becomes 224 x 112 with 56 black lines above; turned, 112 x 224."""
    wide, turned = np.zeros((200, 400, 3), np.uint8), np.zeros((400, 200, 3), np.uint8)
    wide[50:150, 100:300] = turned[100:300, 50:150] = 255
    exif = Image.Exif()
    exif[0x0112] = 6  # stored as it is when turned to the left
    Image.fromarray(wide).save(tmp_path / "wide.png")
    Image.fromarray(np.rot90(turned).copy()).save(tmp_path / "turned.jpg", exif=exif, quality=100)
    for name, cells, is_turned, expected in (
        ("wide.png", "100 50 300 150", False, [56, 84, 168, 140]),
        ("wide.png", "0 0 400 200", False, [0, 56, 224, 168]),
        ("wide.png", "100.5 50 300 150", True, [56.28, 84, 168, 140]),
        ("turned.jpg", "50 100 150 300", True, [84, 56, 140, 168]),
    ):
        box = letterboxed_box(list(map(float, cells.split())), *photo_size(tmp_path / name, is_turned))
        assert box == pytest.approx(expected)
        if "0 0" not in cells and "." not in cells:
            y, x = np.nonzero(letterbox(read_rgb(tmp_path / name, is_turned))[:, :, 0] > 127)
            assert [x.min(), y.min(), x.max() + 1, y.max() + 1] == pytest.approx(expected, abs=1)
    with pytest.raises(ValueError, match=r"box 50, 100, 150, 300: empty, or outside of the photo, 400 x 200"):
        letterboxed_box([50, 100, 150, 300], *photo_size(tmp_path / "turned.jpg"))


def with_rows(photos, change):
    """A copy of the data set at `data`; `change` is called with the training table's rows."""
    shutil.copytree(photos, "data")
    path = Path("data", ATTRIBUTES.layout.parts["train"].table)
    with open(path, newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    change(rows)
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    return rows


@pytest.mark.parametrize(
    "column, cell, said",
    [
        (2, "9999", "outside of the photo, "),
        (3, "9999", "outside of the photo, "),
        (0, "-1", "outside of the photo, "),
        (1, "-0.5", "outside of the photo, "),
        (2, "inf", "outside of the photo, "),
        (2, "0", "empty, or outside of the photo, "),
        (1, "9999", "empty, or outside"),
        (0, "nan", "empty, or outside"),
        (3, "", "not four numbers"),
        (0, "left", "not four numbers"),
    ],
)
def test_bad_boxes(fails, place, photos, column, cell, said):
    name = ATTRIBUTES.layout.box[column]
    row = with_rows(photos, lambda rows: rows[3].update({name: cell}))[3]
    message = fails("--version", "a", "--views", "2", "--crop-to-box", data_dir="data")
    one, other = (
        f"{ATTRIBUTES.layout.parts['train'].table}: 1 bad row,",
        "--crop-to-box: 1 box does not fit its photo",
    )
    first, where = (one, "line 5: box ") if "numbers" in said else (other, f"{row['image_name']}: box ")
    assert first in message and where in message and said in message and len(message.splitlines()) == 2
    assert read_tables("data", ATTRIBUTES)["train"].boxes is None, "they are not looked at unasked"


def test_no_boxes_to_crop_to(fails, place, photos):
    path = write_own(place / "own", photos, {"kind": 2})
    message = fails("--version", "a", "--crop-to-box", "--attributes", str(path), data_dir=path.parent)
    assert '--crop-to-box: the attributes have no "box": [xmin, ymin, xmax, ymax], columns' in message
    path.write_text(path.read_text().replace('"image"', '"box": ["a", "b", "c", "d"], "image"', 1))
    message = fails("--version", "a", "--crop-to-box", "--attributes", str(path), data_dir=path.parent)
    assert "no column a, b, c, d" in message


def test_boxes_stay_with_their_photos(place, photos):
    rows = with_rows(photos, lambda rows: None)
    bad = Path("data/train", rows[2]["image_name"])
    bad.write_bytes(b"no photo")
    tables = read_tables("data", ATTRIBUTES, boxes=True)
    train = load_pixels(tables, "cache", skip_unreadable=True)[0]["train"]
    assert len(train.boxes) == len(train.names) == len(rows) - 1 and train.boxes.dtype == np.float32
    for box, row in zip(train.boxes, [row for row in rows if row is not rows[2]]):
        size = photo_size(f"data/train/{row['image_name']}")
        own = [float(row[column]) for column in ATTRIBUTES.layout.box]
        assert box.tolist() == pytest.approx(letterboxed_box(own, *size), abs=1e-4)


def test_sizes_are_kept_beside_the_pixels(place, photos, monkeypatch):
    """No photo is opened at the next start; an index of an earlier version has no sizes."""
    opened, real = [], Image.open
    monkeypatch.setattr(
        Image, "open", lambda path, *args, **more: opened.append(path) or real(path, *args, **more)
    )

    def boxes():
        opened.clear()
        return load_pixels(read_tables(str(photos), ATTRIBUTES, boxes=True), "cache")[0]["train"].boxes

    first = boxes()
    assert opened and np.array_equal(boxes(), first) and not opened
    for path in Path("cache").glob("photos-*.npz"):
        with np.load(path) as file:
            arrays = dict(file)
        earlier = [name for name in arrays["photos"].dtype.names if name != "size"]
        np.savez(path, **{**arrays, "photos": arrays["photos"][earlier]})
    assert np.array_equal(boxes(), first) and opened
    assert np.array_equal(boxes(), first) and not opened


# --- what training sees ------------------------------------------------------------------------------


@pytest.fixture
def fetched(monkeypatch):
    """(Number of the view, rows, pixels) of each batch that training or a teacher gets, but for plain photos."""
    real, seen = View.fetch, []

    def fetch(self, batches):
        for rows, pixels in zip(batches, real(self, batches)):
            seen.append((self.number, rows.tolist(), pixels))
            yield pixels

    monkeypatch.setattr(View, "fetch", fetch)
    return seen


@pytest.mark.cuda
def test_each_epoch_has_its_view(train, monkeypatch, fetched):
    numbers, real = [], engine.train_one_epoch

    def epoch(state, criterion, examples, *rest):
        numbers.append(examples.images.number)
        return real(state, criterion, examples, *rest)

    monkeypatch.setattr(engine, "train_one_epoch", epoch)
    train("--version", "a", *SMALL, "--distillation-type", "none", "--views", "3", "--epochs", "4")
    assert numbers == [0, 1, 2, 0]
    assert [number for number, *_ in fetched] == [1, 1, 2, 2], "validation, or a plain epoch, has views"
    for number in (1, 2):
        rows = [row for one, indices, _ in fetched if one == number for row in indices]
        assert sorted(rows) == list(range(16)) != rows


@pytest.mark.cuda
def test_the_teacher_says_of_a_view_what_it_would_now(train, place, fetched):
    train("--version", "t", "--epochs", "1")
    options = ["--teacher", "t/model_1.pt", "--views", "2", "--crop-to-box", "--cache-dir", "cache/c"]
    train("--version", "a", *SOFT, *options)
    assert [(number, sorted(rows)) for number, rows, _ in fetched[:1]] == [(1, list(range(16)))]
    first = fetched[0][2]
    for _, rows, pixels in fetched[1:]:
        assert torch.equal(pixels, first[rows]), "teacher and student see something else"
    net, _ = load_network("model/t/model_1.pt")
    with torch.no_grad():
        logits = {key: values.cpu() for key, values in net.to(first.device).inference()(first).items()}
    progress = checkpoint.read_file("model/a/last.pt")["progress"]
    assert progress["view"] == 1 and same(progress["teacher_logits"], logits)
    cached = [np.load(path) for path in place.glob("cache/c/logits-*.npy")]
    assert len(cached) == 2
    expected = np.concatenate([logits[key] for key in ATTRIBUTES], axis=1)
    assert sum(np.array_equal(one, expected) for one in cached) == 1
    before = len(fetched)
    train("--version", "b", *SOFT, *options)
    assert [len(rows) for _, rows, _ in fetched[before:]] == [8, 8], "the teacher is asked again"


def test_logits_of_views_from_a_file(train, place, photos, fetched):
    """That of --save-teacher-logits, and one of another program, from the arrays of `python -m utils.tools.write_views`."""
    asks = [*SOFT, "--device", "cpu", "--views", "2", "--color-jitter", "0.2", "--crop-ratio", "1.2"]
    train("--version", "t", *SMALL, "--distillation-type", "none", "--epochs", "1")
    train("--version", "asked", *asks, "--teacher", "t/model_1.pt", "--save-teacher-logits", "saved.npz")
    arrays = asks[asks.index("--views") :]
    write_views.main(["--output", "out", "--data-dir", str(photos), *arrays])
    assert sorted(path.name for path in Path("out").iterdir()) == ["view_0.npy", "view_1.npy", "views.npz"]
    pixels = [torch.from_numpy(np.load(f"out/view_{number}.npy")).permute(0, 3, 1, 2) for number in (0, 1)]
    trained = [(rows, batch) for _, rows, batch in fetched if len(rows) == 8]
    assert len(trained) == 2 and all(torch.equal(batch, pixels[1][rows]) for rows, batch in trained)
    with np.load("out/views.npz") as file:
        content = dict(file)
    net, _ = load_network("model/t/model_1.pt")
    with torch.no_grad():
        said = [net.inference()(one) for one in pixels]
    content.update({PREFIX + key: np.stack([one[key] for one in said]) for key in said[0]})
    np.savez("written.npz", **content)
    for version in ("saved", "written"):
        train("--version", version, *asks, "--teacher-logits", f"{version}.npz")
        for epoch in (1, 2):
            paths = [f"model/{one}/model_{epoch}.pt" for one in (version, "asked")]
            assert same(*(checkpoint.read_file(path)["model"] for path in paths)), (version, epoch)


def test_logits_of_other_views_are_refused(fails, place, photos):
    names = read_tables(str(photos), ATTRIBUTES, ["train"])["train"].names
    logits = {key: torch.randn(2, len(names), size) for key, size in ATTRIBUTES.sizes.items()}
    own = views.Views(options("")).key

    def said(file, *more):
        return fails("--version", "a", *SOFT, "--views", "2", "--teacher-logits", file, *more)

    save_logits("two.npz", names, logits, views=own)
    save_logits("one.npz", names, {key: values[0] for key, values in logits.items()})
    save_logits("unsaid.npz", names, logits)
    save_logits("turned.npz", names[::-1], logits, views=own)
    save_logits("fewer.npz", names[1:], {key: values[:, 1:] for key, values in logits.items()}, views=own)
    assert "two.npz: logits of 2 views; --views 3 needs them all" in said("two.npz", "--views", "3")
    assert "one.npz: logits of 1 views; --views 2 needs them all" in said("one.npz")
    assert "unsaid.npz: logits of other views, None; this run's are" in said("unsaid.npz")
    for name in ("turned.npz", "fewer.npz"):
        message = said(name)
        assert name in message and "images in its order, by which views go" in message and "\n" not in message
    for more in ("--views-seed 1", "--flip 0", "--crop-scale 0.6", "--crop-ratio 2", "--color-jitter 0.1"):
        message = said("two.npz", *more.split())
        assert "two.npz: logits of other views, {" in message and "\n" not in message, more
    two = LogitsFile("two.npz", ATTRIBUTES.sizes)
    two.prepare(names, None, views.Views(options("--views 2")))
    # With --crop-to-box they are of the boxes as they were.
    args, boxes = options("--views 2 --crop-to-box"), np.full((len(names), 4), 50.0, np.float32)
    save_logits("boxes.npz", names, logits, views=views.Views(args, boxes).key)
    read = LogitsFile("boxes.npz", ATTRIBUTES.sizes)
    read.prepare(names, None, views.Views(args, boxes))
    with pytest.raises(UserError, match="logits of other views"):
        read.prepare(names, None, views.Views(args, boxes + 1))


def test_a_folder_that_cannot_be_written(place, photos, capsys):
    Path("out").write_text("a file")
    assert exit_code(lambda: write_views.main(["--output", "out", "--data-dir", str(photos)])) == 2
    assert "error: out: " in capsys.readouterr().err
