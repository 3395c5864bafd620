"""What README and docs say exists: files that they link to, options, the recipe's commands, the example of a file of attributes."""

import json
import re
from pathlib import Path

import pytest

import evaluate
import export
import predict
import train
from benchmarks import __main__ as benchmarks
from benchmarks import accuracy
from utils.data.attributes import Attributes
from utils.tools import demo, draft, write_views

ROOT = Path(__file__).parent.parent
TEXTS = [*ROOT.glob("README*.md"), *sorted((ROOT / "docs").glob("*.md"))]
COMMANDS = (train, evaluate, predict, export, draft, demo, benchmarks, accuracy, write_views)
FOREIGN = {"--bind", "--directory", "--nnodes", "--nproc_per_node", "--rdzv_backend", "--rdzv_endpoint"}


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


@pytest.mark.parametrize("name", ["README.md", "README.ko.md"])
def test_the_commands_are_those_of_the_script(name):
    text, script = ((ROOT / file).read_text(encoding="utf-8") for file in (name, "train.sh"))
    commands = re.findall(r"train\.py (--version (?:teacher|student) .*?[^\\])\n", text, re.DOTALL)
    expected = re.findall(r"train\.py (--version (?:teacher|student) .*?) \"\$@\"", script, re.DOTALL)
    assert [command.split() for command in commands] == [command.split() for command in expected]


def test_the_readme_is_short():
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 200


def test_the_example_of_a_file_of_attributes_is_one():
    text = (ROOT / "docs/attributes.md").read_text(encoding="utf-8")
    attributes = Attributes(json.loads(re.search(r"```json\n(.*?)```", text, re.DOTALL)[1]), "the example")
    assert attributes.layout.group == "style no"
    assert attributes["neckline"].names["ko"] == ("라운드넥", "브이넥")
    assert attributes["length"].prompts[0] == ("a photo of a garment, length: mini",)
