"""The layout: a stage imports from those before it, never from one behind, and nothing goes in a circle."""

import ast
import io
import tokenize
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


def code_lines(source):
    """Numbers of the lines that hold code: no docstrings, comments or blanks."""
    texts = [
        node
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Expr)
        and isinstance(node.value, ast.Constant)
        and isinstance(node.value.value, str)
    ]
    documented = {line for node in texts for line in range(node.lineno, node.end_lineno + 1)}
    no_code = {
        tokenize.COMMENT,
        tokenize.NL,
        tokenize.NEWLINE,
        tokenize.INDENT,
        tokenize.DEDENT,
        tokenize.ENDMARKER,
    }
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    return {token.start[0] for token in tokens if token.type not in no_code} - documented


def functions():
    for path in FILES:
        source = (ROOT / path).read_text(encoding="utf-8")
        lines = code_lines(source)
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.FunctionDef):
                names = [
                    arg.arg
                    for arg in [*node.args.args, *node.args.kwonlyargs]
                    if arg.arg not in ("self", "cls")
                ]
                length = len(lines & set(range(node.lineno, node.end_lineno + 1)))
                yield f"{path}:{node.name}", length, names


# The parameters of the published schedule.
PUBLISHED = {"utils/scheduler.py:learning_rate", "utils/scheduler.py:__init__"}


def test_functions_fit_on_a_screen():
    lengths = {name: length for name, length, _ in functions()}
    assert {name: length for name, length in lengths.items() if length > 60} == {}
    assert lengths["train.py:train"] <= 45
    many = {name: names for name, _, names in functions() if len(names) > 6 and name not in PUBLISHED}
    assert many == {}


def test_the_house_stays_light():
    """A feature that does not fit takes something away first."""
    sources = {path: (ROOT / path).read_text(encoding="utf-8") for path in FILES}
    assert {path for path, source in sources.items() if len(source.splitlines()) > 350} == set()
    lines = {path: len(code_lines(source)) for path, source in sources.items()}
    benchmarks = sum(count for path, count in lines.items() if path.parts[0] == "benchmarks")
    assert benchmarks <= 590 and sum(lines.values()) - benchmarks <= 6_315
