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


@pytest.mark.parametrize("more, wanted", [(["kind_confidence"], ["kind"]), ([], ["kind", "filled"])])
def test_what_was_filled_is_none(shop, more, wanted):
    """The column in which predict.py --fill tells what it has filled; one of the user's own stays."""
    cells = (
        [f"{i}.jpg", "ab"[i % 2], ("yes", "no")[i % 3 % 2], *(f"0.{i}1" for _ in more)] for i in range(ROWS)
    )
    write(shop / "table.csv", [["file", "kind", "filled", *more], *cells])
    draft(shop)
    assert list(json.loads((shop / "draft.json").read_text())["attributes"]) == wanted


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
    assert "left out: price: numbers that look like a measure\n" in said
    assert "left out: id: numbers that look like a measure or an id" in said
    assert "left out: only: fewer than 2 different values" in said
    assert (
        f"left out: text: {ROWS} different values, 0 of them on 10 photos or more: text 0 1, text 1 1,"
        in said
    )
    kind = next(line.split() for line in said.splitlines() if line.startswith("kind"))
    # Classes, share of the largest among known cells, cells that are not known, ignored, classes with few held out.
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


def test_classes_that_little_is_held_out_of(shop, capsys):
    rows = [["file", "kind"], *([f"{i}.jpg", "b" if i < 2 else "c" if i < 5 else "a"] for i in range(ROWS))]
    write(shop / "table.csv", rows)
    draft(shop, "--min-photos", "1")
    said = capsys.readouterr().out.splitlines()
    assert said[1].split() == ["kind", "3", "96%", "0", "0", "2"] and said[2] == "kind: a 115, c 3, b 2"
    tables = read_tables(str(shop), read_attributes(str(shop / "draft.json")))
    held_out = [(tables["val"].labels["kind"] == number).sum() for number in (1, 2)]
    assert max(held_out) < 3
    assert said[3] == f"under 3 held out: kind: b {held_out[0]} of 2, c {held_out[1]} of 3"
    assert "take more photos, merge classes" in said[4] and "ignore" in said[4]


def test_classes_of_few_photos_are_ignored(shop, capsys):
    """Under whatever spelling; they are named, and are not counted among the cells that are not known."""
    rare = ["cape", " Cape", "CAPE", "Cape", "Skin", "skin", ""]
    kinds = [*rare, *("coat" if i % 2 else "dress" for i in range(ROWS - len(rare)))]
    skin = [["Dry", "Skin"][i % 2] for i in range(ROWS)]
    write(shop / "table.csv", [["file", "kind", "hue"], *zip(map("{}.jpg".format, range(ROWS)), kinds, skin)])
    draft(shop)
    content = json.loads((shop / "draft.json").read_text(encoding="utf-8"))
    kind = content["attributes"]["kind"]
    assert list(kind["classes"]) == ["coat", "dress"] and kind["ignore"] == ["Cape", "Skin"]
    assert list(content["attributes"]["hue"]["classes"]) == ["Dry", "Skin"] and content["unknown"] == [""]
    assert content["attributes"]["hue"]["ignore"] == []
    said = capsys.readouterr().out
    assert next(line for line in said.splitlines() if line.startswith("kind")).split()[1:5] == [
        "2",
        "50%",
        "1",
        "6",
    ]
    assert "\nkind: dress 57, coat 56; ignored, under 10 photos: Cape 4, Skin 2\n" in said
    tables = read_tables(str(shop), read_attributes(str(shop / "draft.json")))
    assert sum((part.labels["kind"] == UNKNOWN).sum() for part in tables.values()) == len(rare)
    (shop / "draft.json").unlink()
    draft(shop, "--min-photos", "4")
    content = json.loads((shop / "draft.json").read_text(encoding="utf-8"))
    assert content["attributes"]["kind"]["ignore"] == ["Skin"]


def test_columns_without_classes_of_enough_photos(shop, capsys):
    """One class is none, and names of few rows are no classes."""
    header = ["file", "kind", "one", "name", "many"]
    rows = [
        [f"{i}.jpg", "ab"[i % 2], "x" if i > 5 else "y", f"n{max(i - 20, 0)}", f"v{i % 101}"]
        for i in range(1010)
    ]
    for i in range(ROWS, 1010):
        (shop / "photos" / f"{i}.jpg").touch()
    write(shop / "table.csv", [header, *rows])
    draft(shop)
    assert list(read_attributes(str(shop / "draft.json"))) == ["kind"]
    said = capsys.readouterr().out
    assert "left out: one: 2 different values, 1 of them on 10 photos or more: x 1004, y 6\n" in said
    assert "left out: name: 990 different values, 1 of them on 10 photos or more: n0 21, n1 1," in said
    assert "left out: many: 101 different values, 101 of them on 10 photos or more, but 100 at most" in said


NUMBERS = {
    "numbers with a unit": [
        ["12 cm", "9cm", "100 CM"], ["EUR 30", "EUR 1.299,00"], ["180g", "1,5 kg"], ["$1,299.00", "$5"], ["5%", "10%"],
        ["30 €", "€ 40"], ["20,000원", "9,000원"], ["3 in", "4 in"], ["2 l", "3 l"],
    ],
    "years or dates": [
        ["2012", "2013"], ["2012.0", "2015.0", "1900.0"], ["2012-05-01", "2013-11-30"], ["1.5.2012", "30.11.12"],
        ["2012/05/01 10:30", "2013/05/01 9:00"], ["2012-05", "2012-06"],
    ],
    "numbers that look like a measure": [["1.5", "2"], ["0,125", "12,25"]],
    "numbers that look like a measure or an id": [["1299", "1899", "999"], ["1", "1.000"]],
    None: [
        ["0", "1", "2"], ["0.0", "1.0"], ["36", "38", "40"], ["EU 36", "EU 38"], ["5L", "3L"], ["1 button", "2 buttons"],
        ["2XL", "XL"], ["summer 2012", "fall 2013"], ["W32 L34", "W30 L30"], ["1990s", "1980s"], ["12 x 30 cm", "9 x 9 cm"],
    ],
}  # fmt: skip


@pytest.mark.parametrize(
    "reason, cells", [(reason, cells) for reason in NUMBERS for cells in NUMBERS[reason]]
)
def test_columns_of_numbers(shop, capsys, reason, cells):
    """Some cells may be no numbers."""
    dirt = [] if reason is None else ["n/a"]
    attributes = drafted(
        shop,
        "x",
        lambda i: (dirt or cells)[0] if i < 10 else cells[i % len(cells)],
        ("kind", lambda i: "ab"[i % 2]),
    )
    said = capsys.readouterr().out
    if reason is None:
        assert sorted(attributes["x"]["classes"]) == sorted(cells)
    else:
        assert list(attributes) == ["kind"] and f"left out: x: {reason}" in said
        assert f"left out: x: {reason}\n" in said or reason.endswith("id")


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
    assert "women/1.jpg: no such file; there is 1.jpg\n" in said
    draft(shop, "--skip-unreadable")
    said = capsys.readouterr().out
    assert "1 photo is missing and left out" in said
    assert (
        's1 3, s0 2, s10 2, s11 2, s12 2 and 55 more; if it tells products, each with several photos, add "group": "sku"'
        in said
    )
    assert "left out: price: numbers with a unit\n" in said
    assert (
        'style: numbers that look like a measure or an id; if it tells products, each with several photos, add "group": "style"'
        in said
    )


# --- products ----------------------------------------------------------------------------------------


def with_products(**others):
    """Rows of which about three are of one product, in one kind; `others`, name of a column -> its cell for (row, product)."""
    rows = [["file", "kind", "colour", *others]]
    for i in range(ROWS):
        product = i * 7 % 40
        cells = [other(i, product) for other in others.values()]
        rows.append([f"{i}.jpg", ("coat", "dress", "hat")[product % 3], ("red", "blue", "")[i % 3], *cells])
    return rows


PRODUCTS = {
    "a number": {"id": lambda i, p: 1000 + 13 * p},
    "a code": {"sku": lambda i, p: f"SK-{p}"},
    "a name": {"name": lambda i, p: f"Men's Plain {'ABCDEFGHIJ'[p % 10]} {'KLMN'[p // 10]} Shirt"},
    "with empty cells": {"sku": lambda i, p: "" if i % 5 == 0 else f"SK-{p}"},
    "besides a price": {"price": lambda i, p: 500 + i * 37 % 61 * 10, "sku": lambda i, p: f"SK-{p}"},
    "a few, shared": {"name": lambda i, p: f"Shirt {p if i > 60 else 100 + i}"},
}


@pytest.mark.parametrize("kind", PRODUCTS)
def test_a_column_that_tells_products_becomes_the_group(shop, capsys, kind):
    write(shop / "table.csv", with_products(**PRODUCTS[kind]))
    draft(shop)
    column = list(PRODUCTS[kind])[-1]
    attributes = read_attributes(str(shop / "draft.json"))
    assert attributes.layout.group == column and list(attributes) == ["kind", "colour"]
    said = capsys.readouterr().out
    assert f"\ngroup: {column}, " in said and "--group none" in said and f"left out: {column}" not in said
    train, val = read_tables(str(shop), attributes).values()
    assert not set(train.groups) & set(val.groups)
    (shop / "draft.json").unlink()
    draft(shop, "--group", "none")
    assert "group" not in json.loads((shop / "draft.json").read_text(encoding="utf-8"))
    assert f"left out: {column}: " in capsys.readouterr().out


def test_of_several_columns_that_of_the_largest_groups(shop, capsys):
    several = {
        "sku": lambda i, p: f"SK-{p}-{i // 40 % 2}",
        "style": lambda i, p: f"ST-{p}",
        "id": lambda i, p: i,
    }
    write(shop / "table.csv", with_products(**several))
    draft(shop)
    assert read_attributes(str(shop / "draft.json")).layout.group == "style"
    said = capsys.readouterr().out
    assert "group: style, 40 values" in said and 'add "group": "sku"' in said and '"group": "id"' not in said
    (shop / "draft.json").unlink()
    draft(shop, "--group", "sku")
    assert read_attributes(str(shop / "draft.json")).layout.group == "sku"
    assert "left out: sku" not in capsys.readouterr().out
    (shop / "draft.json").unlink()
    assert exit_code(lambda: draft(shop, "--group", "nix")) == 2
    assert "no column nix; there are file, kind, colour, sku, style, id" in capsys.readouterr().err


NO_PRODUCTS = {
    "a price": lambda i, p: 500 + i * 37 % 61 * 10,
    "a finer kind": lambda i, p: ("coat", "dress", "hat")[p % 3] + " " + "abcdefghijklmn"[p // 3],
    "a day": lambda i, p: f"2012-05-{1 + p % 30:02}",
    "one each": lambda i, p: f"item {i}",
    "few": lambda i, p: f"style {p % 3}",
}


@pytest.mark.parametrize("kind", NO_PRODUCTS)
def test_columns_that_tell_no_products(shop, kind):
    """Rows share a price by chance; a kind in fewer words is a word; what each row has alone groups nothing."""
    write(shop / "table.csv", with_products(x=NO_PRODUCTS[kind]))
    draft(shop)
    assert "group" not in json.loads((shop / "draft.json").read_text(encoding="utf-8"))


# --- a folder of folders -----------------------------------------------------------------------------


def folders(root, *parts):
    """Photos in folders of classes, with nothing in them: 40 of a dress, 20 of a coat, 4 of a cape."""
    for part in parts:
        for i in range(64):
            photo = root / part / ("dress" if i < 40 else "Long coat" if i < 60 else "cape") / f"{i}.jpg"
            photo.parent.mkdir(parents=True, exist_ok=True)
            photo.touch()


def test_a_folder_of_folders(tmp_path, capsys):
    folders(tmp_path / "photos", "")
    (tmp_path / "photos" / "cover.jpg").touch()
    (tmp_path / "photos" / "notes.txt").touch()
    (tmp_path / "photos" / "women" / "dress").mkdir(parents=True)
    (tmp_path / "photos" / "women" / "dress" / "1.jpg").touch()
    arguments = [str(tmp_path / "photos"), "--output", str(tmp_path / "shop.json")]
    main(arguments)
    content = json.loads((tmp_path / "shop.json").read_text(encoding="utf-8"))
    assert content["train"] == {"table": "shop.train.csv", "photos": "photos"} and content["val"] == 0.2
    assert list(content["attributes"]) == ["class"] and content["attributes"]["class"]["ignore"] == ["cape"]
    assert list(content["attributes"]["class"]["classes"]) == ["dress", "Long coat"]
    said = capsys.readouterr().out
    assert "shop.train.csv: 66 photos and the folders they are in\n" in said
    assert said.splitlines()[1].split() == ["class", "2", "67%", "1", "4", "0"]
    with open(tmp_path / "shop.train.csv", newline="", encoding="utf-8") as file:
        rows = list(csv.reader(file))
    assert (
        rows[0] == ["file", "class"] and ["women/dress/1.jpg", "dress"] in rows and ["cover.jpg", ""] in rows
    )
    tables = read_tables(str(tmp_path), read_attributes(str(tmp_path / "shop.json")))
    assert sum(len(part.names) for part in tables.values()) == 66
    # Nothing is overwritten.
    (tmp_path / "shop.json").unlink()
    assert exit_code(lambda: main(arguments)) == 2
    assert (
        "shop.train.csv: is there already" in capsys.readouterr().err
        and not (tmp_path / "shop.json").exists()
    )


def test_a_folder_with_parts(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folders(tmp_path / "data", "train", "valid", "test")
    (tmp_path / "elsewhere").mkdir()
    main(["data/", "--output", "elsewhere/shop.json"])
    content = json.loads((tmp_path / "elsewhere" / "shop.json").read_text(encoding="utf-8"))
    tables = {part: content[part] for part in ("train", "val", "test")}
    assert tables == {part: {"table": f"shop.{part}.csv", "photos": "data"} for part in tables}
    found = read_tables(".", read_attributes("elsewhere/shop.json"), tuple(tables))
    assert {part: len(table.names) for part, table in found.items()} == dict.fromkeys(tables, 64)
    assert all(name.startswith("valid/") for name in found["val"].names)


def test_a_class_may_be_called_train(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for i in range(60):
        (tmp_path / "toys" / ("train", "car")[i % 2]).mkdir(parents=True, exist_ok=True)
        (tmp_path / "toys" / ("train", "car")[i % 2] / f"{i}.jpg").touch()
    main(["toys", "--output", "toys.json"])
    assert read_attributes("toys.json")["class"].classes == ("car", "train")


def loose(folder):
    (folder / "photos").mkdir()
    (folder / "photos" / "1.jpg").touch()


def leads_out(folder):
    folders(folder / "photos", "")
    (folder / "1.jpg").touch()
    (folder / "photos" / "dress" / "x.jpg").symlink_to(folder / "1.jpg")


@pytest.mark.parametrize(
    "make, problem",
    [
        (lambda folder: (folder / "photos").mkdir(), "a folder without photos"),
        (loose, "photos: no column can be an attribute:\n  class: fewer than 2 different values"),
        (leads_out, "dress/x.jpg leads out of"),
    ],
)
def test_a_folder_that_is_refused_leaves_nothing_behind(tmp_path, capsys, make, problem):
    make(tmp_path)
    assert exit_code(lambda: main([str(tmp_path / "photos"), "--output", str(tmp_path / "shop.json")])) == 2
    assert problem in capsys.readouterr().err
    assert not list(tmp_path.glob("shop*"))


def test_a_table_needs_its_photos(shop, capsys):
    assert exit_code(lambda: main([str(shop / "table.csv"), "--output", str(shop / "draft.json")])) == 2
    assert "a table needs --image" in capsys.readouterr().err


# --- what training would refuse ----------------------------------------------------------------------


def test_names_without_an_ending_say_what_to_write(shop, capsys):
    """If all photos are missing, none can be left out, as in training."""
    (shop / "photos" / "a.5.jpg").touch()
    (shop / "photos" / "1.png").touch()
    names = ["a.5", *range(1, 10)] * 12
    write(shop / "table.csv", [["file", "kind"], *([name, "ab"[i % 2]] for i, name in enumerate(names))])
    assert exit_code(lambda: draft(shop)) == 2 and not (shop / "draft.json").exists()
    said = capsys.readouterr().err
    assert "photos/2: no such file; write 2.jpg, with its ending\n" in said
    assert "write a.5.jpg, with its ending\n" in said and "there is 1.jpg, 1.png\n" in said
    assert exit_code(lambda: draft(shop, "--skip-unreadable")) == 2 and not (shop / "draft.json").exists()
    said = capsys.readouterr().err
    assert "table.csv: no photo is there; without --skip-unreadable they are named\n" in said


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
    assert (
        "draft.json: is there already, perhaps edited; name another --output" in capsys.readouterr().err
        and (shop / "draft.json").read_text() == "mine"
    )


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
    assert "left out: tags: 37 of its 40 values: too few photos have them, or have not\n" in said
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


@pytest.mark.parametrize("names", [("1", "2", "10"), ("2019", "2020", "2021"), ("x|y", "y|z", "x|z")])
def test_a_folder_is_a_class_whatever_it_is_called(tmp_path, monkeypatch, names):
    monkeypatch.chdir(tmp_path)
    for number, name in enumerate(names * 12):
        (tmp_path / "photos" / name).mkdir(parents=True, exist_ok=True)
        (tmp_path / "photos" / name / f"{number}.jpg").touch()
    main(["photos", "--output", "out.json"])
    assert {key: set(one.classes) for key, one in read_attributes("out.json").items()} == {
        "class": set(names)
    }
    with pytest.raises(UserError, match="--image, --photos: for a table"):
        main(["photos", "--image", "file", "--output", "new.json"])
