"""python -m utils.tools.draft: a file of attributes drafted from a table."""

import csv
import json

import pytest

from utils.base.cli import exit_code
from utils.base.errors import UserError
from utils.data.attributes import UNKNOWN, read_attributes
from utils.data.dataset import read_tables
from utils.tools.draft import main

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
    # Classes, share of the largest among known cells, cells that are not known, classes under 10 photos, none held out.
    assert kind == ["kind", "3", "50%", "40", "0", "0"]


def test_the_draft_can_be_trained_on(shop):
    draft(shop)
    attributes = read_attributes(str(shop / "draft.json"))
    tables = read_tables(str(shop), attributes)
    labels = [*tables["train"].labels["kind"], *tables["val"].labels["kind"]]
    assert (
        len(labels) == ROWS and labels.count(UNKNOWN) == 40 and labels.count(1) == 40
    )  # both spellings of dress
    assert 0.1 < len(tables["val"].names) / ROWS < 0.3


def test_a_header_that_ends_in_a_separator(shop, capsys):
    """A row may end before the cell that has no name; blank lines may come first."""
    head, *lines = (shop / "table.csv").read_text().splitlines()
    ragged = [f"{line}{',' * (number % 2)}" for number, line in enumerate(lines)]
    (shop / "table.csv").write_text("\n".join(["", f"{head},", *ragged]).replace(",", ";") + "\n")
    draft(shop)
    assert "kind" in read_attributes(shop / "draft.json") and "(no name)" in capsys.readouterr().out


def test_another_encoding_and_separator(shop):
    rows = [["file", "종류"], *([f"{i}.jpg", ("치마", "바지")[i % 2]] for i in range(ROWS))]
    write(shop / "table.csv", rows, "cp949", ";")
    with pytest.raises(UserError, match=r"no text in utf-8.*cp949"):
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
    "no table": (
        ["--image", "file"],
        "table.csv: no such file",
    ),
    "no column": (["--image", "name"], "no column name; there are file, kind"),
    "no folder": (["--photos", "pictures"], "--photos pictures: no such folder"),
    "no folder to write into": (["--output", "no/where.json"], "there is no folder no"),
}


@pytest.mark.parametrize("kind", BAD)
def test_bad_input_is_one_line(shop, capsys, kind):
    more, part = BAD[kind]
    if kind == "no table":
        (shop / "table.csv").unlink()
    assert exit_code(lambda: draft(shop, *more)) == 2
    error = capsys.readouterr().err
    assert part in error and error.count("\n") == 1 and not (shop / "draft.json").exists()


def test_what_the_draft_points_out(shop, capsys):
    """Photos that are not where the table says, columns that may tell products, prices."""
    header = ["file", "kind", "sku", "price", "style"]
    rows = [[f"{i}.jpg", "ab"[i % 2], f"s{i // 2}", f"{i % 3 + 9},99 €", 7000 + i // 3] for i in range(ROWS)]
    write(shop / "table.csv", [header, *rows, ["women/1.jpg", "a", "s1", "", 7000]], separator=";")
    assert exit_code(lambda: draft(shop)) == 2 and not (shop / "draft.json").exists()
    said = capsys.readouterr().err
    assert "1 photo of the table is missing; with --skip-unreadable such are left out" in said
    assert "women/1.jpg: No such file or directory; there is 1.jpg\n" in said
    draft(shop, "--skip-unreadable")
    said = capsys.readouterr().out
    assert "1 photos of the table are missing and left out" in said
    assert 'more than 50; if it tells products, each with several photos, add "group": "sku"' in said
    assert "left out: price: numbers that look like a measure or an id\n" in said
    assert (
        'style: numbers that look like a measure or an id; if it tells products, each with several photos, add "group": "style"'
        in said
    )


def links(shop):
    """The photos are links out of their folder, as in the hub's cache."""
    (shop / "photos").rename(shop / "blobs")
    (shop / "photos").mkdir()
    for i in range(ROWS):
        (shop / "photos" / f"{i}.jpg").symlink_to(f"../blobs/{i}.jpg")


@pytest.mark.parametrize(
    "change, problem",
    [
        (lambda rows: rows.append(["/etc/passwd", "a"]), "line 122: file /etc/passwd leads out of"),
        (lambda rows: rows.append(["/home/ann/001.JPG", "a"]), "/photos/; there is 1.jpg"),
        (lambda rows: rows.append(["\x1b[31m", "a"]), "line 122: file '\\x1b[31m' has characters"),
        (lambda rows: rows.append(["1.jpg"]), "line 122: 1 cells, and the header has 2"),
        (lambda rows: [row.append(row[1]) for row in rows], "more than one column kind; rename all but one"),
    ],
)
def test_what_training_refuses_the_draft_does(shop, capsys, change, problem):
    rows = [["file", "kind"], *([f"{i}.jpg", "ab"[i % 2]] for i in range(ROWS))]
    change(rows)
    write(shop / "table.csv", rows)
    assert exit_code(lambda: draft(shop)) == 2 and problem in capsys.readouterr().err
    assert not (shop / "draft.json").exists()


def test_absolute_names_and_links(shop, capsys):
    """What training takes the draft does, too."""
    rows = [["file", "kind"], *([str(shop / "photos" / f"{i}.jpg"), "ab"[i % 2]] for i in range(ROWS))]
    write(shop / "table.csv", rows)
    draft(shop)
    tables = read_tables(str(shop), read_attributes(str(shop / "draft.json")))
    assert sum(len(split.names) for split in tables.values()) == ROWS
    links(shop)
    (shop / "draft.json").unlink()
    assert exit_code(lambda: draft(shop)) == 2
    assert "leads out of" in capsys.readouterr().err
    draft(shop, "--follow-links")
    attributes = read_attributes(str(shop / "draft.json"))
    with pytest.raises(UserError, match="by a link; --follow-links allows it"):
        read_tables(str(shop), attributes)
    assert len(read_tables(str(shop), attributes, follow_links=True)["train"].names) > 60


def test_one_class_in_two_forms_of_unicode(shop):
    forms = "\uc2a4\ucee4\ud2b8", "\u1109\u1173\u110f\u1165\u1110\u1173"  # composed, and as a Mac writes it
    rows = [["file", "kind"], *([f"{i}.jpg", ("b", *forms)[i % 3 % (2 + i % 2)]] for i in range(ROWS))]
    write(shop / "table.csv", rows)
    draft(shop)
    assert len(read_attributes(str(shop / "draft.json"))["kind"].classes) == 2


def test_a_table_without_rows(shop, capsys):
    write(shop / "table.csv", [["file", "kind"]])
    assert exit_code(lambda: draft(shop)) == 2
    assert capsys.readouterr().err.endswith("table.csv: no rows\n")


def test_a_file_that_is_there_is_kept(shop, capsys):
    (shop / "draft.json").write_text("mine")
    assert exit_code(lambda: draft(shop)) == 2
    assert "name another file" in capsys.readouterr().err and (shop / "draft.json").read_text() == "mine"


def test_no_column_can_be_one(shop, capsys):
    write(shop / "table.csv", [["file", "only"], *([f"{i}.jpg", "x"] for i in range(ROWS))])
    assert exit_code(lambda: draft(shop)) == 2
    assert "no column can be an attribute" in capsys.readouterr().err


# --- columns whose cells are lists -------------------------------------------------------------------

SENTENCES = [
    f"A {look} {kind}, {made} of soft cotton no {i}, with {part} at the {place}. Wash at {30 + i % 4} degrees, do not iron"
    for i, (look, kind, made, part, place) in enumerate(
        ("warm thin long cosy".split()[i % 4], "coat dress shirt".split()[i % 3], "made cut sewn".split()[i // 7 % 3],
         "pockets buttons a bow".split()[i % 3], "side front back hem".split()[i // 5 % 4])
        for i in range(ROWS)
    )
]  # fmt: skip


def drafted(shop, column, cells, *others):
    """The attributes drafted for a table with one column, and perhaps others."""
    rows = [["file", column, *(name for name, _ in others)]]
    for i in range(ROWS):
        rows.append([f"{i}.jpg", cells(i), *(other(i) for _, other in others)])
    write(shop / "table.csv", rows)
    draft(shop)
    return json.loads((shop / "draft.json").read_text(encoding="utf-8"))["attributes"]


def tags(i):
    """Floral in 2 of 3, dots in every fourth, red in 1 of 5, own tags of 40 different names, and all of them "new"."""
    cell = [
        "new",
        *["Floral"] * (i % 3 > 0),
        *["dots"] * (i % 4 == 0),
        *["w/ red"] * (i % 5 == 0),
        f"own {i % 40}",
    ]
    if i % 30 == 1:
        cell[1] = "floral "
    return "" if i % 10 == 9 else " | ".join(cell)


def test_each_frequent_value_of_a_list_is_an_attribute(shop, capsys):
    attributes = drafted(shop, "tags", tags)
    names = ["tags dots", "tags Floral", "tags w  red"]
    assert list(attributes) == names
    assert attributes["tags Floral"] == {
        "column": "tags", "contains": "Floral", "separator": "|",
        "classes": {
            "no": {"prompt": "a photo of a garment without Floral"},
            "yes": {"prompt": "a photo of a garment with Floral"},
        },
    }  # fmt: skip
    said = capsys.readouterr().out
    assert "left out: tags: 37 of its 40 values: under 20 photos, or all\n" in said
    known = [i for i in range(ROWS) if i % 10 != 9]
    yes = [i for i in known if i % 3 > 0]
    row = next(line for line in said.splitlines() if line.startswith("tags Floral")).split()
    assert row[2:] == ["2", f"{len(yes) / len(known):.0%}", "12", "0", "0"]
    tables = read_tables(str(shop), read_attributes(str(shop / "draft.json")))
    labels = {}
    for split in tables.values():
        labels.update(zip(split.names, split.labels["tags Floral"].tolist()))
    assert labels == {f"{i}.jpg": UNKNOWN if i % 10 == 9 else int(i % 3 > 0) for i in range(ROWS)}


@pytest.mark.parametrize("separator", ["|", ";", ",", ", "])
@pytest.mark.parametrize("cells", [("a|b", "a", "b|c"), ("a|s|x", "b|s|y", "a|l|y", "b|l|x")])
def test_a_list_of_few_different_cells(shop, separator, cells):
    attributes = drafted(shop, "tags", lambda i: cells[i % len(cells)].replace("|", separator))
    values = sorted({value for cell in cells for value in cell.split("|")})
    assert list(attributes) == [f"tags {value}" for value in values]
    assert {one["separator"] for one in attributes.values()} == {separator.strip()}


NO_LISTS = {
    "sentences": SENTENCES.__getitem__,
    "few sentences": lambda i: SENTENCES[i % 12],
    "names of classes": lambda i: ("Shirts, blouses", "Tops, T-shirts", "Jeans", "Skirts; shorts")[i % 4],
    "a colour, rarely two": lambda i: "black, white" if i % 25 == 0 else ("black", "white", "red")[i % 3],
    "prices": lambda i: f"{i % 9},5",
    "thousands": lambda i: f"{1 + i % 3},{100 + i % 7}",
    "a program's lists": lambda i: str([["floral", "red"][i % 2], "cotton"][: 1 + i % 2]),
    "separators only": lambda i: "|;,"[i % 3],
}


@pytest.mark.parametrize("kind", NO_LISTS)
def test_columns_that_are_no_lists(shop, kind):
    """Such a column is one attribute, or none."""
    attributes = drafted(shop, "text", NO_LISTS[kind], ("kind", lambda i: ("coat", "dress")[i % 2]))
    assert "kind" in attributes and set(attributes) <= {"text", "kind"}
    assert not any("contains" in one for one in attributes.values())


def test_names_of_attributes_are_unique(shop):
    yes_no = ("tags a", lambda i: ("yes", "no")[i % 2]), ("tags/a", lambda i: ("yes", "no")[i % 2])
    attributes = drafted(shop, "tags", lambda i: ("a|b", "a/x|b", "b/|c|a")[i % 3], *yes_no)
    assert len(attributes) == len(set(attributes)) == 7
    assert [one["column"] for one in attributes.values()] == ["tags"] * 5 + ["tags a", "tags/a"]
    assert "tags a" in attributes and "tags a 2" in attributes and "tags a 2 2" in attributes


def test_a_value_that_cannot_be_in_a_name(shop):
    attributes = drafted(shop, "tags", lambda i: (f"a|{'b' * 200}", "a|c", f"c|{'b' * 200}")[i % 3])
    assert list(attributes) == ["tags a", "tags c"]
