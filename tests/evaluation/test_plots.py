"""Curves: read as they grow, drawn with what they say, and never a reason to stop a run."""

import csv
import logging
import math
import subprocess
import sys
import warnings

import pytest
from PIL import Image

import train
from utils.base.cli import exit_code
from utils.base.errors import UserError
from utils.base.log import logger
from utils.data.attributes import read_attributes
from utils.evaluation import plots
from utils.tools import curves as curves_tool
from utils.training import record

ATTRIBUTES = read_attributes()

COLUMNS = [
    "epoch",
    "lr",
    *(c for s in plots.COLUMNS for c in (s, *(f"{s}_{key}" for key in ATTRIBUTES))),
    "seconds",
]


def row(epoch, offset=0.0):
    """A row of metrics.csv in which no two cells are equal."""
    values = {name: (place + epoch / 8) / 32 + offset for place, name in enumerate(COLUMNS)}
    return dict(values, epoch=epoch)


def write(folder, rows):
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / "metrics.csv", "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        writer.writerows(rows)
    return folder


@pytest.fixture
def said():
    """The lines that the project's logger says."""
    lines = []
    handler = logging.Handler()
    handler.emit = lambda record: lines.append(record.getMessage())
    logger.addHandler(handler)
    yield lines
    logger.removeHandler(handler)


def test_read_run(tmp_path):
    run = plots.read_run(str(write(tmp_path / "a", [row(1), row(2)])))
    columns = run.metrics
    assert run.score == "val_top1" and run.majorities == {}  # one of an earlier version
    assert list(columns) == COLUMNS
    assert list(columns["epoch"]) == [1, 2]
    assert list(columns["val_acsa"]) == [row(1)["val_acsa"], row(2)["val_acsa"]]
    assert plots.read_run(str(tmp_path / "a" / "metrics.csv")).metrics.equals(columns)


CLASSES = "attribute,class,train,val\n" + "".join(
    f"{key},{name},{number},{number}\n"
    for key in ATTRIBUTES
    for name, number in (("a", 1), ("NA", 3), ("b", 0))
)


def test_what_is_beside_the_metrics(tmp_path):
    """The score that best.pt followed, and the majority of each attribute: three of four photos."""
    pytest.importorskip("matplotlib")
    folder = write(tmp_path / "a", [row(1), row(3), row(2)])
    (folder / "args.json").write_text('{"best": "acsa"}', encoding="utf-8")
    (folder / "classes.csv").write_text(CLASSES, encoding="utf-8")
    old = plots.read_run(str(write(tmp_path / "b", [row(1), row(2)])))
    for path in (folder, folder / "metrics.csv"):
        run = plots.read_run(str(path))
        assert run.score == "val_acsa"
        assert run.majorities == {"val_top1": 0.75, **{f"val_top1_{key}": 0.75 for key in ATTRIBUTES}}
    figure = plots.draw_curves({"name": run})
    assert "epoch 3 has the best mean ACSA: Top-1 " in figure._suptitle.get_text()
    level = {
        ax.get_title(): [line.get_color() for line in ax.get_lines() if set(line.get_ydata()) == {0.75}]
        for ax in figure.axes
    }
    assert level.pop("validation Top-1") == plots.COLORS[: 1 + len(ATTRIBUTES)]
    assert not any(level.values())
    shown = [text.get_text() for text in figure.legends[0].get_texts()]
    assert shown[-2:] == ["epoch of best.pt", "always the most frequent class"]
    shown = [text.get_text() for text in plots.draw_curves({"a": run, "b": old}).legends[0].get_texts()]
    assert [text.split("\n")[0] for text in shown] == ["a", "b", "always the most frequent class"]
    assert "best mean ACSA" in shown[0] and "best mean Top-1" in shown[1]


def test_attributes_like_formulas_and_without_photos(tmp_path):
    """The table has an apostrophe before the one, as spreadsheets need it; the other has no majority, and no part in the mean."""
    pytest.importorskip("matplotlib")
    columns = ["epoch", "lr", *(f"{score}{key}" for score in plots.COLUMNS for key in ("", "_=1", "_NA"))]
    (tmp_path / "metrics.csv").write_text(
        f"{','.join(columns)}\n1{',0.5' * (len(columns) - 1)}\n", encoding="utf-8"
    )
    (tmp_path / "classes.csv").write_text(
        "attribute,class,train,val\n'=1,a,1,3\n'=1,b,1,1\nNA,a,1,0\nNA,b,1,0\n"
    )
    run = plots.read_run(str(tmp_path))
    assert run.majorities["val_top1"] == run.majorities["val_top1_=1"] == 0.75
    assert math.isnan(run.majorities["val_top1_NA"])
    plots.save(plots.draw_curves({"a": run}), str(tmp_path / "a.png"))


@pytest.mark.parametrize(
    "content",
    [
        "",
        "attribute,class,train,val\nother,a,1,1\n",
        "\x00",
        "attribute\na\n",
        "attribute,class,train,val\na,a,1,x\na,b,1,2\n",
    ],
)
def test_other_classes_than_the_metrics(tmp_path, content):
    write(tmp_path, [row(1)])
    (tmp_path / "classes.csv").write_text(content, encoding="utf-8")
    with pytest.raises(UserError, match=r"or classes\.csv beside it"):
        plots.read_run(str(tmp_path))


def test_long_names():
    """As wide as there is room for: a Korean letter is as wide as two."""
    assert plots.shortened_name("a" * 24, 24) == "a" * 24
    assert plots.shortened_name("abcdefghij", 6) == "abc…hij"
    assert (
        plots.shortened_name("가나다", 6) == "가나다"
        and plots.shortened_name("가나다라마바", 8) == "가나…마바"
    )
    assert plots.shortened_name("가a나b다c라", 7) == "가a…c라"


@pytest.mark.parametrize(
    "content, message",
    [
        (None, "no metrics.csv as train.py writes it"),
        ("epoch,lr\n1,2\n", "train_loss.*not in index"),
        (",".join(COLUMNS) + "\n", "no epoch is finished yet"),
        (",".join(COLUMNS) + "\none\n", "no metrics.csv as train.py"),
        ("\x00\x01\n", "no metrics.csv as train.py"),
        ("", "no metrics.csv as train.py"),
    ],
)
def test_what_is_no_table_is_said(tmp_path, content, message):
    if content is not None:
        (tmp_path / "metrics.csv").write_text(content, encoding="utf-8")
    with pytest.raises(UserError, match=message):
        plots.read_run(str(tmp_path))


def lines_of(figure):
    """Title of a panel -> the y values of its curves."""
    return {
        ax.get_title(): [list(line.get_ydata()) for line in ax.get_lines() if len(line.get_xdata()) == 3]
        for ax in figure.axes
    }


def test_one_run_draws_every_column(tmp_path):
    pytest.importorskip("matplotlib")
    run = plots.read_run(str(write(tmp_path, [row(1), row(3), row(2)])))
    columns, figure = run.metrics, plots.draw_curves({"name": run})
    drawn = lines_of(figure)
    for column, title in plots.COLUMNS.items():
        each = [column, *(f"{column}_{key}" for key in ATTRIBUTES)]
        assert drawn[title] == [columns[name].tolist() for name in each]
    assert drawn["learning rate"] == [columns["lr"].tolist()]
    assert figure._suptitle.get_text().startswith("name\nepoch 3 has the best mean Top-1: ")


def test_several_runs_lie_over_each_other(tmp_path):
    pytest.importorskip("matplotlib")
    runs = {
        name: plots.read_run(str(write(tmp_path / name, [row(e, offset) for e in (1, 2, 3)])))
        for name, offset in (("a", 0), ("b", 0.5))
    }
    drawn = lines_of(plots.draw_curves(runs))
    for column, title in plots.COLUMNS.items():
        for key in ATTRIBUTES:
            assert drawn[f"{title},\n{key}"] == [
                run.metrics[f"{column}_{key}"].tolist() for run in runs.values()
            ]
        assert drawn[f"{title},\nall attributes"] == [run.metrics[column].tolist() for run in runs.values()]
    assert drawn["learning rate"] == [run.metrics["lr"].tolist() for run in runs.values()]


def test_letters_that_no_font_here_may_have(tmp_path, monkeypatch):
    """The fonts that are installed are taken, and what they lack is no warning."""
    matplotlib = pytest.importorskip("matplotlib")
    monkeypatch.setattr(plots, "FONTS", "No Such Font,DejaVu Serif")
    figure, _ = plots.panels("치마, 裙子, スカート", 1, 1, 3, 2)
    assert matplotlib.rcParams["font.family"] == ["sans-serif", "DejaVu Serif"]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        plots.save(figure, str(tmp_path / "a.png"))


@pytest.mark.parametrize(
    "names", [("type",), ("a.b", "sleeve type", "sleeve_type", "_x", "$a$", "mean", "score")]
)
def test_other_attributes(tmp_path, names):
    """One attribute, and seven of any names, beside a run of the competition's; a score that is missing."""
    pytest.importorskip("matplotlib")
    columns = ["epoch", "lr", *(c for s in plots.COLUMNS for c in (s, *(f"{s}_{name}" for name in names)))]
    for run in ("a", "b"):
        (tmp_path / run).mkdir()
        with open(tmp_path / run / "metrics.csv", "w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerows([columns, *([epoch, *([0.5] * (len(columns) - 2)), ""] for epoch in (1, 2, 3))])
    other = write(tmp_path / "c", [row(epoch) for epoch in (1, 2)])
    one = plots.read_run(str(tmp_path / "a"))
    table = one.metrics
    assert (
        list(table) == columns
        and table[columns[-2]].tolist() == [0.5] * 3
        and table[columns[-1]].isna().all()
    )
    shown = plots.draw_curves({"a": one}).legends[0].get_texts()
    assert [text.get_text().strip().replace("\\", "") for text in shown] == [
        "all attributes",
        *names,
        "epoch of best.pt",
    ]
    assert len(plots.draw_curves({"a": one, "b": one}).axes) == 3 * (1 + len(names)) + 1
    for number, folders in enumerate((["a"], ["a", "b", other])):
        output = tmp_path / f"{number}.png"
        curves_tool.main([*(str(tmp_path / folder) for folder in folders), "--output", str(output)])
        assert Image.open(output).format == "PNG"


def test_command(tmp_path, capsys):
    """Runs of the same name in different folders, one of them with a single epoch."""
    pytest.importorskip("matplotlib")
    a, b = write(tmp_path / "x" / "run", [row(1)]), write(tmp_path / "y" / "run", [row(1, 0.1), row(2, 0.1)])
    output = tmp_path / "out.png"
    assert exit_code(lambda: curves_tool.main([str(a), str(b), "--output", str(output)])) == 0
    assert capsys.readouterr().out == f"{output}\n"
    image = Image.open(output)
    assert image.format == "PNG" and image.width > 1000 and len(image.convert("RGB").getcolors(1 << 20)) > 50
    assert exit_code(lambda: curves_tool.main([str(tmp_path / "absent")])) == 2
    assert "name the log folder of a run" in capsys.readouterr().err
    assert exit_code(lambda: curves_tool.main([str(a), "--output", str(tmp_path / "no" / "out.png")])) == 2
    assert "out.png: cannot be written" in capsys.readouterr().err


def test_nothing_heavy_is_imported_and_no_global_state(tmp_path):
    """`import utils.evaluation.plots` needs neither matplotlib nor torch; drawing uses no pyplot and no torch."""
    pytest.importorskip("matplotlib")
    folder = write(tmp_path, [row(1), row(2)])
    program = (
        "import sys; from utils.tools import curves\n"
        "assert not {'matplotlib', 'torch', 'tensorboard'} & set(sys.modules)\n"
        f"curves.main([{str(folder)!r}, '--output', {str(tmp_path / 'c.png')!r}])\n"
        "assert not {'matplotlib.pyplot', 'torch'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True)
    assert (tmp_path / "c.png").is_file()


def test_redrawn_every_epoch(tmp_path, said):
    pytest.importorskip("matplotlib")
    curves = record.Curves(str(tmp_path))
    pictures = []
    for epoch in (1, 2):
        write(tmp_path, [row(e) for e in range(1, epoch + 1)])
        curves.update(row(epoch))
        pictures.append((tmp_path / "curves.png").read_bytes())
    assert pictures[0] != pictures[1] and not said
    assert sorted(path.name for path in tmp_path.iterdir()) == ["curves.png", "metrics.csv"]


def test_without_matplotlib_a_run_goes_on(tmp_path, said, without_matplotlib):
    write(tmp_path, [row(1)])
    (tmp_path / "curves.png").write_text("of an earlier run of this version")
    curves = record.Curves(str(tmp_path))
    for epoch in (1, 2, 3):
        curves.update(row(epoch))
    assert len(said) == 1 and "curves.png is not drawn" in said[0] and "pip install matplotlib" in said[0]
    assert not (tmp_path / "curves.png").exists()
    with pytest.raises(UserError, match="pip install matplotlib"):
        curves_tool.main([str(tmp_path)])


def test_tensorboard_events(tmp_path, without_matplotlib):
    """One series for each column; a new run of the version replaces the old one's, a continued run goes on."""
    pytest.importorskip("tensorboard")
    pytest.importorskip("torch.utils.tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    def recorded():
        events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
        return {
            tag: [(e.step, round(e.value, 4)) for e in events.Scalars(tag)]
            for tag in events.Tags()["scalars"]
        }

    def run(epochs, offset):
        curves = record.Curves(str(tmp_path), tensorboard=True)
        for epoch in epochs:
            curves.update(row(epoch, offset))
        curves.writer.close()

    run((1, 2, 3), 0.0)
    run((1, 2), 0.5)
    run((3,), 0.25)  # stopped before its checkpoint was written: epoch 3 is run again
    run((3,), 0.75)
    found = recorded()
    assert set(found) == {record.tag(column) for column in COLUMNS if column != "epoch"}
    offsets = ((1, 0.5), (2, 0.5), (3, 0.75))
    for column in ("lr", "val_top1", *(f"val_top1_{key}" for key in ATTRIBUTES)):
        assert found[record.tag(column)] == [(e, round(row(e, offset)[column], 4)) for e, offset in offsets]
    assert f"val_acsa/{next(iter(ATTRIBUTES))}" in found


def test_tensorboard_tags(tmp_path, without_matplotlib):
    """Names that differ by a blank only are two series; a score that is missing is none."""
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    curves = record.Curves(str(tmp_path), tensorboard=True)
    curves.update({"epoch": 1, "val_top1_sleeve type": 0.25, "val_top1_sleeve_type": 0.5, "val_top1_a": None})
    curves.writer.close()
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    found = {tag: events.Scalars(tag)[0].value for tag in events.Tags()["scalars"]}
    assert found == {"val_top1/sleeve type": 0.25, "val_top1/sleeve_type": 0.5}


def test_without_tensorboard_a_run_does_not_begin(monkeypatch):
    monkeypatch.setattr("utils.training.options.find_spec", lambda name: None)
    with pytest.raises(UserError, match="--tensorboard needs a package: pip install tensorboard"):
        train.parse_args(["--version", "a", "--tensorboard"])
