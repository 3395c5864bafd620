"""The attributes that are predicted, as a JSON file describes them: read, checked, and kept in checkpoints.

The file's form is described in docs/attributes.md. Without one, the attributes are those of fashion_how.json.
"""

import copy
import math
import os
import re
import unicodedata
from typing import Dict, NamedTuple, Optional, Tuple

from utils.base.errors import UserError, excerpt
from utils.base.files import read_json

FASHION_HOW = os.path.join(os.path.dirname(__file__), "fashion_how.json")
PROMPT = "a photo of a garment, {attribute}: {name}"  # of a class that has none in the file
# The classes of an attribute with `contains`, in label order, and their prompts.
CONTAINS = {"no": "a photo of a garment without {value}", "yes": "a photo of a garment with {value}"}
MAX_CLASSES = 1000
MAX_NAME = 200  # characters
# Keys of the file, and of an attribute.
FILE = "name image train val test fold group unknown box exif encoding attributes".split()
ATTRIBUTE = ("column", "short", "title", "names", "classes", "contains", "separator", "ignore")
PARTS = ("train", "val", "test")  # of a data set
UNKNOWN = -1  # the label of a cell that says nothing
HUMP = re.compile("(?<=[a-z0-9])[A-Z](?=[a-z])")  # where a new word begins in a name such as baseColour


class Attribute(NamedTuple):
    """One attribute of a garment."""

    column: str  # in the table
    short: str  # in the header of predictions, and in published checkpoints
    classes: Tuple[str, ...]  # in label order
    prompts: Tuple[Tuple[str, ...], ...]  # of each class, one or more sentences
    names: Dict[str, Tuple[str, ...]]  # language -> name of each class; its own where it has none
    contains: Optional[str] = None  # the value that makes a cell "yes", where cells are lists
    separator: Optional[str] = None  # of such lists
    title: str = ""  # its name as people read it
    ignore: Tuple[str, ...] = ()  # cells that are no class, and teach nothing


class Part(NamedTuple):
    """Where a part of the data set is, relative to --data-dir."""

    table: str
    photos: str


class Layout(NamedTuple):
    """What the file says of tables and photos."""

    parts: Dict[str, Part]  # name -> where its rows are: those of a share in the training table
    shares: Dict[str, float]  # part -> its share of the training table, 0 to 1
    image: str = "image_name"  # column with the photo's name
    group: Optional[str] = None  # column: photos with the same value belong together; None: the photo's name
    unknown: Tuple[str, ...] = ()  # cells that mean "not known"
    box: Optional[Tuple[str, ...]] = None  # columns xmin, ymin, xmax, ymax, in photo pixels
    exif: bool = False  # whether photos are turned as their EXIF says
    encoding: str = "utf-8"  # of the tables
    fold: Optional[int] = None  # which of the parts as large as val is held out, from 1

    def part(self, name):
        """A part of the data set. Raises: UserError if there is none of this name."""
        if name not in self.parts:
            raise UserError(f'the attributes have no "{name}", a table with its photos or a share of train')
        return self.parts[name]


class Attributes(Dict[str, Attribute]):
    """Name -> Attribute, in the file's order, and the `layout` of the data set.

    Args: `content` of a file; `source`, its name, for messages.
    Raises: UserError that names the place of the first problem, and the way out.
    """

    def __init__(self, content, source):
        try:
            _check_file(content)
        except ValueError as error:
            raise UserError(f"{source}: {error}") from error
        found = {name: _with_classes(value) for name, value in content["attributes"].items()}
        self.content = {**content, "attributes": found}  # plain values, as they are kept in checkpoints
        said = {key: content[key] for key in Layout._fields if key in content}
        said.update({key: tuple(said[key]) for key in ("unknown", "box") if key in said})
        shares, parts = _shares(content), {}
        for name in [name for name in PARTS if name in content or name != "test"]:
            own = "train" if name in shares else name
            about = content.get(own, {})
            parts[name] = Part(about.get("table", f"{own}.csv"), about.get("photos", own))
        self.layout = Layout(parts, shares, **said)
        super().__init__({name: _attribute(name, value) for name, value in found.items()})

    @property
    def sizes(self):
        """Name -> number of classes."""
        return sizes_of(self)

    def languages(self):
        """Languages that classes have names in, besides their own."""
        return sorted({language for attribute in self.values() for language in attribute.names})

    def to_meta(self, tables=True):
        """Plain values for a checkpoint; without `tables`, nothing about where the data set is."""
        return {k: v for k, v in self.content.items() if tables or k not in (*PARTS, "fold")}

    def with_prompts(self, path):
        """The same with the prompts of a JSON file: name -> for each class, in label order, a sentence or a list of them."""
        prompts, source = read_json(path, "prompts"), f"prompts {path}"
        if not isinstance(prompts, dict) or set(prompts) != set(self):
            raise UserError(f"{source}: must be an object {', '.join(self)} -> list of sentences")
        content = copy.deepcopy(self.content)
        for name, attribute in content["attributes"].items():
            sentences, classes = prompts[name], attribute["classes"].values()
            if not isinstance(sentences, list) or len(sentences) != len(classes):
                raise UserError(f"{source}: {name}: must be {len(classes)} sentences, in label order")
            for details, sentence in zip(classes, sentences):
                details["prompt"] = sentence
        return Attributes(content, source)

    def of_fold(self, fold):
        """The same where the K-th of N parts of the training table is held out for validation. Args: `fold`, a text "K/N"."""
        number, count = map(int, fold.split("/"))
        kept = {key: value for key, value in self.content.items() if key != "test" or isinstance(value, dict)}
        return Attributes({**kept, "val": 1 / count, "fold": number}, f"--fold {fold}")

    def differences(self, other):
        """Lines that say how the other's attributes and classes differ from these, in whatever order they are."""
        first, second = unknown_classes(self, other), unknown_classes(other, self)
        lines = []
        for key in {**first, **second}:
            a, b = (", ".join(one.get(key, ["none"])) for one in (first, second))
            lines.append(f"{key}: classes of the first only: {a}; of the second only: {b}")
        return lines


def sizes_of(attributes):
    """Name -> number of classes. Args: name -> Attribute."""
    return {name: len(attribute.classes) for name, attribute in attributes.items()}


def places(classes, others):
    """Where each of these names stands among the others, by `plain_name`; None for one that is not there."""
    numbers = {plain_name(name): number for number, name in enumerate(others)}
    return [numbers.get(plain_name(name)) for name in classes]


def unknown_classes(attributes, others):
    """Attribute -> names of its classes that the others do not have, where there are such. Args: both name -> Attribute."""
    unknown = {}
    for key, attribute in attributes.items():
        found = places(attribute.classes, others[key].classes if key in others else ())
        unknown[key] = [name for name, place in zip(attribute.classes, found) if place is None]
    return {key: names for key, names in unknown.items() if names}


def named(classes):
    """For the log: attribute -> names of its classes."""
    return ", ".join(f"{key} ({excerpt(', '.join(names))})" for key, names in classes.items()) or "none"


def _shares(content):
    return {name: float(content[name]) for name in PARTS if not isinstance(content.get(name, {}), dict)}


def _with_classes(value):
    """An attribute of the file; one with `contains` gets its two classes, in label order."""
    if "contains" not in value:
        return value
    said, classes = value.get("classes", {}), {}
    for one, prompt in CONTAINS.items():
        classes[one] = {"prompt": prompt.format(value=value["contains"]), **said.get(one, {})}
    return {**value, "classes": classes}


def _attribute(name, value):
    prompts, names = [], {}
    for number, (one, details) in enumerate(value["classes"].items()):
        prompt = details.get("prompt", PROMPT.format(attribute=name, name=one))
        prompts.append(tuple(prompt) if isinstance(prompt, list) else (prompt,))
        for language, other in details.get("names", {}).items():
            names.setdefault(language, list(value["classes"]))[number] = other
    said = {"column": name, "short": name, "title": title_of(name), "ignore": (), **value}
    said.update(classes=tuple(value["classes"]), prompts=tuple(prompts), ignore=tuple(said["ignore"]))
    said["names"] = {language: tuple(others) for language, others in names.items()}
    return Attribute(**said)


def read_attributes(path=None, prompts=None):
    """The attributes of a JSON file, the competition's without one; `prompts`, a JSON file of others in place of its own."""
    path = FASHION_HOW if path is None else path
    attributes = Attributes(read_json(path, "attributes"), f"attributes {path}")
    return attributes if prompts is None else attributes.with_prompts(prompts)


def attributes_of(meta, source):
    """The attributes of a checkpoint or an exported file; the competition's where the meta do not say."""
    said = meta.get("attributes")
    return read_attributes() if said is None else Attributes(said, source)


def plain_name(text):
    """A name without what does not tell it from others: case, blanks, and how Unicode composes its letters."""
    return unicodedata.normalize("NFC", " ".join(text.split()).casefold())


def title_of(name):
    """A name as people read it: of baseColour and sub_category, Base colour and Sub category."""
    title = " ".join(HUMP.sub(lambda found: f" {found[0].lower()}", name.replace("_", " ")).split()) or name
    return title[0].upper() + title[1:]


def is_number(text):
    """Whether a text is a number; "nan" and "infinity" are words."""
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False


def is_text(value, most=MAX_NAME):
    """Whether a value is a printable text of 1 to `most` characters, not all of them blanks."""
    return isinstance(value, str) and bool(value.strip()) and len(value) <= most and value.isprintable()


# --- checks ------------------------------------------------------------------------------------------


def _check_file(content):
    """ValueError of one line, which says where, for a file that has not its form, or whose parts do not go together."""
    for key, value, where in _items(content, "", FILE):
        if key == "train" or (key in PARTS and isinstance(value, dict)):
            for inner, path, at in _items(value, where, Part._fields):
                _check(inner, path, at)
        elif key != "attributes":
            _check(key, value, where)
    held_out = sum(_shares(content).values())
    _need(held_out < 1, "val and test", f"{held_out:g} of the training table; together they must be below 1")
    fits = "fold" not in content or (list(_shares(content)) == ["val"] and content["fold"] * held_out <= 1)
    _need(fits, "fold", "needs a share val, times which it is at most 1, and no share test")

    unknown, shorts = set(map(plain_name, content.get("unknown", []))), {}
    for name, value, where in _items(content.get("attributes"), "attributes"):
        _need("/" not in name, where, "a name must not hold '/'; give another, and the table's own as column")
        _check_attribute(value, where)
        short, seen = value.get("short", name), {}
        ignored = set(map(plain_name, value.get("ignore", [])))
        other = shorts.setdefault(short, name)
        _need(other == name, f"{where}.short", f"{short!r} is that of {other}, too; change one of the two")
        for one in [value["contains"]] if "contains" in value else value["classes"]:
            other = seen.setdefault(plain_name(one), one)
            twice = f"{one!r} and {other!r} differ by case, blanks or Unicode form only"
            _need(other == one, f"{where}.classes", twice)
            _need(plain_name(one) not in ignored, where, f"{one!r} stands under ignore, too; remove one")
        for one in [*seen.values(), *value.get("ignore", [])]:
            _need(plain_name(one) not in unknown, where, f"{one!r} stands under unknown, too; remove one")


def _check_attribute(value, where):
    is_list = isinstance(value, dict) and "contains" in value
    for key, said, at in _items(value, where, ATTRIBUTE, ["separator" if is_list else "classes"]):
        if key != "classes":
            _check(key, said, at)
            continue
        for _, details, its in _items(said, at, tuple(CONTAINS) if is_list else ()):
            for inner, one, place in _items(details, its, ("prompt", "names")):
                _check(inner, one, place)
        fits = is_list or 2 <= len(said) <= MAX_CLASSES
        _need(fits, at, f"{len(said)} classes; there must be 2 to {MAX_CLASSES:,}")
    _need(is_list or "separator" not in value, f"{where}.separator", "needs contains, the value to look for")
    one_value = not is_list or value["separator"] not in value["contains"]
    _need(one_value, f"{where}.contains", "must be one value, without separator")


def _check(key, value, where):
    """ValueError if a value is not what its key asks for."""
    wanted, fits = f"a printable text of 1 to {MAX_NAME} characters", is_text(value)
    if key == "names":
        for _, name, at in _items(value, where):
            _check("name", name, at)
        return
    if key in ("table", "photos"):
        wanted, fits = "a path relative to --data-dir", is_text(value, 1000) and not os.path.isabs(value)
    elif key in ("val", "test"):
        wanted = "an object, or a share of the training table above 0 and below 1, such as 0.2"
        fits = type(value) in (int, float) and 0 < value < 1
    elif key == "fold":
        wanted, fits = "a whole number from 1 to 100", type(value) is int and 1 <= value <= 100
    elif key in ("unknown", "ignore"):
        wanted = 'a list of cells, such as ["", "n/a"]'
        fits = isinstance(value, list) and all(isinstance(cell, str) for cell in value)
    elif key == "box":
        wanted = "a list of the names of 4 columns"
        fits = isinstance(value, list) and len(value) == 4 and all(map(is_text, value))
    elif key == "exif":
        wanted, fits = "true or false", isinstance(value, bool)
    elif key == "separator":
        wanted = 'the text between the values of a cell, such as "|"'
    elif key == "prompt":
        wanted = "a text of 1 to 1000 characters, or a list of one or more such texts"
        fits = all(is_text(one, 1000) for one in (value if isinstance(value, list) and value else [value]))
    # Of other things than texts only the kind is told: they may be deep, or enormous.
    found = excerpt(ascii(value[:100])) if isinstance(value, str) else type(value).__name__
    _need(fits, where, f"must be {wanted}, not {found}")


def _items(value, where, known=(), required=()):
    """Yields (key, value, where it stands) of an object. Args: the `known` keys; without, they are names of the user's."""
    _need(isinstance(value, dict), where, f"must be an object of {', '.join(known) or 'name -> value'}")
    _need(value or known, where, "must not be empty")
    for key, inner in {**dict.fromkeys(required), **value}.items():
        if not known:
            _check("name", key, f"a name in {where}")
        elif key not in known:
            _need(False, where, f"unknown key {excerpt(str(key))!r}; there are {', '.join(known)}")
        yield key, inner, f"{where}.{key}" if where else key


def _need(holds, where, problem):
    if not holds:
        raise ValueError(f"{where or 'the file'}: {problem}")
