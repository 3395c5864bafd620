"""The file of attributes, and the tables it describes."""

import copy
import json
import os
import shutil

import numpy as np
import pytest
import torch
from conftest import ATTRIBUTES
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from networks import Student, load_network
from utils.base.errors import UserError
from utils.data.attributes import PARTS, UNKNOWN, Attributes, attributes_of, read_attributes
from utils.data.dataset import fold_of, load_pixels, parts_of_rows, read_tables
from utils.data.folders import PhotoFolder
from utils.data.photos import letterbox, read_rgb
from utils.data.tables import read_table

INPUTS = int(os.environ.get("FAULT_INPUTS", 200))
SHOP = {
    "image": "file",
    "train": {"table": "products.csv", "photos": "photos"},
    "val": 0.2,
    "unknown": ["", "n/a"],
    "attributes": {
        "sleeve": {
            "column": "sleeve_type",
            "names": {"ko": "소매"},
            "classes": {
                "none": {"prompt": "a photo of a sleeveless garment"},
                "short": {"names": {"ko": "반팔"}, "prompt": ["a photo of short sleeves", "a t-shirt"]},
                "Very  long": {},
            },
        }
    },
}
NAMES = ["type", "keys", "file", "images", "split", "score", "image_name", "a.b", "sleeve type", "가 {x}"]


def shop(**changes):
    return Attributes({**SHOP, **changes}, "shop.json")


def one(**changes):
    """A file with the attribute `sleeve` changed."""
    return {**SHOP, "attributes": {"sleeve": {**SHOP["attributes"]["sleeve"], **changes}}}


def listed(**changes):
    """An attribute of a column whose cells are lists."""
    return {"column": "tags", "contains": "Long  Sleeve", "separator": "|", **changes}


def with_listed(**changes):
    """A file with such an attribute."""
    return {**SHOP, "attributes": {"long": listed(**changes)}}


def deep(levels):
    value = []
    for _ in range(levels):
        value = [value]
    return value


def refused(content, *parts):
    with pytest.raises(UserError) as error:
        Attributes(content, "shop.json")
    message = str(error.value)
    assert message.startswith("shop.json: ") and "\n" not in message and len(message) < 500
    assert all(part in message for part in parts), message


# --- the file ----------------------------------------------------------------------------------------


def test_what_a_file_says():
    sleeve, layout = shop()["sleeve"], shop().layout
    assert (sleeve.column, sleeve.short, sleeve.classes) == (
        "sleeve_type", "sleeve", ("none", "short", "Very  long"),
    )  # fmt: skip
    assert sleeve.prompts == (
        ("a photo of a sleeveless garment",),
        ("a photo of short sleeves", "a t-shirt"),
        ("a photo of a garment, sleeve: Very  long",),
    )
    assert sleeve.names == {"ko": ("none", "반팔", "Very  long")} and shop().languages() == ["ko"]
    assert layout.parts == dict.fromkeys(["train", "val"], ("products.csv", "photos"))
    assert layout.shares == {"val": 0.2}
    assert (layout.image, layout.unknown, layout.exif, layout.box) == ("file", ("", "n/a"), False, None)


def test_only_attributes_are_required():
    content = {"attributes": {"kind": {"classes": {"a": {}, "b": {}}}}}
    attributes = Attributes(content, "shop.json")
    layout = attributes.layout
    assert attributes["kind"][:3] == ("kind", "kind", ("a", "b"))
    assert layout.parts == {"train": ("train.csv", "train"), "val": ("val.csv", "val")}
    assert (layout.image, layout.unknown, layout.exif, layout.encoding) == ("image_name", (), False, "utf-8")
    assert layout.group is None and layout.shares == {} and attributes.sizes == {"kind": 2}


def test_the_competitions_are_a_file_of_the_same_form():
    assert {key: (a.column, a.short, len(a.classes)) for key, a in ATTRIBUTES.items()} == {
        "daily": ("Daily", "daily", 6),
        "gender": ("Gender", "gender", 5),
        "embellishment": ("Embellishment", "embel", 3),
    }
    assert ATTRIBUTES.layout.unknown == () and not ATTRIBUTES.layout.exif


@pytest.mark.parametrize("name", NAMES)
def test_any_printable_name(name):
    attributes = Attributes({"attributes": {name: {"classes": {name: {}, "other": {}}}}}, "shop.json")
    assert attributes[name].classes == (name, "other") and attributes[name].column == name
    assert attributes[name].prompts[0] == (f"a photo of a garment, {name}: {name}",)


TITLES = {
    "baseColour": "Base colour", "sub_category": "Sub category", "Daily": "Daily", "daily": "Daily", "RGB": "RGB",
    "isUVProof": "IsUVProof", "productDisplayName": "Product display name", "T-shirt size": "T-shirt size",
    "_": "_", "종류": "종류", "éLan": "ÉLan", "size2Fit": "Size2 fit", "__type__": "Type",
}  # fmt: skip


def test_a_title_is_the_name_as_people_read_it():
    content = {"attributes": {name: {"classes": CLASSES} for name in TITLES}}
    assert {name: one.title for name, one in Attributes(content, "a").items()} == TITLES
    assert shop()["sleeve"].title == "Sleeve"
    assert (
        Attributes(one(title="how long the sleeves are"), "a")["sleeve"].title == "how long the sleeves are"
    )


CLASSES = {"a": {}, "b": {}}
WRONG = {
    "no object": ([], "the file: must be an object", "attributes"),
    "no attributes": ({}, "attributes: must be an object"),
    "none of them": ({"attributes": {}}, "attributes: must not be empty"),
    "a key": ({**SHOP, "atributes": 1}, "'atributes'", "there are name, image", "attributes"),
    "a far key": ({**SHOP, "zzz": 1}, "'zzz'", "there are name, image"),
    "a number for a key": ({**SHOP, 1: {}}, "unknown key '1'"),
    "an attribute's key": (one(colum="x"), "attributes.sleeve: unknown key 'colum'; there are column, short"),
    "a class's key": (one(classes={"a": {"promt": ""}, "b": {}}), "classes.a: unknown key 'promt'; there are prompt, names"),
    "a part's key": ({**SHOP, "train": {"foto": "x"}}, "train: unknown key 'foto'; there are table, photos"),
    "one class": (one(classes={"a": {}}), "attributes.sleeve.classes: 1 classes", "2 to 1,000"),
    "many classes": (one(classes={str(i): {} for i in range(1001)}), "1001 classes", "2 to 1,000"),
    "no classes": (one(classes={}), "attributes.sleeve.classes: must not be empty"),
    "a list of classes": (one(classes=["a", "b"]), "attributes.sleeve.classes", "must be an object"),
    "a class that is no object": (one(classes={"a": 1, "b": {}}), "classes.a: must be an object"),
    "twice by case": (one(classes={"Red": {}, "red": {}}), "'red' and 'Red'", "case, blanks or Unicode form"),
    "twice by blanks": (one(classes={"a  b": {}, " a b": {}}), "case, blanks or"),
    "twice by Unicode form": (one(classes={"caf\u00e9": {}, "cafe\u0301": {}}), "Unicode form"),
    "a slash": ({"attributes": {"a/b": {"classes": CLASSES}}}, "attributes.a/b", "'/'"),
    "a number for a name": ({"attributes": {1: {"classes": CLASSES}}}, "a name in attributes", "not int"),
    "a number for a class": (one(classes={1: {}, 2: {}}), "a name in attributes.sleeve.classes", "not int"),
    "unprintable": ({"attributes": {"a\x1b[2J": {"classes": CLASSES}}}, r"\x1b[2J"),
    "blank": ({"attributes": {" ": {"classes": CLASSES}}}, "a name in attributes"),
    "long": (one(classes={"a" * 201: {}, "b": {}}), "1 to 200 characters"),
    "an absolute table": ({**SHOP, "train": {"table": "/x.csv"}}, "train.table: must be a path relative to --data-dir, not '/x.csv'"),
    "absolute photos": ({**SHOP, "val": {"photos": "/x"}}, "val.photos: must be a path relative to --data-dir, not '/x'"),
    "unknown is a class": ({**SHOP, "unknown": ["NONE "]}, "attributes.sleeve: 'none'", "unknown", "remove one"),
    "unknown is a text": ({**SHOP, "unknown": ""}, "unknown: must be a list"),
    "unknown is a number": ({**SHOP, "unknown": [0]}, "unknown: must be a list"),
    "ignore is a class": (one(ignore=["x", "NONE "]), "attributes.sleeve: 'none' stands under ignore, too", "remove one"),
    "ignore is unknown": (one(ignore=["N/A "]), "attributes.sleeve: 'N/A ' stands under unknown, too", "remove one"),
    "ignore is a text": (one(ignore="x"), "attributes.sleeve.ignore: must be a list of cells", "not 'x'"),
    "ignore is a number": (one(ignore=[0]), "attributes.sleeve.ignore: must be a list"),
    "a title": (one(title=" "), "attributes.sleeve.title: must be a printable text"),
    **{f"val {v}": ({**SHOP, "val": v}, "val: ", "0.2") for v in (0, 1, -0.5, 20, float("nan"), float("inf"))},
    "val true": ({**SHOP, "val": True}, "val: must be an object"),
    "val enormous": ({**SHOP, "val": 10**5000}, "val: "),
    "a fold behind the last": ({**SHOP, "val": 0.2, "fold": 6}, "fold: needs a share val, times which it is at most 1"),
    "a fold of a table": ({**SHOP, "val": {}, "fold": 1}, "fold: needs a share val"),
    "a fold beside a share": ({**SHOP, "val": 0.2, "test": 0.2, "fold": 1}, "and no share test"),
    "half a fold": ({**SHOP, "val": 0.2, "fold": 1.5}, "fold: must be a whole number from 1 to 100, not float"),
    "an endless fold": ({**SHOP, "val": 0.2, "fold": 10**400}, "fold: must be a whole number from 1 to 100"),
    "nothing left to train on": ({**SHOP, "val": 0.5, "test": 0.5}, "val and test: 1 of the training table", "below 1"),
    "test true": ({**SHOP, "test": True}, "test: must be an object"),
    "a group that is no text": ({**SHOP, "group": 5}, "group: must be", "not int"),
    "a box of three": ({**SHOP, "box": ["a", "b", "c"]}, "box: must be a list of the names of 4 columns"),
    "a box of numbers": ({**SHOP, "box": [1, 2, 3, 4]}, "box: must be a list of the names of 4 columns"),
    "exif": ({**SHOP, "exif": "yes"}, "exif: must be true or false"),
    "encoding 5": ({**SHOP, "encoding": 5}, "encoding: must be"),
    "image": ({**SHOP, "image": None}, "image: must be", "NoneType"),
    "name": ({**SHOP, "name": ""}, "name: must be"),
    "no prompt": (one(classes={"a": {"prompt": []}, "b": {}}), "sleeve.classes.a.prompt", "one or more"),
    "an empty prompt": (one(classes={"a": {"prompt": ""}, "b": {}}), "sleeve.classes.a.prompt"),
    "prompts that are numbers": (one(classes={"a": {"prompt": [1]}, "b": {}}), "sleeve.classes.a.prompt", "one or more"),
    "names of a class": (one(classes={"a": {"names": ["b"]}, "b": {}}), "sleeve.classes.a.names", "must be an object"),
    "a name of a class": (one(classes={"a": {"names": {"ko": 5}}, "b": {}}), "sleeve.classes.a.names.ko", "not int"),
    "names of an attribute": (one(names={"ko": ""}), "attributes.sleeve.names.ko"),
    "no names": (one(names=[]), "attributes.sleeve.names"),
    "deep names": (one(names=deep(5000)), "attributes.sleeve.names"),
    "a deep name": ({**SHOP, "name": deep(5000)}, "name: must be", "not list"),
    "deep cells": ({**SHOP, "unknown": deep(5000)}, "unknown: must be"),
    "a separator alone": (one(separator="|"), "attributes.sleeve.separator: needs contains"),
    "no separator": (
        {**SHOP, "attributes": {"long": {"contains": "x"}}},
        "attributes.long.separator: must be the text between the values of a cell", '"|"', "NoneType",
    ),
    "a blank separator": (with_listed(separator=" "), "attributes.long.separator: must be", "not ' '"),
    "an empty separator": (with_listed(separator=""), "attributes.long.separator: must be", "not ''"),
    "a value that is no text": (with_listed(contains=["a"]), "attributes.long.contains: must be", "not list"),
    "no value": (with_listed(contains=" "), "attributes.long.contains: must be"),
    "two values": (with_listed(contains="a|b"), "attributes.long.contains: must be one value"),
    "a value that is ignored": (with_listed(ignore=["long sleeve"]), "attributes.long: 'Long  Sleeve' stands under ignore"),
    "a value that is unknown": (with_listed(contains=" N/A"), "attributes.long: ' N/A' stands under unknown"),
    "other classes": (with_listed(classes={"no": {}, "floral": {}}), "long.classes: unknown key 'floral'; there are no, yes"),
    "classes in capitals": (with_listed(classes={"Yes": {}}), "unknown key 'Yes'; there are no, yes"),
    "a class of a list": (with_listed(classes={"no": 5}), "attributes.long.classes.no: must be an object"),
    "classes that are null": (with_listed(classes=None), "attributes.long.classes: must be an object"),
    "shorts twice": (
        {"attributes": {"a": {"short": "b", "classes": CLASSES}, "b": {"classes": CLASSES}}},
        "attributes.b.short", "'b'",
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", WRONG)
def test_every_problem_is_one_line_with_its_place_and_the_way_out(kind):
    content, *parts = WRONG[kind]
    refused(content, *parts)


BROKEN = {
    "deep lists": "[" * 100_000,
    "deep objects": '{"attributes":' * 100_000,
    "twice": '{"attributes": {"a": {"classes": {"x": {}, "y": {}, "x": {}}}}}',
    "an attribute twice": '{"attributes": {"a": {}, "a": {}}}',
    "twice at the end of many": "{" + "".join(f'"{i}":0,' for i in range(150_000)) + '"149999":0}',
    "huge": " " * 2_500_000,
    "a long number": "1" * 5000,
    "half a character": '{"attributes": {"\\ud800": {"classes": {"a": {}, "b": {}}}}}',
    "nothing": "",
    "NaN": "NaN",
}


@pytest.mark.parametrize("kind", BROKEN)
def test_json_that_is_no_file_of_attributes(tmp_path, kind):
    path = tmp_path / "a.json"
    path.write_text(BROKEN[kind])
    with pytest.raises(UserError, match=r"^attributes .*a\.json: ") as error:
        read_attributes(path)
    assert "\n" not in str(error.value) and len(str(error.value)) < 500
    if "twice" in kind:
        assert "stands twice" in str(error.value)
    with pytest.raises(UserError, match=r"absent\.json"):
        read_attributes(tmp_path / "absent.json")


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                ["attributes", "classes", "prompt", "names", "val", "table", "a", "/", 1, None, (1, 2)]
            ),
            inner,
            max_size=3,
        )
    ),
    max_leaves=8,
)


def places(value):
    """(container, key) of every value in plain values."""
    pairs = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [place for key, inner in pairs for place in [(value, key), *places(inner)]]


@settings(max_examples=INPUTS, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.data())
def test_whatever_a_checkpoint_says_of_attributes_is_read_or_refused(data):
    content = copy.deepcopy(SHOP)
    content["attributes"]["long"] = listed(classes={"yes": {}})
    for _ in range(data.draw(st.integers(1, 2))):
        container, key = data.draw(st.sampled_from(places(content)))
        value = data.draw(VALUES)
        if isinstance(container, dict) and data.draw(st.booleans()):
            key = data.draw(
                st.sampled_from(
                    [
                        "box",
                        "group",
                        "contains",
                        "separator",
                        "ignore",
                        "title",
                        "exif",
                        "encoding",
                        "zzz",
                        1,
                        (1,),
                        None,
                    ]
                )
            )
        container[key] = value
    try:
        found = attributes_of({"attributes": content}, "checkpoint a.pt")
    except UserError as error:
        message = str(error)
        assert message.startswith("checkpoint a.pt: ") and "\n" not in message and len(message) < 1000
        return
    json.dumps(found.to_meta())  # as an exported file keeps it
    assert attributes_of({"attributes": found.to_meta()}, "again") == found


# --- several values in one cell ----------------------------------------------------------------------


def test_an_attribute_of_a_list_has_two_classes():
    found = Attributes(with_listed(), "shop.json")["long"]
    assert (found.column, found.short, found.classes, found.names) == ("tags", "long", ("no", "yes"), {})
    assert found.prompts == (
        ("a photo of a garment without Long  Sleeve",), ("a photo of a garment with Long  Sleeve",),
    )  # fmt: skip
    classes = {"yes": {"prompt": ["a", "b {value}"], "names": {"ko": "긴팔"}}}
    found = Attributes(with_listed(classes=classes), "shop.json")["long"]
    assert found.classes == ("no", "yes") and found.names == {"ko": ("no", "긴팔")}
    assert found.prompts == (("a photo of a garment without Long  Sleeve",), ("a", "b {value}"))
    column = {"tags": {"contains": "{x}", "separator": ", "}}
    found = Attributes({"attributes": column}, "shop.json")["tags"]
    assert found.column == "tags" and found.prompts[1] == ("a photo of a garment with {x}",)


@pytest.mark.parametrize("classes", [{}, {"classes": {}}, {"classes": {"yes": {}, "no": {"prompt": "old"}}}])
def test_prompts_of_a_list_in_place_of_the_files(tmp_path, classes):
    (tmp_path / "prompts.json").write_text(json.dumps({"long": ["n", ["y", "z"]]}))
    own = Attributes(with_listed(**classes), "shop.json")
    found = own.with_prompts(tmp_path / "prompts.json")
    assert found["long"].prompts == (("n",), ("y", "z")) and not own.differences(found)
    assert own["long"].prompts != found["long"].prompts, "the own content was changed"
    assert attributes_of(json.loads(json.dumps({"attributes": found.to_meta()})), "a.pt") == found


def test_cells_that_are_lists(products):
    cells = ["long sleeve", "a| LONG  sleeve |b", "a|long", "|a||", "yes", "1", "N/A", "", " | "]
    folder = products("file,tags\n" + "".join(f"{i}.jpg,{cell}\n" for i, cell in enumerate(cells)))
    found = labels(folder, Attributes(with_listed(), "shop.json"))
    assert list(found.values()) == [1, 1, 0, 0, 0, 0, UNKNOWN, UNKNOWN, UNKNOWN]
    with pytest.raises(UserError, match=r'line 9: tags is empty; "unknown": \[""\]'):
        labels(folder, Attributes({**with_listed(), "unknown": ["n/a"]}, "shop.json"))


def test_cells_that_are_ignored_teach_nothing(products):
    """They are compared as classes' names are, whole where cells are lists, and come before a class's number."""
    cells = ["none", " Skirt", "SKIRT", "1", "0", "01", ""]
    folder = products("file,sleeve_type\n" + "".join(f"{i}.jpg,{cell}\n" for i, cell in enumerate(cells)))
    attributes = Attributes(one(ignore=["skirt", "1"]), "shop.json")
    assert attributes["sleeve"].ignore == ("skirt", "1") and shop()["sleeve"].ignore == ()
    assert list(labels(folder, attributes).values()) == [0, *[UNKNOWN] * 3, 0, UNKNOWN, UNKNOWN]
    with pytest.raises(UserError, match=r'sleeve_type is  Skirt, which .* "ignore"'):
        labels(folder, shop())
    folder = products("file,tags\na.jpg,a|Long Sleeve\nb.jpg,A| long sleeve |b\nc.jpg,a\n")
    attributes = Attributes(with_listed(ignore=["a|long sleeve", "a"]), "shop.json")
    assert list(labels(folder, attributes).values()) == [UNKNOWN, 1, UNKNOWN]


def test_a_separator_of_several_characters(products):
    folder = products("file;tags\na.jpg;v-neck, red\nb.jpg;v-neck - red\n")
    for separator, expected in ((", ", [1, 0]), (" - ", [0, 1]), ("-", [0, 1])):
        content = with_listed(contains="red", separator=separator)
        assert list(labels(folder, Attributes(content, "shop.json")).values()) == expected


def test_several_attributes_of_one_column(products):
    folder = products("file,tags\na.jpg,floral|cotton\nb.jpg,cotton\nc.jpg,\n")
    each = {value: listed(contains=value) for value in ("floral", "cotton", "silk")}
    attributes = Attributes(
        {**SHOP, "attributes": {**each, "tags": {"classes": {"cotton": {}, "floral|cotton": {}}}}}, "s"
    )
    found = read_table(str(folder / "products.csv"), PhotoFolder(str(folder / "photos")), attributes)[1]
    assert {key: values.tolist() for key, values in found.items()} == {
        "floral": [1, 0, -1], "cotton": [1, 1, -1], "silk": [0, 0, -1], "tags": [1, 0, -1],
    }  # fmt: skip
    with pytest.raises(UserError, match=r"no column tags; there are file, x$"):
        labels(products("file,x\na.jpg,1\n"), attributes)


# --- in a checkpoint ---------------------------------------------------------------------------------


def test_to_a_checkpoint_and_back(tmp_path):
    net = Student(shop())
    meta = {**net.describe(), "attributes": shop().to_meta()}
    torch.save({"model": net.state_dict(), "meta": meta}, tmp_path / "a.pt")
    found = load_network(tmp_path / "a.pt")[0].attributes
    assert found == shop() and found.layout == shop().layout
    assert (
        attributes_of(json.loads(json.dumps({"attributes": shop().to_meta()})), "a.pt").layout
        == shop().layout
    )


def test_an_export_does_not_tell_where_the_data_set_is():
    meta = shop(group="product").to_meta(tables=False)
    assert not {"train", "val"} & set(meta) and meta["image"] == "file" and meta["group"] == "product"
    assert attributes_of({"attributes": meta}, "a.onnx") == shop()


def test_checkpoints_without_attributes_have_the_competitions():
    assert attributes_of({}, "a.pt") == ATTRIBUTES


def test_meta_that_are_none(tmp_path):
    net = Student(ATTRIBUTES)
    for attributes in ({1: 2}, [], {"attributes": {1: {}}}, {"attributes": deep(100)}):
        meta = {**net.describe(), "attributes": attributes}
        torch.save({"model": net.state_dict(), "meta": meta}, tmp_path / "a.pt")
        with pytest.raises(UserError, match=r"a\.pt: ") as error:
            load_network(tmp_path / "a.pt")
        assert "\n" not in str(error.value)


def test_prompts_in_place_of_the_files(tmp_path):
    (tmp_path / "shop.json").write_text(json.dumps(SHOP), encoding="utf-8")
    (tmp_path / "prompts.json").write_text(json.dumps({"sleeve": ["a", ["b", "c"], "d"]}))
    found = read_attributes(tmp_path / "shop.json", tmp_path / "prompts.json")
    assert found["sleeve"].prompts == (("a",), ("b", "c"), ("d",))
    assert found.layout == shop().layout and not found.differences(shop())
    for wrong in ({"sleeve": ["a", "b"]}, {"sleve": ["a", "b", "c"]}, {"sleeve": ["a", "b", 5]}):
        (tmp_path / "prompts.json").write_text(json.dumps(wrong))
        with pytest.raises(UserError, match=r"prompts\.json: .*sleeve"):
            read_attributes(tmp_path / "shop.json", tmp_path / "prompts.json")


def test_differences():
    other = Attributes(one(classes={"short": {}, "none": {"prompt": "x"}, "Very  long": {}}), "other.json")
    assert not shop().differences(other), "the order and the prompts do not matter"
    (line,) = shop().differences(Attributes(one(classes={"none": {}, "short": {}, "cap": {}}), "other.json"))
    assert "sleeve" in line and "Very  long" in line and "cap" in line
    assert len(shop().differences(ATTRIBUTES)) == 4


# --- tables ------------------------------------------------------------------------------------------


@pytest.fixture
def products(tmp_path):
    """A function that writes the shop's table."""
    (tmp_path / "photos").mkdir()

    def write(text, encoding="utf-8"):
        (tmp_path / "products.csv").write_bytes(text.encode(encoding))
        return tmp_path

    return write


def labels(folder, attributes):
    names, found, *_ = read_table(
        str(folder / "products.csv"), PhotoFolder(str(folder / "photos")), attributes
    )
    return dict(zip(names, next(iter(found.values())).tolist()))


@pytest.mark.parametrize("separator", [",", ";", "\t"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "cp949", "utf-16"])
def test_separators_and_encodings(products, separator, encoding):
    lines = [["file", "kleur, price" if separator == ";" else "price", "sleeve_type"]]
    lines += [["가.jpg", "1,5" if separator == ";" else "1", " NONE"], ["b.jpg", "", "very long "]]
    folder = products("\r\n".join(separator.join(line) for line in lines), encoding)
    attributes = shop(encoding="utf-8" if encoding == "utf-8-sig" else encoding)
    assert labels(folder, attributes) == {"가.jpg": 0, "b.jpg": 2}


@pytest.mark.parametrize("encoding", ["nonsense", "hex", "undefined", "가"])
def test_an_encoding_that_is_none(products, encoding):
    folder = products("file,sleeve_type\nx.jpg,none\n")
    with pytest.raises(UserError, match=r"products\.csv: not a readable CSV file \(.*encoding") as error:
        labels(folder, shop(encoding=encoding))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("said, encoding", [("utf-8", "cp949"), ("ascii", "utf-8")])
def test_another_encoding_than_it_says(products, said, encoding):
    folder = products("file,sleeve_type\n가나다.jpg,none\n", encoding)
    with pytest.raises(UserError, match=rf'products\.csv: no text in {said} .*"encoding": "cp949"') as error:
        labels(folder, shop(encoding=said))
    assert "\n" not in str(error.value)


HEADER = "file,title,sleeve_type"
SHIFTED = "cells, and the header has 3; a cell that holds ',' needs quotation marks"
SWALLOWED = "lines in one row; a quotation that begins there may not be closed"


@pytest.mark.parametrize(
    "lines, problem",
    [
        ([HEADER, "a.jpg,Coat,none", "b.jpg,Coat, warm,short"], f"line 3: 4 {SHIFTED}"),
        ([HEADER, "a.jpg,Coat", "b.jpg,Coat", "c.jpg,x,none"], f"2 bad rows, to be mended or removed; each problem with its first line:\n  line 2: 2 {SHIFTED}"),
        (["sep=,", HEADER, "a.jpg,x,y,none", "b.jpg,x,none"], f"line 3: 4 {SHIFTED}"),
        (["", ",,", HEADER, "a.jpg,x,y,none", "b.jpg,x,none"], f"line 4: 4 {SHIFTED}"),
        ([HEADER, "", 'a.jpg,"x\ny",none', "b.jpg,x,y,none"], f"line 5: 4 {SHIFTED}"),
        ([HEADER, 'a.jpg,"Coat,none', 'b.jpg,12",none', "c.jpg,x,none"], f"line 2: 2 {SWALLOWED}"),
        ([HEADER, 'a.jpg,"Coat,none', "b.jpg,x,none", 'c.jpg,"Coat",none'], f"line 2: 3 {SWALLOWED}"),
        ([HEADER, "a.jpg,x,none", 'b.jpg,x,"none', "c.jpg,x,none"], f"line 3: 2 {SWALLOWED}"),
        ([HEADER, 'a,"Coat,none', "b,x,none", 'c,12",none'], f"line 2: 3 {SWALLOWED}"),
        (["title,sleeve_type,file", '"x,none,a.jpg', 'Coat 12",none,b.JPG'], f"line 2: 2 {SWALLOWED}"),
        ([HEADER, *(f'{i}.jpg,{chr(34) * (i == 0)}x,none' for i in range(100_000))], "line 2: field larger than field limit (1048576); a quotation that begins"),
    ],
)  # fmt: skip
def test_rows_that_lost_their_form(products, lines, problem):
    with pytest.raises(UserError) as error:
        labels(products("\n".join(lines)), shop())
    assert problem in str(error.value)


@pytest.mark.parametrize(
    "lines",
    [
        [
            "file,title,sleeve_type",
            'a.jpg,"Coat, warm,\nlong, or,\n12"" long",short',
            "b.jpg,x,none",
        ],
        ["title,sleeve_type,file", '"Coat, warm\r\nand long",short,a.jpg', "x,none,b.jpg"],
        ["file,title,sleeve_type", 'a.jpg,"Coat" long,short', 'b.jpg,12",none'],
        ["file,sleeve_type,,", "a.jpg,short,,", "b.jpg,none"],
        ["sep=;", "file;sleeve_type", "a.jpg;short", "b.jpg;none", ";;"],
        ["file,sleeve_type", "a.jpg,short,, ", "", ",", "b.jpg,none,"],
        ["", "file;sleeve_type", "a.jpg;short", "b.jpg;none", ";;"],
        ["file,title,sleeve_type", f"a.jpg,{'x' * 200_000},short", f'b.jpg,"{"y," * 100_000}",none'],
    ],
)
def test_rows_that_only_look_odd(products, lines):
    assert labels(products("\n".join(lines) + "\n"), shop()) == {"a.jpg": 1, "b.jpg": 0}


@pytest.mark.parametrize(
    "content, kind",
    [
        (b"PK\x03\x04\x14\0\6\0", "a workbook"),
        (b"\xd0\xcf\x11\xe0\xa1\xb1", "an old workbook"),
        (b"PAR1\x15\4", "a Parquet file"),
        (b"\x1f\x8b\x08\0", "compressed"),
        (b"\xef\xbb\xbf\n<!DOCTYPE html><table>", "HTML or XML"),
        ("file,sleeve_type\na.jpg,none\n".encode("utf-16"), "in UTF-16"),
        ("file,sleeve_type\na.jpg,none\n".encode("utf-16-le"), "in UTF-16"),
        ("file,sleeve_type\na.jpg,none\n".encode("utf-16-be"), "in UTF-16"),
    ],
)
def test_files_that_are_no_tables(products, content, kind):
    folder = products("")
    (folder / "products.csv").write_bytes(content)
    said = rf'csv: not a readable CSV file: it is {kind}.*; save it as "CSV UTF-8"'
    with pytest.raises(UserError, match=said):
        labels(folder, shop())


# Name in the table, name on the disk.
SAME = [
    ("\uc0ac\uc9c4.jpg", "\u1109\u1161\u110c\u1175\u11ab.jpg"),
    ("\u1109\u1161/1.jpg", "\uc0ac/1.jpg"),
    ("a\\b\\1.JPG", "a/b/1.jpg"),
    ("1.jpg ", "1.jpg"),
    ("Red Coat /IMG_1.jpeg", "red coat/img_1.JPEG"),
    ("a\\1.jpg", "a\\1.jpg"),
    ("./a/1.jpg", "a/1.JPG"),
]
NEAR = [
    ("1.jpg", "sub/1.jpg"),
    ("shop/photos/1.jpg", "1.jpg"),
    ("C:\\shop\\1.jpg", "1.jpg"),
    ("1.jpg", "1.png"),
    ("img-1", "IMG_0001.jpg"),
]


@pytest.mark.parametrize("said, there", SAME + NEAR)
def test_names_of_photos_that_miss_by_a_little(products, said, there):
    """One and the same photo is found, and keeps the table's name; what only comes near is named."""
    folder = products(f"file,sleeve_type\n{said},none\n")
    photo = folder / "photos" / there
    photo.parent.mkdir(parents=True, exist_ok=True)
    photo.touch()
    attributes = shop(val={"table": "products.csv", "photos": "photos"})
    if (said, there) in NEAR:
        with pytest.raises(UserError, match=rf"; there is {there}$"):
            read_tables(str(folder), attributes, ("train",))
    else:
        split = read_tables(str(folder), attributes, ("train",))["train"]
        assert split.names == [said] and split.paths() == [str(photo)]


def test_a_name_that_could_be_several(products):
    folder = products("file,sleeve_type\na.jpg,none\n")
    for name in ("A.jpg", "a.JPG"):
        (folder / "photos" / name).touch()
    with pytest.raises(UserError, match=r"a\.jpg: no such file; there is A\.jpg, a\.JPG$"):
        read_tables(str(folder), shop(val={"table": "products.csv"}), ("train",))


def test_cells_that_say_nothing(products):
    folder = products("file,sleeve_type\na.jpg,\nb.jpg, N/A \nc.jpg,short\nd.jpg,\n")
    assert labels(folder, shop()) == {"a.jpg": UNKNOWN, "b.jpg": UNKNOWN, "c.jpg": 1, "d.jpg": UNKNOWN}
    with pytest.raises(UserError, match=r'line 2: sleeve_type is empty; "unknown": \[""\]'):
        labels(folder, shop(unknown=[]))


def test_na_and_none_are_values_like_others(products):
    classes = {"NA": {}, "None": {}, "nan": {}, "null": {}}
    folder = products("file,sleeve_type\n" + "".join(f"{i}.jpg,{name}\n" for i, name in enumerate(classes)))
    attributes = Attributes({**one(classes=classes), "unknown": [""]}, "shop.json")
    assert labels(folder, attributes) == {f"{i}.jpg": i for i in range(4)}


@pytest.mark.parametrize(
    "classes, cells, expected",
    [
        (["a", "b", "c"], ["0", "2", "01", "b"], [0, 2, 1, 1]),
        (["3", "2", "1"], ["1", "2", "3"], [2, 1, 0]),
        (["a", "b", "c"], ["1.0", "0.0", " 2.00"], [1, 0, 2]),
        (["36", "38"], ["38.0", "36"], [1, 0]),
        (["a", "b", "c"], ["1.5"], "is 1.5, which is no class; there are 0 a, 1 b"),
        (["nan", "infinity"], ["0", "1", "NaN"], [0, 1, 0]),
        (["b", "5"], ["0"], "is 0, which is no class; there are 0 b, 1 5"),
        (["b", "1.5"], ["1"], "is 1, which is no class"),
        (["a", "b"], ["2"], "is 2, which is no class; there are 0 a, 1 b"),
        (["a", "b"], ["-1"], "is -1, which is no class"),
    ],
)
def test_numbers_as_cells(products, classes, cells, expected):
    folder = products("file,sleeve_type\n" + "".join(f"{i}.jpg,{cell}\n" for i, cell in enumerate(cells)))
    attributes = Attributes(one(classes={name: {} for name in classes}), "shop.json")
    if isinstance(expected, list):
        assert list(labels(folder, attributes).values()) == expected
    else:
        with pytest.raises(UserError, match=f"line 2: sleeve_type {expected}"):
            labels(folder, attributes)


def test_columns_that_are_not_there_or_twice(products):
    folder = products("file,sleeve,price\na.jpg,none,1\n")
    with pytest.raises(UserError, match=r"no column sleeve_type; there are file, sleeve, price"):
        labels(folder, shop())
    with pytest.raises(UserError, match=r"no column product; there are"):
        labels(products("file,sleeve_type\na.jpg,none\n"), shop(group="product"))
    with pytest.raises(UserError, match=r"more than one column sleeve_type"):
        labels(products("file,sleeve_type,sleeve_type\na.jpg,none,short\n"), shop())


def test_the_columns_of_one_table_may_have_any_name(products):
    content = {"image": "photo", "attributes": {name: {"classes": CLASSES} for name in NAMES}}
    folder = products("photo," + ",".join(NAMES) + "\nx.jpg" + ",b" * len(NAMES) + "\n")
    attributes = Attributes(content, "shop.json")
    names, found, *_ = read_table(
        str(folder / "products.csv"), PhotoFolder(str(folder / "photos")), attributes
    )
    assert names == ["x.jpg"] and list(found) == NAMES
    assert all(values.tolist() == [1] for values in found.values())


# --- held out ----------------------------------------------------------------------------------------


def split_names(folder, attributes):
    tables = read_tables(str(folder), attributes, skip_unreadable=True)
    return {name: set(table.names) for name, table in tables.items()}


def rows(count):
    return "".join(f"{i:05d}.jpg,none,{i // 4}\n" for i in range(count))


def test_a_share_is_held_out_by_the_photos_name(products):
    header = "file,sleeve_type,product\n"
    few = split_names(products(header + rows(2000)), shop())
    assert not few["train"] & few["val"] and len(few["train"] | few["val"]) == 2000
    assert len(few["val"]) == pytest.approx(400, abs=60)
    lines = (header + "new.jpg,none,x\n" + rows(3000)).splitlines()
    many = split_names(products("\n".join([lines[0], *reversed(lines[1:])])), shop())
    assert few["val"] <= many["val"] and few["train"] <= many["train"], "another order, and more rows"


def test_the_photos_of_one_product_stay_together(products):
    folder = products("file,sleeve_type,product\n" + rows(2000) + "x.jpg,none,\ny.jpg,none,\n")
    parts = split_names(folder, shop(group="product"))
    groups = {part: {int(name[:5]) // 4 for name in names if name[0] == "0"} for part, names in parts.items()}
    assert not groups["train"] & groups["val"]
    assert len(groups["val"]) == pytest.approx(100, abs=35)


GROUPS = """file,sleeve_type,product
a/1.JPG,none,Seven \u00e9
a/2.JPG,none, seven  E\u0301
A/3.jpg,none,N/A
b.jpg,none,
"""


def test_rows_belong_together_as_names_of_classes_do(products):
    """A group differs from another by more than case and blanks, and a cell that says nothing is none."""
    for val in ({"table": "products.csv", "photos": "photos"}, 0.2):
        attributes = shop(group="product", val=val)
        groups = read_table(str(products(GROUPS) / "products.csv"), PhotoFolder("photos"), attributes)[2]
        assert groups == ["seven \u00e9", "seven \u00e9", "a/3.jpg", "b.jpg"]
    tables = read_tables(
        str(products(GROUPS)), shop(val=val, group="product"), ("train",), skip_unreadable=True
    )
    assert len(tables["train"].groups) == len(tables["train"].names)
    table = str(products(GROUPS) / "products.csv")
    assert read_table(table, PhotoFolder("photos"), shop())[2] == ["a/1.jpg", "a/2.jpg", "a/3.jpg", "b.jpg"]


def test_a_class_is_held_out_of_where_it_has_five_photos():
    groups, values = [str(i) for i in range(400)], np.zeros(400, np.int64)
    before = parts_of_rows(groups, [values], {"val": 0.2}) == "val"
    rare = np.flatnonzero(~before)[:9]
    values[rare[:5]], values[rare[5:]] = 1, 2  # five of one class, four of another
    moved = np.flatnonzero((parts_of_rows(groups, [values], {"val": 0.2}) == "val") != before)
    assert len(moved) == 1 and moved[0] in rare[:5]
    order = np.random.RandomState(0).permutation(400)
    again = parts_of_rows([groups[i] for i in order], [values[order]], {"val": 0.2}) == "val"
    assert set(order[again]) == set(np.flatnonzero(before)) | set(moved), "another order"
    together = [("one" if i in rare[:5] else group) for i, group in enumerate(groups)]
    assert (parts_of_rows(together, [values], {"val": 0.001})[rare[:5]] == "train").all(), (
        "none is left to train on"
    )


def test_a_third_part(products):
    folder = products("file,sleeve_type,product\n" + rows(2000))
    two, three = (read_all_parts(folder, shop(**more)) for more in ({}, {"test": 0.1}))
    assert three["val"] == two["val"], "a further share moves none of the others"
    assert not three["test"] & three["train"] and three["train"] | three["test"] == two["train"]
    assert len(three["test"]) == pytest.approx(200, abs=45)
    (folder / "last.csv").write_text("file,sleeve_type\n1.jpg,none\n")
    attributes = shop(test={"table": "last.csv", "photos": "photos"})
    assert read_all_parts(folder, attributes)["test"] == {"1.jpg"}
    assert set(read_tables(str(folder), attributes, skip_unreadable=True)) == {"train", "val"}, "unasked"
    with pytest.raises(UserError, match='the attributes have no "test"'):
        read_tables(str(folder), shop(), ("test",), skip_unreadable=True)


def read_all_parts(folder, attributes):
    parts = [part for part in PARTS if part in attributes.content]
    tables = read_tables(str(folder), attributes, parts, skip_unreadable=True)
    return {name: set(table.names) for name, table in tables.items()}


@pytest.mark.parametrize("count", [2, 3, 5, 7, 49, 100])
def test_each_row_is_held_out_by_one_fold(count):
    groups = [f"{i}.jpg" for i in range(20_000)]
    folds = fold_of(groups, count)
    assert sorted(set(folds)) == list(range(1, count + 1)) and folds.dtype.kind == "i"
    assert abs(np.bincount(folds)[1:] - 20_000 / count).max() < 5 * (20_000 / count) ** 0.5
    assert (fold_of(groups[::-1], count) == folds[::-1]).all()
    for number in {1, 2, count}:
        layout = shop().of_fold(f"{number}/{count}").layout
        parts = parts_of_rows(groups, [], layout.shares, layout.fold)
        assert ((parts == "val") == (folds == number)).all() and set(parts) == {"train", "val"}


def test_the_last_fold_has_the_highest_hash(monkeypatch):
    monkeypatch.setattr("utils.data.dataset._hashes", lambda groups: np.array([0, 1 - 2**-48]))
    for count in range(2, 101):
        assert fold_of("ab", count).tolist() == [1, count]


def test_a_fold_goes_by_the_hash_alone(products):
    """Also where a class would have no photo held out, or all of them; a table of val plays no part, nor a share test."""
    folder = products(
        "file,sleeve_type,product\n" + rows(2000) + "".join(f"x{i}.jpg,Very long,9\n" for i in range(9))
    )
    table = read_table(
        str(folder / "products.csv"), PhotoFolder(str(folder / "photos")), shop(group="product")
    )
    folds = fold_of(table[2], 5)
    seen = []
    for number in range(1, 6):
        for val in (0.2, {"table": "none.csv", "photos": "none"}):
            attributes = shop(group="product", val=val, test=0.1).of_fold(f"{number}/5")
            parts = split_names(folder, attributes)
            assert parts["val"] == {name for name, fold in zip(table[0], folds) if fold == number}
            assert parts["train"] == set(table[0]) - parts["val"]
        seen += parts["val"]
        assert len({name for name in parts["val"] if name[0] == "x"}) in (0, 9)
    assert len(seen) == len(set(seen)) == 2009
    kept = shop(test={"table": "last.csv", "photos": "photos"}).of_fold("1/5")
    assert "test" in kept.layout.parts and Attributes(kept.to_meta(), "meta").layout == kept.layout
    assert Attributes(kept.to_meta(tables=False), "meta").layout.fold is None


def test_a_share_that_leaves_nothing(products):
    with pytest.raises(UserError, match=r"products\.csv: too few rows: .* leave none for val"):
        split_names(products("file,sleeve_type\n1.jpg,none\n"), shop())


# --- pixels ------------------------------------------------------------------------------------------


@pytest.fixture
def photographed(products):
    """A table of 20 photos that their EXIF turns."""
    folder = products("file,sleeve_type\n" + "".join(f"{i}.jpg,none\n" for i in range(20)))
    exif = Image.Exif()
    exif[0x0112] = 6
    for i in range(20):
        Image.new("RGB", (40, 20), (12 * i, 100, 0)).save(folder / "photos" / f"{i}.jpg", exif=exif)
    return folder


def pixels(folder, attributes, skip=False):
    tables = read_tables(str(folder), attributes, skip_unreadable=skip)
    return load_pixels(tables, str(folder / "cache"), skip)


@pytest.mark.parametrize("exif", [False, True])
def test_photos_are_turned_as_their_exif_says_where_the_file_says_so(photographed, exif):
    tables, photos = pixels(photographed, shop(exif=exif))
    for name, table in tables.items():
        image = photos[name][0]
        assert image[112, 20].any() == (not exif) and image[20, 112].any() == exif
        first = read_rgb(photographed / "photos" / table.names[0], exif)
        assert first.shape == ((40, 20, 3) if exif else (20, 40, 3))
        assert np.array_equal(image, letterbox(first))
    _, other = pixels(photographed, shop(exif=not exif))
    assert not np.array_equal(other["train"], photos["train"])


def test_two_tables_over_the_same_photos_share_their_arrays(photographed):
    shutil.copy(photographed / "products.csv", photographed / "b.csv")
    with open(photographed / "b.csv") as file:
        lines = file.readlines()
    (photographed / "b.csv").write_text("".join(lines[:1] + lines[2:]))
    other = shop(train={"table": "b.csv", "photos": "photos"})
    pixels(photographed, shop())
    first = set(os.listdir(photographed / "cache"))
    pixels(photographed, other)
    assert set(os.listdir(photographed / "cache")) == first


def test_unreadable_photos_are_left_out_where_that_is_asked_for(photographed):
    (photographed / "photos" / "3.jpg").write_bytes(b"no photo")
    (photographed / "photos" / "4.jpg").unlink()
    with pytest.raises(UserError, match=r"1 photo .* missing; with --skip-unreadable"):
        pixels(photographed, shop())
    tables, photos = pixels(photographed, shop(), skip=True)
    left_out = [line for table in tables.values() for line in table.unreadable]
    assert len(left_out) == 2 and "3.jpg" in "".join(left_out) and "4.jpg: no such file" in "".join(left_out)
    assert sum(len(table.names) for table in tables.values()) == 18
    for part, table in tables.items():
        assert len(photos[part]) == len(table.names) == len(table.labels["sleeve"])
        for name, image in zip(table.names, photos[part]):
            assert np.array_equal(image, letterbox(read_rgb(photographed / "photos" / name)))


def test_a_photo_that_may_be_read_again_is_read(photographed):
    """A change of rights leaves its size and time as they were."""
    path = photographed / "photos" / "3.jpg"
    if os.access("/etc/shadow", os.R_OK):  # the superuser reads everything: stand in for what is refused
        content, stat = path.read_bytes(), path.stat()
        path.write_bytes(bytes(len(content)))
        os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    path.chmod(0)
    with pytest.raises(UserError, match=r"1 photo cannot be read"):
        pixels(photographed, shop())
    if os.access("/etc/shadow", os.R_OK):
        path.write_bytes(content)
        os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    path.chmod(0o644)
    assert not any(split.unreadable for split in pixels(photographed, shop())[0].values())


@pytest.mark.parametrize("error", [OSError(5, "Input/output error"), MemoryError()])
def test_what_a_photo_is_not_to_blame_for_is_not_kept(photographed, monkeypatch, error):
    def fails(*_):
        raise error

    with monkeypatch.context() as patch:
        patch.setattr("utils.data.photos.read_rgb", fails)
        with pytest.raises(
            UserError, match=r"^photo .*\.jpg: .*(Input/output error|MemoryError); run it again"
        ):
            pixels(photographed, shop(), skip=True)
    assert not any(split.unreadable for split in pixels(photographed, shop())[0].values())


def test_equal_problems_of_a_table_are_one_line(products):
    cells = ["dress"] * 30 + ["none", "hat"]
    folder = products("file,sleeve_type\n" + "".join(f"{i}.jpg,{cell}\n" for i, cell in enumerate(cells)))
    with pytest.raises(UserError, match="31 bad rows, to be") as error:
        labels(folder, shop())
    first, second = str(error.value).splitlines()[1:]
    assert first.startswith("  line 2: sleeve_type is dress, which is no class")
    assert second.startswith("  line 33: sleeve_type is hat, which is no class")


def test_no_photo_can_be_read(photographed):
    for path in (photographed / "photos").iterdir():
        path.write_bytes(b"")
    with pytest.raises(UserError, match="none of the photos of train can be read"):
        pixels(photographed, shop(), skip=True)
