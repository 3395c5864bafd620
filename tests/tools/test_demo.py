"""The page in a real browser: predict.py's classes, by mouse and by keyboard, and on a phone's width."""

import contextlib
import csv
import functools
import http.server
import io
import json
import re
import tarfile
import threading
import time
from pathlib import Path

import numpy as np
import onnx
import pytest
from browser import SECONDS, Browser, find_chromium
from kinds import KINDS, save_student
from PIL import Image

import export
import predict
from utils.base.errors import UserError
from utils.data.attributes import Attributes, read_attributes
from utils.data.folders import find_photos
from utils.data.photos import letterbox, read_rgb
from utils.evaluation import confidence
from utils.evaluation.inference import load_classifier
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


def write_with(measured, student, path):
    """A student's file with these thresholds in place of its own."""
    model, meta = onnx.load(student), load_classifier(student).meta
    meta = {**meta, "sure": measured and {"attributes": measured}}
    onnx.helper.set_model_props(model, {"meta": json.dumps(meta)})
    onnx.save(model, path)


@pytest.fixture(scope="module")
def site(exported_tiny_vit, tmp_path_factory):
    """Of a file that says nothing of sure answers."""
    folder = tmp_path_factory.mktemp("site")
    write_with(None, exported_tiny_vit["fp32"], folder / "s.onnx")
    with served(folder / "s.onnx", folder / "page") as place:
        yield place


@pytest.fixture(scope="module")
def browser(site, tmp_path_factory):
    chromium = find_chromium()
    if not chromium:
        pytest.skip("no Chromium or Chrome on this machine")
    browser = Browser(chromium, tmp_path_factory.mktemp("profile"))
    browser.resize(1100, 900)
    browser.call("Emulation.setFocusEmulationEnabled", enabled=True)  # a clipboard is the focused window's
    visit(browser, site[1])
    yield browser
    browser.close()


def visit(browser, address):
    browser.call("Page.navigate", url=address)
    browser.wait_for(
        f"location.href === '{address}' && document.querySelector('#status')?.textContent.startsWith('Ready')"
    )


def classified(browser, name):
    """Wait until the page has the classes of one photo; for each attribute its class, and [class, percent] of all, as shown."""
    browser.wait_for(f"document.querySelector('#status').textContent.startsWith('{name}: read')")
    browser.wait_for("document.querySelector('.photo section') !== null")
    return browser.run(
        "[...document.querySelector('.photo').querySelectorAll('section')].map(section => [+section.dataset.best,"
        "[...section.querySelectorAll('.class')].map(row => [+row.dataset.number,"
        "parseFloat(row.querySelector('.number').textContent)])])"
    )


def many_seen(browser, count):
    """Wait until the page has seen so many photos; what it says."""
    browser.wait_for(
        "document.querySelector('progress').hidden && !document.querySelector('.several').hidden"
    )
    browser.wait_for(f"document.querySelector('#status').textContent.startsWith('{count} photos seen')")
    return browser.run("document.querySelector('#status').textContent")


def rows(browser):
    """(name, what stands below it) of each photo on the page."""
    return browser.run(
        "[...document.querySelectorAll('.photo')].map(row => [row.querySelector('h2').textContent,"
        "row.querySelector('.answers').textContent])"
    )


def downloaded(browser, folder):
    """Rows of the table that "Download CSV" writes."""
    browser.call("Page.setDownloadBehavior", behavior="allow", downloadPath=str(folder))
    browser.run("document.querySelector('#csv').click()")
    path, end = folder / "predictions.csv", time.monotonic() + SECONDS
    while not path.exists():
        assert time.monotonic() < end
        time.sleep(0.05)
    content = path.read_bytes().decode("utf-8-sig")
    rows, same = list(csv.reader(io.StringIO(content, newline=""))), io.StringIO(newline="")
    csv.writer(same).writerows(rows)
    assert same.getvalue() == content  # quoted as Python's
    return rows


def seen(browser, exif=False):
    """The letterboxed photo that the page makes of the file that was chosen, int64 `(224, 224, 3)`."""
    values = browser.run(
        "import('./photo.js').then(async ({ letterbox, pixelsOf, read }) => {"
        f"  const canvas = await read(document.querySelector('#file').files[0], {str(exif).lower()});"
        "  return [...letterbox(pixelsOf(canvas), 224)]; })"
    )
    return np.array(values).reshape(224, 224, 3)


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
        browser.choose_files("#file", photos / row["image_name"])
        shown = classified(browser, row["image_name"])
        difference = np.abs(seen(browser) - letterbox(read_rgb(photos / row["image_name"])))
        assert difference.max() <= 2 and difference.mean() < 0.2, row["image_name"]
        for (best, percents), attribute in zip(shown, ATTRIBUTES.values()):
            expected = [float(row[f"{attribute.short}_{i}"]) for i in range(len(attribute.classes))]
            percents = [percent for _, percent in sorted(percents)]
            assert np.abs(np.array(percents) / 100 - expected).max() < CLOSE, (row, shown)
            assert best == int(row[attribute.short]), (row, shown)
    assert len({tuple(row[a.short] for a in ATTRIBUTES.values()) for row in rows}) > 2  # not one for all
    assert all(url.startswith((site[1], "blob:", "data:")) for url in browser.requests), browser.requests


@pytest.mark.thorough
def test_table(browser, site, exported_tiny_vit, photos, tmp_path):
    """The table of several photos is predict.py's, for names that need quoting, too."""
    odd = ("=1+1.png", 'a "b", c.png', "-3.png", "한글.png")
    for name, photo in zip(odd, sorted(photos.iterdir())):
        Image.open(photo).save(tmp_path / name)
    (tmp_path / "bad.jpg").write_text("not a picture")
    visit(browser, site[1])
    browser.choose_files("#file", *(tmp_path / name for name in (*odd, "bad.jpg")))
    assert ", 1 could not be read" in many_seen(browser, 5)
    header, *lines = downloaded(browser, tmp_path / "down")
    named = [str(tmp_path / name) for name in odd]
    student = ["--checkpoint", str(exported_tiny_vit["fp32"])]
    predict.main([*named, *student, "--names", "en", "--output", f"{tmp_path}/out.csv"])
    with open(tmp_path / "out.csv", newline="", encoding="utf-8") as file:
        expected = list(csv.reader(file))
    assert header == expected[0] and sorted(lines) == sorted(expected[1:])


@pytest.mark.thorough
def test_keyboard(browser, site):
    """Tab goes to the two choices, from sample to sample, to the answers; Enter takes a sample, and copies."""
    visit(browser, site[1])
    for tag in ("INPUT", "INPUT", "BUTTON", "BUTTON"):
        browser.press("Tab", 9)
        assert browser.run("document.activeElement.tagName") == tag
    browser.press("Enter", 13)
    shown = classified(browser, "Sample 2")
    assert all(sum(percent for _, percent in row) == pytest.approx(100, abs=0.5) for _, row in shown)
    assert browser.run("document.querySelector('[aria-pressed=true] img').alt") == "sample 2"
    for _ in range(5):
        browser.press("Tab", 9)
    browser.call("Browser.grantPermissions", permissions=["clipboardReadWrite", "clipboardSanitizedWrite"])
    browser.press("Enter", 13)
    browser.wait_for("document.querySelector('#status').textContent.startsWith('Copied: ')")
    names = [attribute.classes[best] for (best, _), attribute in zip(shown, ATTRIBUTES.values())]
    answers = " · ".join(f"Embellishment: {name}" if name == "none" else name for name in names)
    assert browser.run("navigator.clipboard.readText()") == answers
    assert browser.run("document.querySelector('.answers').textContent").replace("\xa0", " ") == answers
    browser.press("Tab", 9)
    assert browser.run("document.activeElement.textContent") == "Probabilities of Sample 2"
    browser.press("Enter", 13)
    browser.wait_for("!document.querySelector('.photo').classList.contains('open')")


@pytest.mark.thorough
def test_screen_reader(browser, site, photos):
    """Whatever can be used has a name, the answers are said, and there is a heading for each photo."""
    visit(browser, site[1])
    browser.choose_files("#file", *sorted(photos.iterdir())[:2])
    many_seen(browser, 2)
    browser.run("document.querySelector('.samples button').click()")
    shown = classified(browser, "Sample 1")
    said = browser.run("document.querySelector('#status[role=status]').textContent")
    assert all(ATTRIBUTES[key].classes[best] in said for key, (best, _) in zip(ATTRIBUTES, shown))
    tree = [
        (node["role"]["value"], node.get("name", {}).get("value"))
        for node in browser.call("Accessibility.getFullAXTree")["nodes"]
        if not node["ignored"]
    ]
    used = [name for role, name in tree if role in ("button", "DisclosureTriangle", "progressbar", "list")]
    assert {"Choose photos", "Download CSV", "Copy the answers of Sample 1"} < set(used)
    unnamed = [role for role, name in tree if role in ("button", "DisclosureTriangle") and not name]
    assert not unnamed and ("heading", "Sample 1") in tree and ("heading", "Daily 일상성") in tree


@pytest.mark.thorough
@pytest.mark.parametrize("scheme", ("light", "dark"))
def test_contrast(browser, site, scheme):
    """WCAG's 4.5 for text, 3 for the edges of what can be used; and nothing moves for those who want that."""
    browser.emulate(prefers_color_scheme=scheme, prefers_reduced_motion="reduce")
    visit(browser, site[1])
    browser.run("document.querySelector('.samples button').click()")
    classified(browser, "Sample 1")
    assert browser.run("getComputedStyle(document.querySelector('.track div')).animationName") == "none"

    def luminance(name):
        value = browser.run(f"getComputedStyle(document.documentElement).getPropertyValue('--{name}').trim()")
        digits = value[1:] if len(value) == 7 else "".join(digit * 2 for digit in value[1:])
        parts = [int(digits[i : i + 2], 16) / 255 for i in (0, 2, 4)]
        linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
        return np.dot(linear, (0.2126, 0.7152, 0.0722))

    for name, least in {"ink": 4.5, "soft": 4.5, "best": 4.5, "bad": 4.5, "edge": 3}.items():
        for ground in ("paper", "card"):
            low, high = sorted((luminance(name), luminance(ground)))
            assert (high + 0.05) / (low + 0.05) >= least, (name, ground)
    browser.emulate()


@pytest.mark.thorough
def test_folder(browser, site, photos, tmp_path):
    """Of a folder, chosen or dropped, what predict.py takes, by the names that it has there; others beside."""
    folder = tmp_path / "shop"
    (folder / "sub").mkdir(parents=True)
    (folder / ".thumbs").mkdir()
    for name in ("10.jpg", "2.jpg", "sub/2.jpg", ".thumbs/2.jpg"):
        Image.open(photos / "1.png").save(folder / name)
    (folder / "list.csv").write_text("a,b")
    visit(browser, site[1])
    browser.choose_files("#folder", folder)
    assert many_seen(browser, 3).endswith("2 other files left out.")
    assert [name for name, _ in rows(browser)] == ["2.jpg", "10.jpg", "sub/2.jpg"]
    assert sorted(find_photos(str(folder))) == sorted(name for name, _ in rows(browser))
    visit(browser, site[1])
    browser.drop_files(300, 150, folder, photos / "1.png")
    many_seen(browser, 4)
    assert [name for name, _ in rows(browser)] == ["1.png", "2.jpg", "10.jpg", "sub/2.jpg"]


@pytest.mark.thorough
def test_stop(browser, site, photos):
    """The page answers while it looks at photos; it stops after one, and goes on."""
    visit(browser, site[1])
    browser.choose_files("#file", *sorted(photos.iterdir()))
    browser.run("document.querySelector('#stop').click()")
    browser.wait_for("document.querySelector('#status').textContent.startsWith('Stopped. ')")
    waiting = [name for name, text in rows(browser) if text == "waiting …"]
    assert 0 < len(waiting) < 10 and "of 10 photos" in browser.run("document.body.innerText")
    assert browser.run("document.querySelector('#stop').textContent") == "Go on"
    browser.run("document.querySelector('#stop').click()")
    many_seen(browser, len(waiting))
    assert all(" · " in text.replace("\xa0", " ") for _, text in rows(browser))
    browser.run("document.querySelector('#clear').click()")
    assert rows(browser) == [] and browser.run("document.activeElement.id") == "file"


@pytest.mark.thorough
def test_dropped(browser):
    browser.run(
        "fetch('samples/3.jpg').then(answer => answer.blob()).then(blob => {"
        " const dataTransfer = new DataTransfer(); dataTransfer.items.add(new File([blob], 'mine.jpg'));"
        " dispatchEvent(new DragEvent('drop', { dataTransfer, cancelable: true })); })"
    )
    classified(browser, "mine.jpg")


@pytest.mark.thorough
def test_unreadable_file(browser, site, tmp_path):
    visit(browser, site[1])
    assert not browser.run("document.querySelectorAll('.photo, .track').length")  # no bars yet
    (tmp_path / "letter.jpg").write_text("not a picture")
    browser.choose_files("#file", tmp_path / "letter.jpg")
    browser.wait_for("document.querySelector('#status').classList.contains('bad')")
    said = browser.run("document.querySelector('#status').textContent")
    formats = "Please try a JPEG, PNG or WebP file, or a smaller one."
    assert said == f"letter.jpg could not be read as a photo. {formats}"
    assert rows(browser) == [["letter.jpg", f"It could not be read as a photo. {formats}"]]
    browser.run("document.querySelector('.samples button').click()")
    classified(browser, "Sample 1")
    assert not browser.run("document.querySelector('#status').classList.contains('bad')")


@pytest.mark.thorough
def test_without_the_network(browser, site):
    """What does not load is told, also where a browser runs no script of a file."""
    (site[0] / "student.onnx").rename(site[0] / "kept.onnx")
    browser.call("Page.navigate", url=f"{site[1]}?without")
    browser.wait_for("document.querySelector('#status')?.textContent.startsWith('The network cannot be')")
    browser.run("document.querySelector('.samples button').click()")
    browser.wait_for("document.querySelector('.answers')?.textContent === 'waiting …'")
    assert "cannot be loaded" in browser.run("document.querySelector('#status').textContent")
    (site[0] / "kept.onnx").rename(site[0] / "student.onnx")
    browser.call("Page.navigate", url=(site[0] / "index.html").as_uri())
    browser.wait_for("document.querySelector('#status')?.textContent.includes('python -m http.server')")


@pytest.mark.thorough
def test_phone(browser, site, photos):
    """Nothing is wider than a small phone's screen, and all class names are there, in both languages."""
    browser.resize(360, 740, mobile=True)
    visit(browser, site[1])
    browser.choose_files("#file", photos / "1.png")
    classified(browser, "1.png")
    browser.run("document.querySelectorAll('details').forEach(one => { one.open = true; })")
    text = browser.run("document.body.innerText")
    assert browser.run("document.documentElement.scrollWidth") <= 360
    browser.choose_files("#file", *sorted(photos.iterdir()))
    many_seen(browser, 10)
    assert browser.run("document.documentElement.scrollWidth") <= 360
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
    output = f"--output {tmp_path}/out.csv --probabilities --names numbers".split()
    predict.main([str(photo), "--checkpoint", student, *output])
    with open(tmp_path / "out.csv", newline="", encoding="utf-8") as file:
        row = next(csv.DictReader(file))
    with served(student, tmp_path / "page") as (_, address):
        visit(browser, address)
        browser.choose_files("#file", photo)
        shown = classified(browser, "2.jpg")
        names = browser.run("[...document.querySelectorAll('section')].map(x => [...x.querySelectorAll('h3,.class')]"
                            ".map(y => y.firstChild.firstChild ? y.firstChild.textContent : y.textContent))")  # fmt: skip
        others = browser.run("[...document.querySelectorAll('.other')].map(x => [x.lang, x.textContent])")
        browser.run("document.querySelectorAll('details').forEach(one => { one.open = true; })")
        browser.resize(360, 740, mobile=True)
        assert browser.run("document.documentElement.scrollWidth") <= 360
        browser.resize(1100, 900)
        pixels = seen(browser, attributes.layout.exif)
        table = downloaded(browser, tmp_path / "down")
    difference = np.abs(pixels - letterbox(read_rgb(photo, attributes.layout.exif)))
    assert difference.max() <= 2 and difference.mean() < 0.2
    assert len(shown) == len(attributes) == len(names)
    for (best, percents), (title, *classes), (key, attribute) in zip(shown, names, attributes.items()):
        expected = [float(row[f"{key}_{i}"]) for i in range(len(attribute.classes))]
        own = attributes.content["attributes"][key].get("names", {}).values()
        title_of = attribute.title
        assert best == int(row[key]) and title in (title_of, *(f"{title_of} {one}" for one in own))
        numbers, percents = zip(*percents)
        order = sorted(range(len(expected)), key=lambda one: -expected[one])
        if len(expected) > 12:  # the likeliest first
            assert numbers[0] == order[0] and list(percents) == sorted(percents)[::-1]
        else:  # those of 1 % and more first, both in the file's order
            folded = [expected[one] < 0.01 and one != best for one in numbers]
            assert numbers == tuple(sorted(numbers, key=lambda one: (folded[numbers.index(one)], one)))
        for number, percent, name in zip(numbers, percents, classes):
            assert name.startswith(attribute.classes[number])
            assert abs(percent / 100 - expected[number]) < CLOSE
    predict.main([str(photo), "--checkpoint", student, "--output", f"{tmp_path}/named.csv"])
    with open(tmp_path / "named.csv", newline="", encoding="utf-8") as file:
        header, expected = csv.reader(file)
    size = 1 + len(attributes)
    assert header == table[0] and expected[:size] == table[1][:size]
    assert np.allclose(*([float(cell) for cell in row[size:]] for row in (expected, table[1])), atol=CLOSE)
    # The second names are those of the first other language.
    languages, count = {"seven": ({"de"}, 1 + 50), "lists": ({"ko"}, 1 + 1)}.get(kind, (set(), 0))
    assert {language for language, _ in others} == languages and len(others) == count


@pytest.mark.thorough
def test_unsure_answers(browser, site, exported_tiny_vit, photos, tmp_path):
    """Grey, named and empty in the table, by the file's own thresholds, after its temperatures; without any all is as before."""
    assert browser.run("document.querySelectorAll('.unsure').length") == 0
    classifier = load_classifier(exported_tiny_vit["fp32"])
    said = classifier(np.stack([letterbox(read_rgb(path)) for path in sorted(photos.iterdir())]))
    last = np.sort(confidence.softened(said["embellishment"], 0.5).max(axis=1))
    least = float(
        last[1:][np.diff(last).argmax()] - np.diff(last).max() / 2
    )  # where a grey level does not matter
    steps = {"daily": [[0.9, 0.0]], "gender": [[0.96, 0.0]], "embellishment": [[0.9, 0.0], [0.95, least]]}
    temperatures = {"daily": 2.0, "gender": 1.0, "embellishment": 0.5}
    measured = {key: {"temperature": temperatures[key], "steps": steps[key]} for key in steps}
    write_with(measured, exported_tiny_vit["fp32"], tmp_path / "sure.onnx")
    sure = confidence.Sure(measured, demo.SHARE)
    soft = sure.softened(said)
    is_sure = {key: its.tolist() for key, its in sure(soft).items()}
    assert (
        not any(is_sure["daily"]) and all(is_sure["gender"]) and {*is_sure["embellishment"]} == {True, False}
    )
    with served(tmp_path / "sure.onnx", tmp_path / "page") as (_, address):
        visit(browser, address)
        assert "at least 95 % of such were right" in browser.run(
            "document.querySelector('#legend').innerText"
        )
        browser.choose_files("#file", *sorted(photos.iterdir()))
        many_seen(browser, 10)
        shown = browser.run(
            "[...document.querySelectorAll('.photo')].map(row => [row.querySelector('h2').textContent,"
            "[...row.querySelectorAll('.answers span')].map(one => [one.className, one.textContent])])"
        )
        table = {row[0]: row[1:] for row in downloaded(browser, tmp_path / "down")[1:]}
        browser.run("document.querySelector('.samples button').click()")
        classified(browser, "Sample 1")
        assert (
            browser.run("document.querySelector('section.unsure h3').textContent") == "Daily 일상성 – unsure"
        )
    for name, answers in shown:
        row = sorted(path.name for path in photos.iterdir()).index(name)
        for number, ((kind, text), (key, attribute)) in enumerate(zip(answers, ATTRIBUTES.items())):
            best = attribute.classes[int(soft[key][row].argmax())]
            assert (kind == "unsure") == (not is_sure[key][row]) == text.startswith("unsure: "), (name, key)
            assert best in text and text.endswith("?" if kind else best)
            assert table[name][number] == (best if is_sure[key][row] else "")
        confidences = [float(cell) for cell in table[name][len(ATTRIBUTES) :]]
        assert not confidences or np.allclose(confidences, [soft[key][row].max() for key in soft], atol=CLOSE)
    unsure = {key: {**its, "steps": []} for key, its in measured.items()}
    write_with(unsure, exported_tiny_vit["fp32"], tmp_path / "unsure.onnx")
    with served(tmp_path / "unsure.onnx", tmp_path / "none") as (_, address):
        visit(browser, address)
        assert "No answer is sure" in browser.run("document.querySelector('#legend').innerText")
    visit(browser, site[1])
    assert browser.run("document.querySelector('#legend').hidden")


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


def test_title():
    content = {"name": "Shoes & <hats>", "attributes": {"a": {"classes": {"b": {}, "c": {}}}}}
    text = demo.page(Attributes(content, "test"), [])
    assert text.count("Shoes &amp; &lt;hats&gt;") == 2 and demo.TITLE not in text.split("<title>")[1]
    del content["name"]
    assert f"<h1>{demo.TITLE}</h1>" in demo.page(Attributes(content, "test"), [])
    assert not re.search(r"/\*[A-Z]+\*/", text)


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
