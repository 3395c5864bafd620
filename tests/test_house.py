"""The layout: a stage imports from those before it, never from one behind, and nothing goes in a circle."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
# From the ground up. A file or package may import from those that stand before it, and from its own package.
STAGES = """
    utils.layers utils.scheduler tiny_vit utils.base utils.data utils.losses utils.nets clip_model networks utils.evaluation
    utils.training utils.deployment utils.tools train evaluate predict export benchmarks
""".split()
FILES = [
    path.relative_to(ROOT) for path in sorted(ROOT.rglob("*.py")) if not {"tests", ".venv"} & set(path.parts)
]


def stage(module):
    """The number of a module's stage; None for other packages' modules."""
    found = [number for number, name in enumerate(STAGES) if f"{module}.".startswith(f"{name}.")]
    return found[0] if found else None


def imports(path):
    """Names of all modules that a file imports, wherever in it."""
    for node in ast.walk(ast.parse((ROOT / path).read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom):
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)


@pytest.mark.parametrize("path", FILES, ids=str)
def test_no_import_goes_up(path):
    own = ".".join(path.with_suffix("").parts).replace(".__init__", "")
    if own == "utils":
        return
    assert stage(own) is not None, "a new file needs a place in STAGES"
    up = [module for module in imports(path) if (stage(module) or 0) > stage(own)]
    assert up == []


def test_there_is_no_circle():
    modules = {".".join(path.with_suffix("").parts): path for path in FILES}
    arrows = {
        name: {other for module in imports(path) for other in modules if f"{module}.".startswith(f"{other}.")}
        - {name}
        for name, path in modules.items()
    }
    while True:  # take away what imports nothing that is left
        free = {name for name, others in arrows.items() if not others & arrows.keys()}
        if not free:
            break
        arrows = {name: others for name, others in arrows.items() if name not in free}
    assert arrows == {}
