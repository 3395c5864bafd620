"""The attributes that are predicted, as a JSON file describes them: read, checked, and kept in checkpoints.

The file's form is described in docs/attributes.md. Without one, the attributes are those of fashion_how.json.
"""

import copy
import json
import math
import os
from difflib import get_close_matches
from typing import Dict, NamedTuple, Optional, Tuple

from utils.errors import UserError, excerpt

FASHION_HOW = os.path.join(os.path.dirname(__file__), "fashion_how.json")
PROMPT = "a photo of a garment, {attribute}: {name}"  # of a class that has none in the file
MAX_CHARACTERS = 2_000_000  # of a JSON file
MAX_CLASSES = 1000
MAX_NAME = 200  # characters
UNKNOWN = -1  # the label of a cell that says nothing

# The keys of a file, an attribute, a class, and a part of the data set.
FILE_KEYS = ("name", "image", "train", "val", "group", "unknown", "box", "exif", "encoding", "attributes")
ATTRIBUTE_KEYS = ("column", "short", "names", "classes")
CLASS_KEYS = ("prompt", "names")
PART_KEYS = ("table", "photos")


class Attribute(NamedTuple):
    """One attribute of a garment."""

    column: str  # in the table
    short: str  # in the header of predictions, and in published checkpoints
    classes: Tuple[str, ...]  # in label order
    prompts: Tuple[Tuple[str, ...], ...]  # of each class, one or more sentences
    names: Dict[str, Tuple[str, ...]]  # language -> name of each class; its own where it has none

    def numbers(self):
        """What a cell may hold, see `plain_name` -> the class's number."""
        numbers = {plain_name(name): number for number, name in enumerate(self.classes)}
        if not any(map(is_number, self.classes)):
            numbers.update({str(number): number for number in range(len(self.classes))})
        return numbers


class Part(NamedTuple):
    """Where a part of the data set is, relative to --data-dir."""

    table: str
    photos: str


class Layout(NamedTuple):
    """What the file says of tables and photos."""

    train: Part
    val: Optional[Part]  # None: a share of the training table is held out
    share: float  # of it, 0 to 1
    group: Optional[str]  # column whose value decides what is held out; None: the photo's name
    image: str  # column with the photo's name
    unknown: Tuple[str, ...]  # cells that mean "not known"
    box: Optional[Tuple[str, ...]]  # columns xmin, ymin, xmax, ymax, in photo pixels
    exif: bool  # whether photos are turned as their EXIF says
    encoding: str  # of the tables


class Attributes(Dict[str, Attribute]):
    """Name -> Attribute, in the file's order, and the `layout` of the data set.

    Args: `content` of a file; `source`, its name, for messages.
    Raises: UserError that names the place of the first problem, and the way out.
    """

    def __init__(self, content, source):
        check = _Check(source)
        check.keys(content, FILE_KEYS, "the file")
        self.content = content  # plain values, as they are kept in checkpoints
        self.layout = _read_layout(content, check)
        attributes = check.mapping(content.get("attributes"), "attributes", "name -> attribute")
        super().__init__({name: _read_attribute(name, value, check) for name, value in attributes.items()})
        known = {plain_name(value) for value in self.layout.unknown}
        shorts = {
            attribute.short: name for name, attribute in self.items()
        }  # the last of those that share one
        for name, attribute in self.items():
            if shorts[attribute.short] != name:
                place = f"attributes.{shorts[attribute.short]}.short"
                check.fail(place, f"{attribute.short!r} is that of {name}, too; give one of the two another")
            for value in filter(known.__contains__, map(plain_name, attribute.classes)):
                check.fail(f"attributes.{name}", f"{value!r} is a class and stands under unknown; remove one")

    @property
    def sizes(self):
        """Name -> number of classes."""
        return {name: len(attribute.classes) for name, attribute in self.items()}

    def languages(self):
        """Languages that classes have names in, besides their own."""
        return sorted({language for attribute in self.values() for language in attribute.names})

    def to_meta(self, tables=True):
        """Plain values for a checkpoint; without `tables`, nothing about where the data set is."""
        return {k: v for k, v in self.content.items() if tables or k not in ("train", "val", "group")}

    def with_prompts(self, prompts, source):
        """The same with other prompts: name -> for each class, in label order, a sentence or a list of them."""
        if not isinstance(prompts, dict) or set(prompts) != set(self):
            raise UserError(
                f"{source}: needs an object with the keys {', '.join(self)}, each a list of sentences"
            )
        content = copy.deepcopy(self.content)
        for name, attribute in self.items():
            sentences, count = prompts[name], len(attribute.classes)
            if not isinstance(sentences, (list, tuple)) or len(sentences) != count:
                raise UserError(
                    f"{source}: {name} needs {count} sentences, one for each class in label order"
                )
            for value, sentence in zip(content["attributes"][name]["classes"].values(), sentences):
                value["prompt"] = list(sentence) if isinstance(sentence, tuple) else sentence
        return Attributes(content, source)

    def differences(self, other):
        """Lines that say how the other's attributes and classes differ from these, in whatever order they are."""
        lines = [f"{name}: only the first has it" for name in self if name not in other]
        lines += [f"{name}: only the second has it" for name in other if name not in self]
        for name in filter(other.__contains__, self):
            first, second = set(self[name].classes), set(other[name].classes)
            if first != second:
                apart = [", ".join(sorted(a - b)) or "none" for a, b in ((first, second), (second, first))]
                lines.append(
                    f"{name}: classes of the first alone: {apart[0]}; of the second alone: {apart[1]}"
                )
        return lines


def read_attributes(path=None, prompts=None):
    """The attributes of a JSON file, the competition's without one; `prompts`, a JSON file of others in place of its own."""
    path = FASHION_HOW if path is None else path
    attributes = Attributes(read_json(path, "attributes"), f"attributes {path}")
    if prompts is not None:
        attributes = attributes.with_prompts(read_json(prompts, "prompts"), f"prompts {prompts}")
    return attributes


def attributes_of(meta, source):
    """The attributes of a checkpoint or an exported file; the competition's where the meta do not say."""
    if meta.get("attributes") is not None:
        return Attributes(meta["attributes"], source)
    attributes = read_attributes()
    return attributes.with_prompts(meta["prompts"], source) if meta.get("prompts") is not None else attributes


def read_json(path, what):
    """Content of a JSON file. Raises: UserError, also where an object has a name twice."""

    def unique(pairs):
        found = {}
        for name, value in pairs:
            if name in found:
                raise ValueError(f"{excerpt(name)!r} stands twice in one object")
            found[name] = value
        return found

    try:
        with open(path, encoding="utf-8-sig") as file:
            text = file.read(MAX_CHARACTERS + 1)
        if len(text) > MAX_CHARACTERS:
            raise ValueError(f"longer than {MAX_CHARACTERS:,} characters")
        return json.loads(text, object_pairs_hook=unique)
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{what} {path}: not a readable JSON file ({error})") from error


def plain_name(text):
    """A name without what does not tell it from others: case and blanks."""
    return " ".join(text.split()).casefold()


def is_number(text):
    """Whether a text is a number; "nan" and "infinity" are words."""
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False


# --- checks ------------------------------------------------------------------------------------------


class _Check:
    """Checks of a file's content, each an error of one line that names the place."""

    def __init__(self, source):
        self.source = source

    def fail(self, place, problem):
        raise UserError(f"{self.source}: {place}: {problem}")

    def keys(self, value, known, place):
        if not isinstance(value, dict):
            self.fail(place, f"must be an object with some of the keys {', '.join(known)}")
        for key in value:
            if key not in known:
                near = get_close_matches(str(key), known, 1, 0.5)
                hint = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(known)}"
                self.fail(place, f"unknown key {excerpt(str(key))!r}; {hint}")

    def mapping(self, value, place, form):
        if not isinstance(value, dict) or not value:
            self.fail(place, f"must be an object {form}, and not empty")
        for name in value:
            self.text(name, f"a name in {place}")
        return value

    def text(self, value, place, most=MAX_NAME):
        fits = isinstance(value, str) and value.strip() and len(value) <= most and value.isprintable()
        if not fits:  # of other things only the kind is told: they may be deep, or enormous
            found = excerpt(ascii(value[:100])) if isinstance(value, str) else type(value).__name__
            self.fail(place, f"must be a printable text of 1 to {most} characters, not {found}")
        return value

    def texts(self, value, place, count=None):
        if not isinstance(value, list) or (len(value) != count if count else not value):
            self.fail(place, f"must be a list of {count or 'one or more'} texts")
        return tuple(self.text(one, place) for one in value)

    def path(self, value, place):
        if os.path.isabs(self.text(value, place, 1000)):
            self.fail(place, f"{value} is absolute; name it relative to --data-dir")
        return value


def _read_layout(content, check):
    val = content.get("val", {})
    held_out = isinstance(val, (int, float)) and not isinstance(val, bool)
    if held_out and not 0 < val < 1:
        check.fail("val", "a share of the training table must be above 0 and below 1, such as 0.2")
    group = content.get("group")
    if group is not None and not held_out:
        check.fail(
            "group", "keeps rows together that a share is held out of: give val as a share, such as 0.2"
        )
    unknown = content.get("unknown", [])
    if not isinstance(unknown, list) or not all(isinstance(value, str) for value in unknown):
        check.fail("unknown", 'must be a list of the cells that mean "not known", such as ["", "n/a"]')
    if not isinstance(content.get("exif", False), bool):
        check.fail("exif", "must be true or false")
    encoding = check.text(content.get("encoding", "utf-8"), "encoding")
    try:
        "".encode(encoding)
    except (LookupError, ValueError):  # ValueError: of one that is made to fail
        check.fail("encoding", f"Python reads no texts in {encoding}, but in utf-8 and cp949, for example")
    if "name" in content:
        check.text(content["name"], "name")
    return Layout(
        train=_read_part(content.get("train", {}), "train", check),
        val=None if held_out else _read_part(val, "val", check),
        share=float(val) if held_out else 0.0,
        group=None if group is None else check.text(group, "group"),
        image=check.text(content.get("image", "image_name"), "image"),
        unknown=tuple(unknown),
        box=check.texts(content["box"], "box", 4) if "box" in content else None,
        exif=content.get("exif", False),
        encoding=encoding,
    )


def _read_part(value, name, check):
    check.keys(value, PART_KEYS, name)
    table = check.path(value.get("table", f"{name}.csv"), f"{name}.table")
    return Part(table, check.path(value.get("photos", name), f"{name}.photos"))


def _read_attribute(name, value, check):
    place = f"attributes.{name}"
    if "/" in name:
        check.fail(place, "a name must not hold '/'; give another, and the table's own as column")
    check.keys(value, ATTRIBUTE_KEYS, place)
    classes = check.mapping(value.get("classes"), f"{place}.classes", "class name -> class")
    if not 2 <= len(classes) <= MAX_CLASSES:
        check.fail(f"{place}.classes", f"{len(classes)} classes; there must be 2 to {MAX_CLASSES:,}")
    seen = {}
    for one in classes:
        if plain_name(one) in seen:
            check.fail(
                f"{place}.classes", f"{one!r} and {seen[plain_name(one)]!r} differ by case or blanks only"
            )
        seen[plain_name(one)] = one
    prompts, names = [], {}
    for number, (one, details) in enumerate(classes.items()):
        check.keys(details, CLASS_KEYS, f"{place}.classes.{one}")
        prompts.append(
            _read_prompts(details, PROMPT.format(attribute=name, name=one), f"{place}.{one}", check)
        )
        for language, other in _read_names(details, f"{place}.{one}.names", check).items():
            names.setdefault(language, list(classes))[number] = other
    _read_names(value, f"{place}.names", check)
    return Attribute(
        column=check.text(value.get("column", name), f"{place}.column"),
        short=check.text(value.get("short", name), f"{place}.short"),
        classes=tuple(classes),
        prompts=tuple(prompts),
        names={language: tuple(others) for language, others in names.items()},
    )


def _read_prompts(details, default, place, check):
    prompt = details.get("prompt", default)
    sentences = prompt if isinstance(prompt, list) else [prompt]
    if not sentences:
        check.fail(f"{place}.prompt", "must be a sentence, or a list of one or more")
    return tuple(check.text(sentence, f"{place}.prompt", 1000) for sentence in sentences)


def _read_names(value, place, check):
    names = value.get("names", {})
    if names != {}:
        check.mapping(names, place, "language -> name")
    return {language: check.text(name, f"{place}.{language}") for language, name in names.items()}
