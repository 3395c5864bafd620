"""predict.py --fill: a table comes back as it was, with the missing cells filled where an answer is sure."""

import csv
import io
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

import export
import predict
from utils.base.errors import SkippedPhotos, UserError
from utils.data.attributes import UNKNOWN, Attributes, read_attributes
from utils.data.folders import PhotoFolder
from utils.data.tables import read_table
from utils.evaluation import fill, model
from utils.evaluation.confidence import Sure, measure
from utils.evaluation.fill import Sheet, ask, doubted, fold_networks
from utils.evaluation.metrics import are_alike

SHOP = {
    "image": "file",
    "group": "product",
    "unknown": ["", "?"],
    "attributes": {
        "kind": {"classes": {"dress": {}, "skirt": {}, "hat": {}}, "ignore": ["mixed"]},
        "zip": {"column": "tags", "contains": "zip", "separator": "|"},
        "hood": {"column": "tags", "contains": "hood", "separator": "|"},
    },
}
TABLE = """file,product,kind,tags,price
a.png,1,dress,zip,5
b.png,2,,,"1,5"
,,,,
c.png,3,?,zip|hood,

a.png,1,mixed,?,7
"""
NEW = "filled,kind_confidence,zip_confidence,hood_confidence"


def shop(**changes):
    return Attributes({**SHOP, **changes}, "test")


@pytest.fixture
def sheet(place):
    """A function that writes a table, as text or bytes, and opens it."""
    for name, level in (("a", 40), ("b", 120), ("c", 200)):
        Image.fromarray(np.full((9, 6, 3), level, np.uint8)).save(f"{name}.png")

    def opened(table=TABLE, attributes=None):
        (place / "shop.csv").write_bytes(table if isinstance(table, bytes) else table.encode())
        return Sheet("shop.csv", PhotoFolder(""), attributes or shop())

    return opened


def answers(sheet, **said):
    """Probabilities: of each attribute the class of each row; None for a photo that cannot be read. They are 0.9."""
    found = {key: np.full((len(sheet.rows), size), np.nan) for key, size in sheet.attributes.sizes.items()}
    for key, classes in said.items():
        for row, number in enumerate(classes):
            if number is not None:
                rest = 0.1 / (found[key].shape[1] - 1)
                found[key][row] = np.where(np.arange(found[key].shape[1]) == number, 0.9, rest)
    return found


def sure_of(found, least=0.5):
    return {key: values.max(axis=1) >= least for key, values in found.items()}


def written(sheet):
    sheet.write("out.csv")
    with open("out.csv", "rb") as file:
        return file.read()


def test_missing_cells_are_filled_and_nothing_else(sheet):
    table = sheet()
    found = answers(table, kind=[1, 1, 2, 1], zip=[0, 1, 0, 1], hood=[0, 1, 0, 0])
    done = table.fill(found, sure_of(found))
    assert {key: its.tolist() for key, its in done.items()} == {
        "kind": [False, True, True, False],
        "zip": [False, True, False, True],
        "hood": [False, True, False, True],
    }
    assert written(table).decode() == (
        f"file,product,kind,tags,price,{NEW}\n"
        "a.png,1,dress,zip,5,,,,\n"
        'b.png,2,skirt,zip|hood,"1,5","kind, zip, hood",0.9000,0.9000,0.9000\n'
        ",,,,\n"
        "c.png,3,hat,zip|hood,,kind,0.9000,,\n"
        "\n"
        'a.png,1,mixed,zip,7,"zip, hood",,0.9000,0.9000\n'
    )
    assert list(table.counts(done, [(0, "kind")])) == [
        ("kind", 2, 2, 0, 1, 1),
        ("zip", 2, 2, 0, 0, 0),
        ("hood", 2, 2, 0, 0, 0),
    ]


def test_what_is_not_sure_is_left_and_listed(sheet):
    """A list of tags takes all of them; where none is there, nothing can be written. The least sure come first."""
    table = sheet()
    found = answers(table, kind=[0, 1, None, 0], zip=[0, 1, 0, 0], hood=[0, 1, 0, 0])
    found["hood"][1] = [0.4, 0.6]
    done = table.fill(found, sure_of(found, 0.7))
    assert {key for key, its in done.items() if its.any()} == {"kind"}
    lines = written(table).decode().splitlines()
    assert lines[2] == 'b.png,2,skirt,,"1,5",kind,0.9000,0.9000,0.6000'
    assert lines[4] == "c.png,3,?,zip|hood,,,,,"
    assert lines[6] == "a.png,1,mixed,?,7,,,0.9000,0.9000"
    left = table.left(found, done)
    assert left == [(1, "hood"), (1, "zip"), (3, "zip"), (3, "hood"), (2, "kind")]
    assert list(table.listed(left, found)) == [
        (3, "b.png", "hood", "", "yes", "0.6000", ""),
        (3, "b.png", "zip", "", "yes", "0.9000", ""),
        (7, "a.png", "zip", "?", "no", "0.9000", ""),
        (7, "a.png", "hood", "?", "no", "0.9000", ""),
        (5, "c.png", "kind", "?", "", "", ""),
    ]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "cp949", "utf-16"])
@pytest.mark.parametrize("before", ["", "sep={}", "\n"])
@pytest.mark.parametrize("separator, end", [(",", "\r\n"), (";", "\n"), ("\t", "\r\n")])
def test_the_form_stays(sheet, encoding, before, separator, end):
    rows = [
        ["file", "product", "kind", "tags", "말"],
        ["a.png", "1", "dress", "", f'two\nlines{separator} "x"'],
    ]
    rows += [[], ["b.png", "2", "", "", "가"], ["b.png", "2", "", "", "가"]]
    file = io.StringIO(newline="")
    csv.writer(file, delimiter=separator, lineterminator=end).writerows(rows)
    start = before.format(separator) + end * bool(before)
    source = start + file.getvalue()
    table = sheet(
        source.encode(encoding),
        shop(encoding="utf-8" if encoding == "utf-8-sig" else encoding),
    )
    found = answers(table, kind=[0, 2, None])
    table.fill(found, sure_of(found))
    content = written(table)
    assert content.startswith("\ufeff".encode("utf-8")) == (encoding == "utf-8-sig")
    text = content.decode(encoding)
    assert text.startswith(f"{start}file{separator}product") and text.count(end) == source.count(end)
    new = list(csv.reader(io.StringIO(text[len(start) :], newline=""), delimiter=separator))
    rows[3][2] = "hat"
    assert [row[:5] for row in new] == rows and new[3][5:] == ["kind", "0.9000", "", ""]


@pytest.mark.parametrize(
    "cells, wanted",
    [
        (["Dress", "DRESS", " Dress", ""], "Dress"),  # as most often
        (["1", "2", "1", ""], "0"),  # numbers of classes
        (["1.0", "0.0", "2.0", ""], "0.0"),
        (["hat", "hat", "2", ""], "dress"),  # by name, and the class is nowhere
        (["", "", "", ""], "dress"),
    ],
)
def test_classes_are_written_as_the_table_writes_them(sheet, cells, wanted):
    table = sheet("file,product,kind,tags\n" + "".join(f"a.png,1,{cell},\n" for cell in cells))
    found = answers(table, kind=[0] * 4)
    table.fill(found, sure_of(found))
    assert table.cells("kind")[-1] == wanted


def test_a_class_is_written_by_its_own_name(sheet, place):
    """Without the apostrophe of a formula, so that the filled table can be read again; the list has it."""
    attributes = shop(attributes={"kind": {"classes": {"+size": {}, "-x": {}}}})
    table = sheet("file,product,kind\na.png,1,-x\nb.png,2,\nc.png,3,\n", attributes)
    found = answers(table, kind=[0, 0, 1])
    assert [row[4] for row in table.listed([(1, "kind")], found)] == ["'+size"]
    table.fill(found, sure_of(found))
    assert table.cells("kind") == ["-x", "+size", "-x"]
    table.write("out.csv")
    text = (place / "out.csv").read_text().replace("filled", "mended")  # else no cell of it is a label
    (place / "out.csv").write_text(text)
    assert read_table("out.csv", PhotoFolder(""), attributes)[1]["kind"].tolist() == [1, 0, 1]


def test_a_filled_table_is_filled_again(sheet):
    """What an earlier run has filled stays as it is, is told, and is no label; what a person has filled since is one."""
    table = sheet()
    found = answers(table, kind=[1, 1, 2, 1], zip=[0, 1, 0, 1], hood=[0, 1, 0, 0])
    table.fill(found, {**sure_of(found), "kind": np.array([False, True, False, False])})
    text = written(table).decode().replace("c.png,3,?", "c.png,3,dress")
    again = sheet(text)
    assert again.labels["kind"].tolist() == [0, UNKNOWN, 0, UNKNOWN] and not again.missing["kind"].any()
    found = answers(again, kind=[2] * 4, zip=[0] * 4, hood=[0] * 4)
    again.fill(found, sure_of(found))
    assert written(again).decode() == text.replace("dress,zip|hood,,,0.9000,,", "dress,zip|hood,,,,,")


def test_what_was_filled_is_no_label(place):
    """Neither to learn nor to be measured by, also where it is no class of these attributes; a name that is no attribute is nothing."""
    (place / "shop.csv").write_text(
        'file,product,kind,tags,filled\na.png,1,hat,zip,\nb.png,2,tent,zip,kind\nc.png,3,hat,zip,"zip, hood"\na.png,4,hat,,down\n'
    )
    _, labels, *_ = read_table("shop.csv", PhotoFolder(""), shop())
    assert labels["kind"].tolist() == [2, UNKNOWN, 2, 2]
    assert labels["zip"].tolist() == [1, 1, UNKNOWN, UNKNOWN]


@pytest.mark.parametrize("header", ["kind_confidence", "filled"])
def test_a_column_of_the_users_stays_theirs(sheet, header):
    with pytest.raises(
        UserError, match=rf"shop\.csv: {header}: a column of this name is to be written; rename it"
    ):
        sheet(f"file,product,kind,tags,{header}\na.png,1,,,9\n")


def test_a_filled_cell_that_somebody_empties_is_empty(sheet):
    """Nothing says any more that it was filled."""
    first = sheet()
    found = answers(first, kind=[0, 0, 0, 0], zip=[0, 0, 0, 0], hood=[0, 0, 0, 0])
    first.fill(found, sure_of(found))
    table = sheet(written(first).decode().replace("b.png,2,dress", "b.png,2,"))
    assert table.rows[1][2] == "" and table.filled[1] == set()
    table.fill(found, sure_of(found, 0.95))
    assert table.rows[1][5:7] == ["", "0.9000"]


def test_a_column_of_texts_is_not_ours(sheet):
    own = "file,product,kind,tags,filled,kind_confidence\na.png,1,,,,as I believe\n"
    with pytest.raises(
        UserError, match="filled, kind_confidence: a column of this name is to be written; rename"
    ):
        sheet(own)


def test_letters_that_the_encoding_has_not(sheet):
    kinds = {"column": "kind", "classes": {"옷": {}, "crème": {}}}
    attributes = shop(encoding="cp949", attributes={"kind": kinds})
    table = sheet("file,product,kind\na.png,1,옷\nb.png,2,\n".encode("cp949"), attributes)
    found = answers(table, kind=[0, 1])
    table.fill(found, sure_of(found))
    with pytest.raises(UserError, match="'è' of a class is not in cp949; save the table in UTF-8"):
        table.write("out.csv")


def test_cells_that_are_no_class_stay(sheet):
    table = sheet("file,product,kind,tags\na.png,1,cape,\nb.png,2,,\n")
    found = answers(table, kind=[0, 0])
    done = table.fill(found, sure_of(found))
    assert table.cells("kind") == ["cape", "dress"] and next(table.counts(done, [])) == (
        "kind",
        1,
        1,
        0,
        1,
        0,
    )


# --- products ----------------------------------------------------------------------------------------


def test_which_labels_are_those_of_products():
    groups = ["a", "a", "b", "b", "c", "c", "d"]
    assert are_alike(np.array([0, 0, 1, 1, 0, UNKNOWN, 2]), groups)
    assert not are_alike(np.array([0, 1, 1, 0, 0, 1, 2]), groups)
    assert not are_alike(np.array([0, 0, 0, 0, 0, 1, 0]), groups), "rare classes are alike by chance"
    labels, pairs = np.tile([0, 1], 200), np.repeat(np.arange(200), 2)
    assert not are_alike(np.append(labels, np.zeros(40, int)), [*pairs, *[999] * 40]), "one large product"
    assert are_alike(np.array([0, 1, 2]), ["a", "b", "c"]) and are_alike(np.full(7, UNKNOWN), groups)


def test_answers_of_products_have_thresholds_of_their_own():
    """Where its photos are alike, a product's answer is right more often than a photo's."""
    rng = np.random.default_rng(0)
    groups = np.repeat(np.arange(200), 3)
    truth = rng.integers(0, 3, 200)[groups]
    logits = rng.normal(0, 1, (600, 3))
    logits[np.arange(600), truth] += 1.5
    values = {"kind": np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)}
    values["colour"] = values["kind"]
    measured = measure(values, {"kind": truth, "colour": rng.integers(0, 3, 600)}, groups)
    assert "products" in measured["kind"] and "products" not in measured["colour"]
    assert "products" not in measure(values, {"kind": truth, "colour": truth}, range(600))["kind"]
    shares = [one["answered"]["0.90"] for one in (measured["kind"], measured["kind"]["products"])]
    assert shares[0] < 0.5 < shares[1]
    both = [Sure(measured, 0.9, products).thresholds["kind"] for products in (False, True)]
    assert both[0] != both[1]


def test_a_product_has_one_answer(sheet):
    """In attributes in which its photos are alike; each network answers for its own rows."""
    classes = {"classes": {"light": {}, "dark": {}}}
    attributes = shop(attributes={"kind": classes, "colour": classes})
    rows = [
        "a.png,x,light,light",
        "b.png,x,light,dark",
        "c.png,y,dark,dark",
        "b.png,y,dark,light",
        "c.png,z,,",
    ]
    table = sheet("\n".join(["file,product,kind,colour", *rows]), attributes)
    found = ask([Stub(attributes)] * 2, np.array([1, 0, 0, -1, -1]), table, 2, ["kind"])
    level = np.array([40, 120, 200]) / 255
    assert np.allclose(found["colour"][:3, 0], level, atol=1e-3) and np.isnan(found["colour"][3:]).all()
    odds = np.sqrt([level[0] * level[1], (1 - level[0]) * (1 - level[1])])
    assert np.allclose(found["kind"][:2], odds / odds.sum(), atol=1e-3)
    assert np.allclose(found["kind"][2, 0], level[2], atol=1e-3) and np.isnan(found["kind"][3:]).all()


def test_no_product_gets_a_second_class(sheet):
    """Where its photos are alike, and a person has said another of one."""
    rows = "a.png,x,dress,\nb.png,x,,\nc.png,y,skirt,\na.png,y,,\nb.png,,,\n"
    for alike, filled in (
        (["kind"], [False, False, False, True, True]),
        ([], [False, True, False, True, True]),
    ):
        table = sheet("file,product,kind,tags\n" + rows)
        found = answers(table, kind=[1] * 5)
        assert table.fill(found, sure_of(found), alike)["kind"].tolist() == filled


# --- doubts ------------------------------------------------------------------------------------------


def test_changed_labels_are_doubted_first():
    rng = np.random.default_rng(0)
    truth = rng.integers(0, 4, 1000)
    logits = rng.normal(0, 1, (1000, 4))
    logits[np.arange(1000), truth] += 3.5
    values = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    labels, changed = truth.copy(), rng.random(1000) < 0.05
    labels[changed] = (labels[changed] + rng.integers(1, 4, changed.sum())) % 4
    labels[:20], values[20:40] = UNKNOWN, np.nan
    rows = doubted(values, labels)
    assert rows.min() >= 40 and (values[rows].argmax(axis=1) != labels[rows]).all()
    own = values[rows, labels[rows]]
    assert (np.diff(own) >= 0).all()
    wrong = changed[40:].sum()
    assert changed[rows[:wrong]].mean() > 0.8 and len(rows) < 2.5 * wrong
    assert len(doubted(values, np.full(1000, UNKNOWN))) == 0


# --- the command -------------------------------------------------------------------------------------


class Stub:
    """A network that says hat of dark photos, dress of light ones, and is the surer the darker or lighter they are."""

    path, meta, net = "shop.pt", {}, None

    def __init__(self, attributes):
        self.attributes = attributes

    def __call__(self, pixels):
        level = pixels.max(axis=(1, 2, 3)) / 255
        return {
            key: np.stack([level, *[(1 - level) / (size - 1)] * (size - 1)], axis=1).astype(np.float32)
            for key, size in self.attributes.sizes.items()
        }


def test_folds_that_may_know_the_labels(monkeypatch):
    """All the same attributes, each of the folds once, and nothing that has learned the labels which they hold out."""
    metas = [{}, {}]

    def load(path):
        number = int(path[-1])
        attributes = shop(val=0.5, fold=number + 1, unknown=metas[number].get("unknown", ["", "?"]))
        return SimpleNamespace(path=path, attributes=attributes, meta=metas[number])

    monkeypatch.setattr(fill, "load_classifier", load)
    main = SimpleNamespace(path="shop.pt", attributes=shop(val=0.2))
    assert [one.path for one in fold_networks(main, ["f1", "f0"])] == ["f0", "f1"]
    for paths in ([], ["f0"], ["f0", "f0"]):
        with pytest.raises(UserError, match="--doubts needs all networks of a --folds"):
            fold_networks(main, paths)
    for changes, said in (
        ({"unknown": ["n/a"]}, "of the same attributes"),
        ({"options": {"teacher": "best.pt"}}, "f1 has learned from best.pt, which may know the labels"),
        ({"options": {"student_weights": "last.pt"}}, "f1 has learned from last.pt"),
        ({"options": {"student_weights": "shop"}}, "f1 has learned from shop"),  # a folder
        ({"options": {"student_weights": 7}}, "f1 has learned from 7"),
        ({"options": {"teacher_logits": "t.npz"}}, "f1 has learned from t.npz"),
    ):
        metas[1] = changes
        with pytest.raises(UserError, match=said):
            fold_networks(main, ["f0", "f1"])
    for weights in ("lite0.pth", "timm/lite0", "none", None):
        metas[1] = {"options": {"teacher": None, "student_weights": weights}}
        assert fold_networks(main, ["f0", "f1"])


@pytest.fixture
def command(sheet, monkeypatch):
    """A function that runs predict.py --fill shop.csv with further options; it returns the rows of a file."""
    kinds = {"kind": {"classes": {"dress": {}, "hat": {}}}}
    attributes = shop(attributes=kinds)
    sheet("file,product,kind\na.png,1,\nb.png,2,\nc.png,3,\nc.png,3,hat\nc.png,4,dress\n", attributes)
    measured = {"kind": {"temperature": 1.0, "steps": [[0.8, 0.6], [0.96, 0.75]]}}

    def load(path, sure, *_, **__):
        return SimpleNamespace(classify=Stub(attributes), attributes=attributes, measured=measured)

    monkeypatch.setattr(predict, "load", load)
    monkeypatch.setattr(predict, "fold_networks", lambda *_, **__: [Stub(attributes)] * 2)

    def run(*options, read="filled.csv"):
        predict.main(["--checkpoint", "shop.pt", "--fill", "shop.csv", "--output", "filled.csv", *options])
        with open(read, newline="") as file:
            return list(csv.reader(file))

    return run


def test_fill(command, capsys):
    assert command() == [
        ["file", "product", "kind", "filled", "kind_confidence"],
        ["a.png", "1", "hat", "kind", "0.8431"],
        ["b.png", "2", "", "", "0.5294"],
        ["c.png", "3", "dress", "kind", "0.7843"],
        ["c.png", "3", "hat", "", ""],
        ["c.png", "4", "dress", "", ""],
    ]
    out = capsys.readouterr().out
    assert out.splitlines()[:2] == [
        "      empty  filled  left  no class  doubted",
        "kind      3       2     1         0        0",
    ]
    assert "filled.csv: 5 rows" in out and "filled_left.csv: what is left" in out
    assert command(read="filled_left.csv")[1:] == [["3", "b.png", "kind", "", "hat", "0.5294", ""]]
    assert "nothing is sure" not in out
    command("--sure", "0.97")
    assert (
        "kind: nothing is sure at 0.97; --sure 0.96 is the most that the validation photos show"
        in capsys.readouterr().out
    )
    assert [row[3] for row in command("--sure", "0.8")] == ["filled", "kind", "", "kind", "", ""]


def test_doubts(command, place, without_matplotlib, capsys):
    """Without matplotlib there is all but the picture; what was skipped is told."""
    (place / "b.png").write_bytes(b"no photo")
    with pytest.raises(SkippedPhotos, match="1 of 5 photos"):
        command("--doubts", "doubts.csv")
    out, error = capsys.readouterr()
    assert "warning: doubts.png is not drawn: matplotlib is needed" in error
    assert "0        1" in out and "the folds agree" in out and "doubts.png" not in out
    with open("doubts.csv", newline="") as file:
        assert list(csv.reader(file))[1:] == [["5", "c.png", "kind", "hat", "dress", "0.7843", "0.2157"]]
    assert (place / "filled_left.csv").exists() and not (place / "doubts.png").exists()


def test_the_picture_of_doubts(command, place):
    (place / "doubts.png").write_bytes(b"a picture of mine")
    with pytest.raises(UserError, match=r"doubts\.png: is there, and not from"):
        command("--doubts", "doubts.csv")
    (place / "doubts.png").unlink()
    command("--doubts", "doubts.csv")
    assert Image.open(place / "doubts.png").size[0] > 1000
    command("--doubts", "doubts.csv")


def test_photos_that_cannot_be_read(command, place, capsys):
    (place / "b.png").write_bytes(b"no photo")
    with pytest.raises(SkippedPhotos, match="1 of 5 photos cannot be read and was skipped"):
        command()
    assert "skipped b.png" in capsys.readouterr().err
    lines = (place / "filled.csv").read_text().splitlines()
    assert lines[2] == "b.png,2,,," and lines[1].startswith("a.png,1,hat,kind,")
    for name in "ac":
        (place / f"{name}.png").write_bytes(b"no photo")
    with pytest.raises(SkippedPhotos, match="5 of 5 photos"):
        command()
    assert (place / "filled_left.csv").read_text().count("kind") == 3
    for name in "abc":
        (place / f"{name}.png").unlink()
    with pytest.raises(UserError, match=r"shop\.csv: none of its photos is there, such as a\.png; --images"):
        command()


def test_photos_below_are_named(command, place):
    """They may be other photos of these names: the user says which."""
    (place / "photos" / "new").mkdir(parents=True)
    for name in "abc":
        (place / f"{name}.png").rename(place / "photos" / "new" / f"{name}.png")
    with pytest.raises(UserError, match=r"shop\.csv: none of its photos is there.*; --images photos/new has"):
        command()
    assert command("--images", "photos/new")[1][2] == "hat"


@pytest.mark.parametrize(
    "options, said",
    [
        ("a.png --fill shop.csv", "give PATH or --fill; --by, --names and --probabilities are for PATH"),
        ("--fill shop.csv --by group", "give PATH or --fill;"),
        ("--fill shop.csv --names en", "give PATH or --fill;"),
        ("--fill shop.csv --probabilities", "give PATH or --fill;"),
        ("", "give PATH or --fill"),
        ("a.png --doubts x.csv", "--doubts is for --fill"),
        ("--fill shop.csv --folds x", "--folds for --doubts"),
        ("--fill shop.csv --sure 1", "--sure: '1' is not"),
        ("--fill shop.csv --output shop.csv", "the same file as shop.csv, which is read"),
        ("--fill shop.csv --doubts shop.csv", "the same file as shop.csv, which is read"),
        ("--fill shop.csv --output o.csv --doubts ./o.csv", "--doubts ./o.csv: is --output, o_left.csv"),
        ("--fill shop.csv --output o.csv --doubts ./o_left.csv", "--doubts ./o_left.csv: is --output"),
        (
            "--fill shop.csv --output o.csv --doubts d.png",
            "--doubts d.png: is --output, o_left.csv or its own picture",
        ),
        ("--fill none.csv", "none.csv: no such file"),
        ("--fill shop.csv --images photos", "--images photos: no such folder"),
    ],
)
def test_bad_input(command, options, said):
    with pytest.raises(UserError, match=said) as error:
        predict.main(["--checkpoint", "shop.pt", *options.split()])
    assert "\n" not in str(error.value)


def test_a_table_without_a_column(command, place):
    (place / "shop.csv").write_text("file,kind\na.png,\n")
    with pytest.raises(UserError, match=r"shop\.csv: no column product; there are file, kind"):
        command()


@pytest.mark.thorough
def test_checkpoint_onnx_and_hub_say_the_same(work, exported, place, monkeypatch):
    """The competition's table has numbers, and no cell that says "not known": empty ones are filled with numbers."""
    hub = place / "hub"
    options = f"--checkpoint {work}/student.pt --format hub --output {hub} --data-dir {work}/data --compare 2"
    export.main(options.split())
    measured = {key: {"temperature": 1.0, "steps": [[0.99, 0.0]]} for key in read_attributes()}
    monkeypatch.setattr(model, "find_measured", lambda *_: measured)
    with open(work / "data" / "Fashion-How24_sub1_val.csv", newline="") as file:
        header, *rows = csv.reader(file)
    at = header.index("Daily")
    for row in rows[::2]:
        row[at] = ""
    with open("val.csv", "w", newline="") as file:
        csv.writer(file).writerows([header, *rows])
    found = {}
    for path in (work / "student.pt", exported["fp32"], hub):
        words = ["--checkpoint", str(path), "--fill", "val.csv", "--images", str(work / "data" / "val")]
        predict.main([*words, "--output", "filled.csv", "--device", "cpu"])
        with open("filled.csv", newline="") as file:
            found[path] = list(csv.reader(file))
    first, *others = found.values()
    assert first[0] == [
        *header,
        "filled",
        "daily_confidence",
        "gender_confidence",
        "embel_confidence",
    ]
    assert {row[at] for row in first[1:]} <= set("012345") and first[1][len(header)] == "daily"
    for other in others:
        for one, two in zip(first[1:], other[1:]):
            assert one[:-3] == two[:-3]
            assert one[-3] == two[-3] == "" or abs(float(one[-3]) - float(two[-3])) < 2e-4
