"""python -m utils.attributes: a file of attributes drafted from a table."""

import csv
import json

import pytest

from utils.attributes import UNKNOWN, read_attributes
from utils.attributes.__main__ import main
from utils.cli import exit_code
from utils.dataset import read_tables
from utils.errors import UserError

ROWS = 120
KINDS = (
    "dress",
    "Dress",
    "coat",
    "NA",
    "",
)  # two spellings of one class, a word that is none elsewhere, not known


@pytest.fixture
def shop(tmp_path):
    """A folder with a table, and photos that are only there."""
    (tmp_path / "photos").mkdir()
    header = ["file", "kind", "price", "id", "size", "only", "text", "a/b"]
    rows = []
    for i in range(ROWS):
        (tmp_path / "photos" / f"{i}.jpg").touch()
        kind = KINDS[min(i % 6, 4)]
        rows.append(
            [f"{i}.jpg", kind, f"{i % 7}.5", 1000 + i, 36 + 2 * (i % 4), "x", f"text {i}", "yn"[i % 2]]
        )
    write(tmp_path / "table.csv", [header, *rows])
    return tmp_path


def write(path, rows, encoding="utf-8", separator=","):
    with open(path, "w", newline="", encoding=encoding) as file:
        csv.writer(file, delimiter=separator).writerows(rows)


def draft(folder, *more):
    table, output = folder / "table.csv", folder / "draft.json"
    return main([str(table), "--image", "file", "--photos", "photos", "--output", str(output), *more])


def test_what_becomes_an_attribute(shop, capsys):
    draft(shop)
    content = json.loads((shop / "draft.json").read_text(encoding="utf-8"))
    assert {name: list(one["classes"]) for name, one in content["attributes"].items()} == {
        "kind": ["coat", "dress", "NA"],
        "size": ["36", "38", "40", "42"],
        "a b": ["n", "y"],
    }
    assert content["attributes"]["a b"]["column"] == "a/b"
    assert content["attributes"]["kind"]["classes"]["coat"] == {"prompt": "a photo of a garment, kind: coat"}
    assert content["val"] == 0.2 and content["unknown"] == [""] and content["exif"] is True
    assert content["train"] == {"table": "table.csv", "photos": "photos"} and content["image"] == "file"
    said = capsys.readouterr().out
    assert "left out: price: numbers that look like a measure or an id" in said
    assert "left out: id: numbers that look like a measure or an id" in said
    assert "left out: only: fewer than 2 different values" in said
    assert f"left out: text: {ROWS} different values, more than 50" in said
    kind = next(line.split() for line in said.splitlines() if line.startswith("kind"))
    # Classes, share of the largest among known cells, cells that are not known, classes under 10 photos, none held out, other spellings.
    assert kind == ["kind", "3", "50%", "40", "0", "0", "1"]


def test_the_draft_can_be_trained_on(shop):
    draft(shop)
    attributes = read_attributes(str(shop / "draft.json"))
    tables = read_tables(str(shop), attributes)
    labels = [*tables["train"].labels["kind"], *tables["val"].labels["kind"]]
    assert (
        len(labels) == ROWS and labels.count(UNKNOWN) == 40 and labels.count(1) == 40
    )  # both spellings of dress
    assert 0.1 < len(tables["val"].names) / ROWS < 0.3


def test_another_encoding_and_separator(shop):
    rows = [["file", "종류"], *([f"{i}.jpg", ("치마", "바지")[i % 2]] for i in range(ROWS))]
    write(shop / "table.csv", rows, "cp949", ";")
    with pytest.raises(UserError, match=r"not utf-8.*cp949"):
        draft(shop)
    draft(shop, "--encoding", "cp949")
    attributes = read_attributes(str(shop / "draft.json"))
    assert attributes["종류"].classes == ("바지", "치마")
    assert len(read_tables(str(shop), attributes)["train"].names) > 60


def test_a_class_that_nothing_is_held_out_of(shop, capsys):
    rows = [["file", "kind"], *([f"{i}.jpg", ("a", "b")[i < 2]] for i in range(ROWS))]
    write(shop / "table.csv", rows)
    draft(shop)
    kind = next(line.split() for line in capsys.readouterr().out.splitlines() if line.startswith("kind"))
    assert kind[1] == "2" and kind[4] == "1"


BAD = {
    "no column": (["--image", "name"], "no column name; there are file, kind"),
    "no folder": (["--photos", "pictures"], "--photos pictures: no such folder"),
    "no folder to write into": (["--output", "no/where.json"], "there is no folder no"),
}


@pytest.mark.parametrize("kind", BAD)
def test_bad_input_is_one_line(shop, capsys, kind):
    more, part = BAD[kind]
    assert exit_code(lambda: draft(shop, *more)) == 2
    error = capsys.readouterr().err
    assert part in error and error.count("\n") == 1 and not (shop / "draft.json").exists()


def test_a_file_that_is_there_is_kept(shop, capsys):
    (shop / "draft.json").write_text("mine")
    assert exit_code(lambda: draft(shop)) == 2
    assert "name another file" in capsys.readouterr().err and (shop / "draft.json").read_text() == "mine"


def test_no_column_can_be_one(shop, capsys):
    write(shop / "table.csv", [["file", "only"], *([f"{i}.jpg", "x"] for i in range(ROWS))])
    assert exit_code(lambda: draft(shop)) == 2
    assert "no column can be an attribute" in capsys.readouterr().err
