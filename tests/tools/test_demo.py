"""The page in a real browser: predict.py's classes, by mouse and by keyboard, and on a phone's width."""

import contextlib
import csv
import functools
import http.server
import io
import tarfile
import threading
from pathlib import Path

import numpy as np
import pytest
from browser import Browser, find_chromium
from kinds import KINDS, save_student
from PIL import Image

import export
import predict
from utils.base.errors import UserError
from utils.data.attributes import Attributes, read_attributes
from utils.data.photos import letterbox, read_rgb
from utils.tools import demo

ATTRIBUTES = read_attributes()  # the competition's

CLOSE = (
    0.02  # in probability, of a network with random weights, which a grey level sways more than a trained one
)


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


@contextlib.contextmanager
def served(student, folder):
    """(folder of a student's page, its address), served by Python's web server as the README says."""
    demo.main([str(student), "--output", str(folder)])
    handler = functools.partial(Quiet, directory=str(folder))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield folder, f"http://127.0.0.1:{server.server_port}/"
    finally:
        server.shutdown()
        server.server_close()


@pytest.fixture(scope="module")
def site(exported_tiny_vit, tmp_path_factory):
    with served(exported_tiny_vit["fp32"], tmp_path_factory.mktemp("site")) as place:
        yield place


@pytest.fixture(scope="module")
def browser(site, tmp_path_factory):
    chromium = find_chromium()
    if not chromium:
        pytest.skip("no Chromium or Chrome on this machine")
    browser = Browser(chromium, tmp_path_factory.mktemp("profile"))
    browser.resize(1100, 900)
    visit(browser, site[1])
    yield browser
    browser.close()


def visit(browser, address):
    browser.call("Page.navigate", url=address)
    browser.wait_for(
        f"location.href === '{address}' && document.querySelector('#status')?.textContent.startsWith('Ready')"
    )


def classified(browser, name):
    """Wait until the page has the classes of a photo; for each attribute (class, probabilities as shown, in percent)."""
    browser.wait_for(f"document.querySelector('#status').textContent.startsWith('{name}: read')")
    return browser.run(
        "[...document.querySelectorAll('section')].map(section => [+section.dataset.best,"
        "[...section.querySelectorAll('.number')].map(x => parseFloat(x.textContent))])"
    )


def seen(browser):
    """The page's letterboxed photo, int64 `(224, 224, 3)`."""
    values = browser.run(
        "[...document.querySelector('canvas').getContext('2d').getImageData(0, 0, 224, 224).data]"
    )
    return np.array(values).reshape(224, 224, 4)[:, :, :3]


@pytest.fixture(scope="module")
def photos(work, tmp_path_factory):
    """Ten photos: drawn ones of all kinds of files and shapes."""
    folder = tmp_path_factory.mktemp("ten photos")
    turned = Image.Exif()
    turned[0x0112] = 6  # orientation: to be shown a quarter turn clockwise, which training does not do
    for i, path in enumerate(sorted((work / "data" / "val").rglob("*.*g"))):
        with Image.open(path) as opened:
            photo = opened.convert("RGB")
        fading = photo.copy()
        fading.putalpha(Image.linear_gradient("L").resize(photo.size))
        name, picture, options = {
            1: ("1.png", photo, {}),
            2: ("2.jpg", photo, {"exif": turned}),
            3: ("3.png", fading, {}),
            4: ("4.jpg", photo.convert("L"), {}),
            5: ("5.jpg", photo.resize((900, 130)), {"quality": 95}),
            6: ("6.png", photo.resize((33, 61)), {}),
            7: ("7.png", photo.quantize(32), {}),
        }.get(i, (f"{i}.jpg", photo, {}))
        picture.save(folder / name, **options)
    return folder


@pytest.mark.thorough
def test_classes_equal_predict(browser, site, exported_tiny_vit, photos, tmp_path):
    output = f"--output {tmp_path}/out.csv --probabilities".split()
    predict.main([str(photos), "--checkpoint", str(exported_tiny_vit["fp32"]), *output])
    with open(tmp_path / "out.csv", newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 10
    for row in rows:
        browser.choose_file("#file", photos / row["image_name"])
        shown = classified(browser, row["image_name"])
        difference = np.abs(seen(browser) - letterbox(read_rgb(photos / row["image_name"])))
        assert difference.max() <= 2 and difference.mean() < 0.2, row["image_name"]
        for (best, percents), attribute in zip(shown, ATTRIBUTES.values()):
            expected = [float(row[f"{attribute.short}_{i}"]) for i in range(len(attribute.classes))]
            assert np.abs(np.array(percents) / 100 - expected).max() < CLOSE, (row, shown)
            assert best == int(row[attribute.short]), (row, shown)
    assert len({tuple(row[a.short] for a in ATTRIBUTES.values()) for row in rows}) > 2  # not one for all
    assert all(url.startswith((site[1], "blob:", "data:")) for url in browser.requests), browser.requests


@pytest.mark.thorough
def test_keyboard(browser):
    """Tab goes to the file input and from sample to sample; Enter takes one."""
    browser.run("document.activeElement.blur(), scrollTo(0, 0)")
    for tag in ("INPUT", "BUTTON", "BUTTON"):
        browser.press("Tab", 9)
        assert browser.run("document.activeElement.tagName") == tag
    browser.press("Enter", 13)
    shown = classified(browser, "Sample 2")
    assert all(sum(percents) == pytest.approx(100, abs=0.5) for _, percents in shown)
    assert browser.run("document.querySelector('[aria-pressed=true] img').alt") == "sample 2"


@pytest.mark.thorough
def test_dropped(browser):
    browser.run(
        "fetch('samples/3.jpg').then(answer => answer.blob()).then(blob => {"
        " const dataTransfer = new DataTransfer(); dataTransfer.items.add(new File([blob], 'mine.jpg'));"
        " dispatchEvent(new DragEvent('drop', { dataTransfer, cancelable: true })); })"
    )
    classified(browser, "mine.jpg")


@pytest.mark.thorough
def test_unreadable_file(browser, tmp_path):
    (tmp_path / "letter.jpg").write_text("not a picture")
    browser.choose_file("#file", tmp_path / "letter.jpg")
    browser.wait_for("document.querySelector('#status').classList.contains('bad')")
    said = browser.run("document.querySelector('#status').textContent")
    formats = "Please try a JPEG, PNG or WebP file, or a smaller one."
    assert said == f"letter.jpg could not be read as a photo. {formats}"
    browser.run("document.querySelector('.samples button').click()")
    classified(browser, "Sample 1")
    assert not browser.run("document.querySelector('#status').classList.contains('bad')")


@pytest.mark.thorough
def test_phone(browser):
    """Nothing is wider than a small phone's screen, and all class names are there, in both languages."""
    browser.resize(360, 740, mobile=True)
    assert browser.run("document.documentElement.scrollWidth") <= 360
    text = browser.run("document.body.innerText")
    browser.resize(1100, 900)
    for attribute in ATTRIBUTES.values():
        assert all(name in text for name in (*attribute.classes, *attribute.names["ko"]))


@pytest.mark.thorough
@pytest.mark.parametrize("kind", KINDS)
def test_any_attributes(browser, photos, tmp_path, kind):
    """On the page as predict.py writes them: any number, any names, photos turned as the attributes say."""
    attributes = save_student(tmp_path / "s.pt", kind)
    student = f"{tmp_path}/s.onnx"
    export.main(["--checkpoint", f"{tmp_path}/s.pt", "--output", student])
    photo = photos / "2.jpg"  # with an orientation
    predict.main([str(photo), "--checkpoint", student, "--output", f"{tmp_path}/out.csv", "--probabilities"])
    with open(tmp_path / "out.csv", newline="", encoding="utf-8") as file:
        row = next(csv.DictReader(file))
    with served(student, tmp_path / "page") as (_, address):
        visit(browser, address)
        browser.choose_file("#file", photo)
        shown = classified(browser, "2.jpg")
        names = browser.run("[...document.querySelectorAll('section')].map(x => [...x.querySelectorAll('h2,.row')]"
                            ".map(y => y.firstChild.firstChild ? y.firstChild.textContent : y.textContent))")  # fmt: skip
        others = browser.run("[...document.querySelectorAll('.other')].map(x => [x.lang, x.textContent])")
        browser.run("document.querySelectorAll('details').forEach(one => { one.open = true; })")
        browser.resize(360, 740, mobile=True)
        assert browser.run("document.documentElement.scrollWidth") <= 360
        browser.resize(1100, 900)
    difference = np.abs(seen(browser) - letterbox(read_rgb(photo, attributes.layout.exif)))
    assert difference.max() <= 2 and difference.mean() < 0.2
    assert len(shown) == len(attributes) == len(names)
    for (best, percents), (title, *classes), (key, attribute) in zip(shown, names, attributes.items()):
        expected = [float(row[f"{key}_{i}"]) for i in range(len(attribute.classes))]
        own = attributes.content["attributes"][key].get("names", {}).values()
        assert best == int(row[key]) and title in (key, *(f"{key} {one}" for one in own))
        if len(expected) > 12:  # the likeliest first
            order = np.argsort(expected)[::-1]
            assert classes[0].startswith(attribute.classes[order[0]]) and percents == sorted(percents)[::-1]
            expected = sorted(expected)[::-1]
        else:
            assert [one.startswith(name) for one, name in zip(classes, attribute.classes)] == [True] * len(
                classes
            )
        assert np.abs(np.array(percents) / 100 - expected).max() < CLOSE
    # The second names are those of the first other language.
    languages, count = {"seven": ({"de"}, 1 + 50), "lists": ({"ko"}, 1 + 1)}.get(kind, (set(), 0))
    assert {language for language, _ in others} == languages and len(others) == count


def test_what_npm_fetches(tmp_path, monkeypatch):
    def pack(command, cwd, **_):
        assert command[-1] == demo.PACKAGE
        with tarfile.open(Path(cwd) / "package.tgz", "w:gz") as archive:
            for name in demo.RUNTIME:
                archive.addfile(tarfile.TarInfo(f"package/dist/{name}"), io.BytesIO())

    monkeypatch.setattr(demo.subprocess, "run", pack)
    assert demo.fetch_runtime() == dict.fromkeys(demo.RUNTIME, b"")
    monkeypatch.undo()
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UserError, match=r"npm cannot fetch onnxruntime-web.*install npm"):
        demo.fetch_runtime()


def test_samples_are_small():
    sizes = [path.stat().st_size for path in (demo.HERE / "samples").iterdir()]
    assert len(sizes) == demo.SAMPLES and max(sizes) <= 25_000


def test_page_holds_any_names():
    attributes = Attributes({"attributes": {"<!--": {"classes": {"</script>": {}, "&amp;": {}}}}}, "test")
    assert demo.page(attributes, []).count("</script>") == demo.page(ATTRIBUTES, []).count("</script>")


def test_a_folders_own_page_stays(tmp_path):
    files = {
        "index.html": b"<title>Fashion attributes of a photo",
        "README.md": b"ours",
        "samples/2.jpg": b"2",
    }
    demo.write_page(tmp_path / "page", files)
    del files["samples/2.jpg"]
    demo.write_page(tmp_path / "page", files)
    assert not (tmp_path / "page" / "samples" / "2.jpg").exists()
    for name in ("index.html", "README.md", "samples/1.jpg"):
        path = tmp_path / "own" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("mine")
        with pytest.raises(UserError, match=f"own: {name}: not as an earlier run"):
            demo.write_page(tmp_path / "own", files)
        assert [one for one in (tmp_path / "own").rglob("*") if one.is_file()] == [path]
        path.unlink()


def test_bad_input(exported, tmp_path):
    output = ["--output", f"{tmp_path}/page"]
    (tmp_path / "empty").mkdir()
    for arguments, message in (
        ([f"{tmp_path}/student.pt"], "the page runs an ONNX file"),
        ([f"{tmp_path}/absent.onnx"], "no such file"),
        (
            [str(exported["int8"]), "--runtime", f"{tmp_path}/empty"],
            "ort.wasm.min.mjs",
        ),
        ([str(exported["int8"]), "--samples", f"{tmp_path}/empty"], "a folder without photos"),
    ):
        with pytest.raises((UserError, OSError), match=message):
            demo.main([*arguments, *output])
    assert not (tmp_path / "page").exists()
