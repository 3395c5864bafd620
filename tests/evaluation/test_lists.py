"""Lists of any length in predict.py: read, classified and written row by row, also after an interruption."""

import csv
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import predict
from utils.base.cli import exit_code
from utils.base.errors import DiskFull, UserError
from utils.base.files import continued
from utils.data.attributes import Attributes
from utils.evaluation import model

OWN = Attributes(
    {
        "image": "file",
        "group": "product",
        "attributes": {
            "kind": {"classes": {"dress": {}, "coat": {}}},
            "fit": {"classes": {"slim": {}, "wide": {}}},
        },
    },
    "test",
)
ROOT = Path(__file__).parents[2]
# As `Stub`, in a process of its own, that is killed or measured. The size of what is classed does not matter here.
PROCESS = """
import os, resource, signal, sys
import numpy as np
import predict
from test_lists import Stub
from utils.data import photos
from utils.evaluation import model

batches, *arguments = sys.argv[1:]
photos.letterbox = lambda image: np.full((8, 8, 3), image.mean(), np.uint8)
stub = Stub(int(batches), lambda: os.kill(os.getpid(), signal.SIGKILL))
model.load_classifier = lambda path, **_: stub
predict.main(arguments)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


class Stub:
    """A classifier whose probabilities follow from a photo's mean colour; after some batches something happens."""

    def __init__(self, batches=-1, event=None):
        self.attributes, self.left, self.event, self.seen = OWN, batches, event, []

    def __call__(self, pixels):
        if self.left == 0:
            self.event()
        self.left -= 1
        level = pixels.reshape(len(pixels), -1).mean(axis=1) / 256
        self.seen.append(len(pixels))
        both = np.stack([level, 1 - level], axis=1).astype(np.float32)
        return {"kind": both, "fit": both[:, ::-1]}


def stopped():
    raise KeyboardInterrupt


@pytest.fixture
def shop(place, monkeypatch):
    """30 photos, of which 3 cannot be read, in a folder and in a list; predict.py with a `Stub`."""
    (place / "photos").mkdir()
    names = [f"{number:02}, a.png" for number in range(30)]
    for number, name in enumerate(names):
        Image.new("RGB", (9, 9), (number * 8, 99, 0)).save(place / "photos" / name)
    for broken in (0, 13, 20):
        (place / "photos" / names[broken]).write_bytes(b"no photo")
    with open("list.csv", "w", newline="") as file:
        rows = ([name, "" if number % 7 == 0 else f" P{number % 4}"] for number, name in enumerate(names))
        csv.writer(file).writerows([["file", "product"], *rows])
    Path("any.pt").touch()

    def run(*more, stub=None, paths=("list.csv", "--images", "photos"), code=6):
        stub = stub or Stub()
        monkeypatch.setattr(model, "load_classifier", lambda path, **_: stub)
        arguments = [*paths, "--checkpoint", "any.pt", "--output", "out.csv", "--batch-size", "4", *more]
        assert exit_code(lambda: predict.main(arguments)) == code
        return stub

    return run


def parts():
    return list(Path().glob("out.csv.*"))


@pytest.mark.parametrize("paths", [("list.csv", "--images", "photos"), ("photos",)])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
def test_an_interrupted_run_goes_on(shop, capsys, paths, encoding):
    """To the bytes of one that was not, in the same batches; the photos that it skipped are counted."""
    how = {"paths": (*paths, "--encoding", encoding)}
    whole = shop(**how).seen
    expected = Path("out.csv").read_bytes()
    said = capsys.readouterr()
    os.remove("out.csv")
    shop(stub=Stub(3, stopped), code=130, **how)
    assert not Path("out.csv").exists() and len(parts()) == 1
    with open(parts()[0], "ab") as file:  # as a power cut leaves it
        file.write("27, 소".encode()[:-1])
    capsys.readouterr()
    stub = shop(**how)
    assert Path("out.csv").read_bytes() == expected and parts() == []
    assert stub.seen == whole[3:]
    again = capsys.readouterr()
    assert again.out.splitlines() == ["out.csv: goes on, 13 of 30 photos are done", *said.out.splitlines()]
    assert again.err.splitlines()[-1] == said.err.splitlines()[-1]
    assert "3 of 30 photos cannot be read and were skipped" in again.err


def test_a_name_of_several_lines(shop):
    for number, name in enumerate(('a\n"b\r\n.png', "c\r.png", "d.png")):
        Image.new("RGB", (9, 9), (number, 0, 0)).save(Path("photos", name))
    shop("--batch-size", "1", paths=("photos",))
    expected = Path("out.csv").read_bytes()
    os.remove("out.csv")
    shop("--batch-size", "1", stub=Stub(28, stopped), paths=("photos",), code=130)
    content = parts()[0].read_bytes()
    parts()[0].write_bytes(content[: content.index(b'""b\r\n') + 5])
    shop("--batch-size", "1", paths=("photos",))
    assert Path("out.csv").read_bytes() == expected


@pytest.mark.parametrize("change", ["options", "list", "photo", "weights"])
def test_another_run_begins_anew(shop, change):
    """And leaves what the first has done: it may still be at work."""
    shop(stub=Stub(3, stopped), code=130)
    more = []
    if change == "options":
        more = ["--probabilities"]
    elif change == "photo":  # one that was not there may be there by now
        Image.new("RGB", (9, 9)).save(Path("photos", "00, a.png"))
    else:
        with open("any.pt" if change == "weights" else "list.csv", "a") as file:
            file.write('"01, a.png",\r\n')
    assert sum(shop(*more).seen) == 27 + (change in ("photo", "list")) and len(parts()) == 1


def test_nothing_is_left_of_a_run_that_did_nothing(shop):
    for stub in (Stub(0, stopped),):
        shop(stub=stub, code=130)
        assert parts() == []
    for path in Path("photos").iterdir():
        path.write_bytes(b"no photo")
    shop()
    assert parts() == [] and not Path("out.csv").exists()


def test_a_full_disk(place):
    """What was flushed is kept."""

    def full():
        with continued("out.csv", "0123456789abcdef") as file:
            file.write(b"abc")
            file.flush()
            raise OSError(28, "No space left on device")

    with pytest.raises(DiskFull, match="No space left on device"):
        full()
    assert parts()[0].read_bytes() == b"abc"
    with continued("out.csv", "0123456789abcdef") as file:
        file.seek(0)
        assert file.read() == b"abc"
        with continued("out.csv", "f" * 16) as other:  # a run with other options
            other.write(b"others")
        assert Path("out.csv").read_bytes() == b"others"
        with pytest.raises(UserError, match=r"part: another process is writing it; wait for its end"):
            with continued("out.csv", "0123456789abcdef"):
                pass
    assert Path("out.csv").read_bytes() == b"abc" and parts() == []


def process(*arguments, batches=-1):
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, (ROOT, Path(__file__).parent)))}
    command = [sys.executable, "-c", PROCESS, str(batches), *arguments]
    command += "--checkpoint any.pt --output out.csv --images photos".split()
    return subprocess.run(command, env=env, capture_output=True, text=True)


def test_killed(shop):
    def whole(batches=-1):
        return process("list.csv", "--batch-size", "4", batches=batches)

    assert whole().returncode == 1  # of the exception
    expected = Path("out.csv").read_bytes()
    os.remove("out.csv")
    for batches in (3, 2):
        assert whole(batches).returncode == -signal.SIGKILL
        assert not Path("out.csv").exists()
    done = whole()
    assert "goes on, 23 of 30 photos are done" in done.stdout
    assert Path("out.csv").read_bytes() == expected and parts() == []


@pytest.mark.thorough
def test_a_long_list_takes_no_more_memory(shop):
    """Of absolute names, which are not those of the folder."""
    names, peaks = [f"{number:02}, a.png" for number in range(1, 13)], {}
    for rows in (2_000, 20_000):
        with open("list.csv", "w", newline="") as file:
            csv.writer(file).writerows(
                [["file"], *([os.path.abspath(f"photos/{names[n % 12]}")] for n in range(rows))]
            )
        done = process("list.csv")
        assert done.returncode == 0 and len(Path("out.csv").read_text().splitlines()) == rows + 1, done.stderr
        peaks[rows] = int(done.stdout.split()[-1]) / 1000
    assert abs(peaks[20_000] - peaks[2_000]) < 8, peaks


# --- by product --------------------------------------------------------------------------------------


def test_by_group(shop):
    shop("--by", "group", "--probabilities")
    with open("out.csv", newline="") as file:
        header, *rows = csv.reader(file)
    columns = ["product", "kind", "fit", "kind_confidence", "fit_confidence"]
    assert header == [*columns, "kind_dress", "kind_coat", "fit_slim", "fit_wide", "photos"]
    # Photos without a product stand for themselves; that of number 0 cannot be read.
    assert [row[0] for row in rows] == [
        " P1",
        " P2",
        " P3",
        " P0",
        "07, a.png",
        "14, a.png",
        "21, a.png",
        "28, a.png",
    ]
    assert sum(int(row[-1]) for row in rows) == 27 and rows[4][-1] == "1"
    os.remove("out.csv")
    shop("--probabilities")
    with open("out.csv", newline="") as file:
        photos = {row[0]: row[5:7] for row in csv.reader(file)}
    names = [f"{n:02}, a.png" for n in range(30) if n % 4 == 1 and n % 7 and n != 13]
    odds = np.exp(np.log([list(map(float, photos[name])) for name in names]).mean(axis=0))
    assert [float(cell) for cell in rows[0][5:7]] == pytest.approx(list(odds / odds.sum()), abs=2e-6)


def test_by_group_begins_anew(shop, monkeypatch):
    """Half of a product's rows would say another class: what was torn while it was written plays no part."""
    options = "--by", "group", "--encoding", "utf-8-sig"
    shop(*options)
    expected = Path("out.csv").read_bytes()
    os.remove("out.csv")
    with monkeypatch.context() as patch:
        patch.setattr(predict, "count", lambda *_: stopped())
        shop(*options, code=130)
    assert len(parts()) == 1 and parts()[0].read_bytes()
    shop(*options)
    assert Path("out.csv").read_bytes() == expected


def test_two_lists_by_group(shop):
    """Photos without a product are themselves, though two have one name; a product is one in both lists."""
    for folder, number in (("a", 3), ("b", 9)):
        os.mkdir(folder)
        for name in ("1.png", "2.png"):
            shutil.copy(f"photos/{number:02}, a.png", f"{folder}/{name}")
        Path(folder, "list.csv").write_text("file,product\n1.png,\n2.png,P1\n")
    shop("--by", "group", paths=("a/list.csv", "b/list.csv"), code=0)
    with open("out.csv", newline="") as file:
        rows = {row[0]: row[-1] for row in csv.reader(file)}
    assert rows == {"product": "photos", "a/1.png": "1", "b/1.png": "1", "P1": "2"}


def test_bad_input_by_group(shop, capsys):
    bare = Stub()
    bare.attributes = Attributes({k: v for k, v in OWN.content.items() if k != "group"}, "test")
    Path("bare.csv").write_text('file\n"01, a.png"\n')
    for stub, paths, said in (
        (bare, ("list.csv",), 'the attributes have no "group"'),
        (None, ("photos",), "--by group: photos is no CSV file"),
        (None, ("bare.csv",), "bare.csv: no column product; there are file"),
    ):
        shop("--by", "group", "--images", "photos", stub=stub, paths=paths, code=2)
        error = capsys.readouterr().err
        assert said in error and error.count("\n") == 1
    assert not Path("out.csv").exists()


# --- only what is sure -------------------------------------------------------------------------------


def measured(**steps):
    return {key: {"temperature": 0.5, "steps": its} for key, its in steps.items()}


def test_sure(shop, monkeypatch, capsys):
    """Unsure classes are empty cells, also of a run that goes on; the last line counts the others by attribute."""
    steps = measured(kind=[[0.9, 0.8], [0.97, 0.85]], fit=[[0.9, 0.7]])
    steps["kind"]["products"] = {"temperature": 1, "steps": [[0.96, 0.7]]}
    monkeypatch.setattr(model, "find_measured", lambda *_: steps)
    shop("--sure", "0.95")
    expected = Path("out.csv").read_bytes()
    with open("out.csv", newline="") as file:
        _, *rows = csv.reader(file)
    for _, kind, fit, confidence, _ in rows:
        assert fit == "" and bool(kind) == (float(confidence) >= 0.85)
    sure = sum(bool(row[1]) for row in rows)
    assert 0 < sure < 27
    said = capsys.readouterr().out.splitlines()
    assert said == [
        "27 photos: out.csv",
        f"sure enough: kind {sure}, fit 0 of 27 photos; other cells are empty",
    ]
    os.remove("out.csv")
    shop("--sure", "0.95", stub=Stub(4, stopped), code=130)
    shop("--sure", "0.95")
    assert Path("out.csv").read_bytes() == expected and capsys.readouterr().out.splitlines()[1:] == said
    shop("--sure", "0.95", "--by", "group")
    with open("out.csv", newline="") as file:
        _, *rows = csv.reader(file)
    assert {bool(kind) == (float(sure) >= 0.7) for _, kind, _, sure, *_ in rows} == {True}
    assert {bool(row[1]) for row in rows} == {True, False}


def test_bad_sure(shop, capsys):
    for share in ("1", "0.4", "1.5", "x"):
        shop("--sure", share, code=2)
        error = capsys.readouterr().err
        assert f"argument --sure: '{share}' is not a number of at least 0.5 and below 1" in error
