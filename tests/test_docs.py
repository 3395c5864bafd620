"""What README and docs say exists: files that they link to, options, the recipe's commands, the example of a file of attributes."""

import json
import re
from pathlib import Path

import pytest

import evaluate
import export
import predict
from benchmarks import __main__ as benchmarks
from benchmarks import accuracy, recipe
from utils.data.attributes import Attributes
from utils.tools import demo, draft, write_views
from utils.training import options

ROOT = Path(__file__).parent.parent
TEXTS = [*ROOT.glob("README*.md"), *sorted((ROOT / "docs").glob("*.md"))]
COMMANDS = (options, evaluate, predict, export, draft, demo, benchmarks, accuracy, write_views)
FOREIGN = {
    "--all",
    "--hub",
    "--bind",
    "--directory",
    "--nnodes",
    "--nproc_per_node",
    "--rdzv_backend",
    "--rdzv_endpoint",
}


def headings(path):
    """The anchors of a page's headings, as GitHub names them."""
    found = re.findall(r"^#+ (.*)$", path.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in found}


@pytest.mark.parametrize("path", TEXTS, ids=lambda path: path.name)
def test_links_and_options_exist(path):
    text = path.read_text(encoding="utf-8")
    links = [link.partition("#") for link in re.findall(r"\]\((?!http)([^)]*)\)", text)]
    assert [link for link, *_ in links if not (path.parent / link).exists()] == []
    anchors = [(path.parent / link if link else path, anchor) for link, _, anchor in links if anchor]
    assert [anchor for target, anchor in anchors if anchor not in headings(target)] == []
    known = {option for command in COMMANDS for option in command.get_args_parser()._option_string_actions}
    assert set(re.findall(r"(?<![\w-])--[a-z][\w-]+", text)) <= known | FOREIGN


def test_the_commands_are_those_of_the_script():
    text = (ROOT / "README.md").read_text(encoding="utf-8").replace("\\\n", "")
    commands = re.findall(r"^python train\.py --version (teacher|student) (.*)$", text, re.MULTILINE)
    assert {name: options.split() for name, options in commands} == {
        name: recipe(name).split() for name in ("teacher", "student")
    }


def test_a_text_is_short():
    """By `wc -w`: what a stranger is willing to read."""
    words = {path.name: len(path.read_text(encoding="utf-8").split()) for path in TEXTS}
    assert words.pop("README.md") <= 1200 and words.pop("README.ko.md") <= 600
    assert sum(words.values()) <= 7500


def test_programs_and_files_exist():
    text = "".join(path.read_text(encoding="utf-8") for path in TEXTS)
    for name in set(re.findall(r"python -m ((?:utils|benchmarks)[\w.]*)", text)):
        path = ROOT.joinpath(*name.split("."))
        assert path.with_suffix(".py").exists() or (path / "__main__.py").exists(), name
    files = re.findall(r"`((?:utils|benchmarks|tests)/[\w./]*)`", text)
    assert [name for name in set(files) if not (ROOT / name).exists()] == []
    picture = (ROOT / "docs" / "architecture.svg").read_text(encoding="utf-8")
    drawn = re.findall(r"[\w/]+\.py|utils/\w+/", picture)
    assert len(drawn) > 9
    assert [
        name for name in drawn if not any((ROOT / folder / name).exists() for folder in (".", "utils"))
    ] == []


def test_the_example_of_a_file_of_attributes_is_one():
    text = (ROOT / "docs/attributes.md").read_text(encoding="utf-8")
    attributes = Attributes(json.loads(re.search(r"```json\n(.*?)```", text, re.DOTALL)[1]), "the example")
    assert attributes.layout.group == "style no"
    assert attributes["neckline"].names["ko"] == ("라운드넥", "브이넥")
    assert attributes["length"].prompts[0] == ("a photo of a garment, length: mini",)
