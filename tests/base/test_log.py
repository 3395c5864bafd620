"""What the terminal shows, and what only the file has."""

import logging
import sys

import pytest

from utils.base import log
from utils.base.errors import counted, listed
from utils.base.log import GREEN, PLAIN, RED, YELLOW


@pytest.fixture
def started(tmp_path):
    log.start()
    log.to_file(tmp_path / "log")
    yield tmp_path / "log"
    log.stop()


@pytest.fixture
def terminal(monkeypatch):
    """A function, after which both streams say that they are one."""

    def begin():
        monkeypatch.delenv("NO_COLOR", raising=False)
        monkeypatch.setenv("TERM", "xterm")
        for stream in (sys.stdout, sys.stderr):
            monkeypatch.setattr(stream, "isatty", lambda: True)

    return begin


def say():
    log.logger.debug("a matrix")
    log.logger.info("1/2  0.5  best", extra={"mark": "best"})
    log.logger.info("2/2  0.4")
    log.logger.warning("warning: kind: odd")
    log.logger.error("error: it is over: really")


def test_a_terminal_has_colours(started, terminal, capsys):
    terminal()
    say()
    out, err = capsys.readouterr()
    assert out == f"1/2  0.5  {GREEN}best{PLAIN}\n2/2  0.4\n"
    assert err == f"{YELLOW}warning:{PLAIN} kind: odd\n{RED}error:{PLAIN} it is over: really\n"
    written = started.read_text()
    assert "D a matrix" in written and "I 1/2  0.5  best\n" in written and "\x1b" not in written


@pytest.mark.parametrize("name, value", [("NO_COLOR", "1"), ("TERM", "dumb"), (None, None)])
def test_no_colours(started, terminal, capsys, monkeypatch, name, value):
    terminal()
    if name:
        monkeypatch.setenv(name, value)
    else:  # a pipe
        monkeypatch.setattr(sys.stdout, "isatty", lambda: False)
        monkeypatch.setattr(sys.stderr, "isatty", lambda: False)
    say()
    assert "".join(capsys.readouterr()).count("\x1b") == 0


@pytest.mark.parametrize(
    "stream, process, is_seen",
    [(None, 0, True), ("stdout", 0, False), ("stderr", 0, False), (None, 1, False)],
)
def test_a_bar_is_for_a_terminal(terminal, monkeypatch, stream, process, is_seen):
    """Beside a pipe of lines it would be torn; and of several processes the first has one."""
    terminal()
    if stream:
        monkeypatch.setattr(getattr(sys, stream), "isatty", lambda: False)
    log.start(process)
    bar = log.progress(range(3), "photos")
    assert bar.disable != is_seen and list(bar) == [0, 1, 2]
    log.stop()


def test_all_lines_are_shown_where_that_is_asked_for(capsys):
    log.start(shown="DEBUG")
    say()
    assert capsys.readouterr().out.startswith("a matrix\n")
    log.start()
    say()
    assert capsys.readouterr().out.startswith("1/2")
    log.stop()


def test_columns_of_signs_that_are_wide():
    first, second, third = log.table([["색상", "0.5"], ["kind", "1.25"]], ["", "Top-1"])
    assert (first, second, third) == ("      Top-1", "색상    0.5", "kind   1.25")
    assert log.right(["색", "ab"], [4, 4]) == ["  색", "  ab"]


def test_words():
    assert counted(1, "photo is", "photos are") == "1 photo is"
    assert counted(1200, "photo is", "photos are") == "1,200 photos are"
    assert listed(["a", "b"]) == "a, b" and listed("abcde", 3) == "a, b, c and 2 more"
    assert logging.getLogger("fashion").level == logging.WARNING
