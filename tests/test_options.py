"""Options of train.py: what is taken, and what is refused."""

import errno
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from conftest import script_options

from utils.base import log
from utils.base.cli import exit_code
from utils.base.errors import UserError, shortened
from utils.training.options import length_for, parse_args, without_effect

ROOT = Path(__file__).parents[1]

TEACHER = (
    "--version teacher --seed 214 --lr 1e-6 --optimizer Adam --epochs 10 --batch-size 64 "
    "--weight-decay 0.2 --loss-weight True"
)
STUDENT = (
    "--version student --seed 214 --lr 1e-3 --min-lr 4e-5 --cos-gamma 0.9 --warmup-epoch 5 "
    "--decay-epoch 30 --optimizer AdamW --epochs 10 --batch-size 128 --weight-decay 0.01 --loss CE --ls 0.1 "
    "--kd-learning True --teacher teacher/model_5.pt --distillation-type soft --distillation-tau 4 "
    "--distillation-alpha 0.9 --loss-weight True --scheduler True"
)
SOFT = "--version a --kd-learning --distillation-type soft --teacher t/model_1.pt"


def test_published_defaults():
    args = parse_args(["--version", "a"])
    expected = dict(
        epochs=100, batch_size=64, val_batch_size=32, seed=214, optimizer="Adam", lr=1e-4, min_lr=1e-6,
        cos_gamma=1.0, warmup_epoch=10, decay_epoch=30, weight_decay=0.0, ls=0.0, distillation_type="hard",
        distillation_alpha=0.5, distillation_tau=1.0, loss="CE", kd_learning=False, loss_weight=False,
        scheduler=False, clipping=False, overwrite=False, data_dir="./Dataset", log_interval=10,
        clip_model="patrickjohncyh/fashion-clip", device="auto", precision="auto", views=1, logit_adjustment=0.0,
        ema=None, best="top1", schedule_by="epoch", distillation_reduction="classes", crop_to_box=False,
    )  # fmt: skip
    assert {name: getattr(args, name) for name in expected} == expected


def test_the_two_commands():
    teacher, student = parse_args(TEACHER.split()), parse_args(STUDENT.split())
    assert teacher.loss_weight and not teacher.kd_learning and not teacher.distils
    assert student.kd_learning and student.distils and student.scheduler and student.distillation_tau == 4


@pytest.mark.parametrize("text", ["True", "true", "TRUE", "1", "yes", "YES", None])
def test_true(text):
    assert parse_args(["--version", "a", "--clipping", *([text] if text else [])]).clipping is True


@pytest.mark.parametrize("text", ["False", "false", "0", "no", "No"])
def test_false(text):
    assert parse_args(["--version", "a", "--clipping", text]).clipping is False


@pytest.mark.parametrize(
    "line, named",
    [
        ("", "--version"),
        ("--version a/b", "--version"),
        ("--version ..", "--version"),
        ("--version a --epoch 3", "--epoch"),
        ("--version a --learning-rate 1", "--learning-rate"),
        ("--version a --clipping maybe", "--clipping"),
        ("--version a --epochs 0", "--epochs"),
        ("--version a --epochs 1.5", "--epochs"),
        ("--version a --batch-size -1", "--batch-size"),
        ("--version a --lr 0", "--lr"),
        ("--version a --lr nan", "--lr"),
        ("--version a --kd-learning --teacher a --save-teacher-logits .", "is a folder; name a file"),
        ("--version a --lr inf", "--lr"),
        ("--version a --weight-decay -0.1", "--weight-decay"),
        ("--version a --ls 1", "--ls"),
        ("--version a --distillation-alpha 1.1", "--distillation-alpha"),
        ("--version a --distillation-tau 0", "--distillation-tau"),
        ("--version a --distillation-type warm", "--distillation-type"),
        ("--version a --optimizer SGD", "--optimizer"),
        ("--version a --seed -1", "--seed"),
        ("--version a --keep 0", "--keep"),
        ("--version a --save-every-minutes 0", "--save-every-minutes"),
        ("--version a --resume --overwrite", "--overwrite"),
        ("--version a --precision fp16", "--precision"),
        ("--version a --warmup-epoch 30", "--decay-epoch"),
        ("--version a --teacher t/model_1.pt", "--kd-learning"),
        ("--version a --views 0", "--views"),
        ("--version a --views 1.5", "--views"),
        ("--version a --views-seed -1", "--views-seed"),
        ("--version a --flip 1.1", "--flip"),
        ("--version a --crop-scale 0", "--crop-scale"),
        ("--version a --crop-scale 1.1", "--crop-scale"),
        ("--version a --crop-ratio 0.9", "--crop-ratio"),
        ("--version a --color-jitter 1.1", "--color-jitter"),
        ("--version a --ema 0", "--ema"),
        ("--version a --ema 1", "--ema"),
        ("--version a --best loss", "--best"),
        ("--version a --schedule-by hour", "--schedule-by"),
        ("--version a --distillation-reduction none", "--distillation-reduction"),
        ("--version a --logit-adjustment -1", "--logit-adjustment"),
        ("--version a --logit-adjustment 0.5 --loss-weight", "--logit-adjustment and --loss-weight"),
        (f"{SOFT} --teacher-logits a.npz", "one of the two"),
        ("--version a --teacher-logits a.npz", "--kd-learning"),
        (
            "--version a --kd-learning --teacher-logits a.npz --save-teacher-logits b.npz",
            "--save-teacher-logits",
        ),
        ("--version a --save-teacher-logits b.npz", "--kd-learning"),
        (f"{SOFT} --save-teacher-logits nowhere/b.npz", "there is no folder nowhere"),
        (f"{SOFT} --save-teacher-logits=", "an empty name"),
        ("--version a --kd-learning True --distillation-type soft", "zero-shot"),
        ("--version a --kd-learning True --distillation-type=hard", "distillation needs --teacher"),
    ],
)
def test_refused(line, named):
    with pytest.raises(UserError) as error:
        parse_args(line.split())
    assert named in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    "line, named",
    [
        ("--lr 1e-5 --min-lr 4e-5 --scheduler", "--lr 1e-05 is below --min-lr 4e-05"),
        ("--lr 1e-7 --scheduler True", "--min-lr 1e-06"),  # the default
        ("--lr 1e-3 --min-lr 4e-5 --cos-gamma 0.1 --epochs 61 --scheduler", "--cos-gamma 0.1"),
    ],
)
def test_a_schedule_that_is_upside_down(line, named):
    with pytest.raises(UserError) as error:
        parse_args(["--version", "a", *line.split()])
    assert named in str(error.value) and "--lr" in str(error.value) and "--min-lr" in str(error.value)


def test_a_schedule_that_is_not(tmp_path):
    for line in (
        "--lr 1e-7",  # without schedule
        "--lr 1e-6 --scheduler",  # flat
        "--lr 1e-3 --min-lr 4e-5 --cos-gamma 0.1 --epochs 60 --scheduler",  # two cycles, the last one's peak 1e-4
        "--cos-gamma 1e9 --decay-epoch 11 --epochs 1000 --scheduler",
    ):
        parse_args(["--version", "a", *line.split()])
    with pytest.raises(UserError, match="--min-lr 4e-05"):
        options_of(tmp_path, "student --lr 1e-5 --epochs 3".split())
    assert options_of(tmp_path, "student --lr 1e-5 --min-lr 1e-6".split()).lr == 1e-5


@pytest.mark.parametrize(
    "words, expected",
    [
        ("teacher", []),
        ("student", []),
        ("best --crop-scale 0.4", []),
        ("best --epochs 1 --crop-scale 0.4", []),  # a smoke test
        ("student --flip 0.3 --crop-to-box", ["--flip, --crop-to-box: without effect; meant for views of the training photos, with --views above 1"]),
        ("teacher --warmup-epoch 2", ["--warmup-epoch: without effect; meant for a learning rate schedule, with --scheduler True"]),
        ("teacher --student resnet18", ["--student: without effect; meant for a student, with --kd-learning True"]),
        ("student --distillation-type hard", []),  # what the recipe has besides, nobody typed
        ("student --scheduler False", []),
        ("best --teacher none", []),
        ("own", []),
        ("own --distillation-tau 2", ["--distillation-tau: without effect; meant for soft distillation, with --distillation-type soft"]),
        ("student --epochs 5", ["--epochs 5: ends within --warmup-epoch 5, below --lr"]),
    ],
)  # fmt: skip
def test_options_without_effect_are_told(tmp_path, words, expected):
    args = options_of(tmp_path, words.split())
    args.choose(10, 32, "of a table")
    assert without_effect(args) == expected


def test_logits_take_the_place_of_the_teacher_of_the_script(tmp_path):
    args = options_of(tmp_path, "student --teacher none --teacher-logits a.npz".split())
    assert (args.teacher, args.teacher_logits, args.distils) == (None, "a.npz", True)


@pytest.mark.parametrize(
    "words", ["--distillation-type none", "", "--teacher none", "--teacher none --distillation-type soft"]
)
def test_nothing_is_distilled_without_a_teacher(words):
    args = parse_args(["--version", "a", "--kd-learning", "True", *words.split()])
    assert args.distillation_type == "none" and not args.distils
    assert args.notes == ["no teacher: learns from the labels"]


def test_a_teacher_is_asked():
    assert parse_args(SOFT.split()).distils and parse_args(SOFT.split()).notes == ["teacher: t/model_1.pt"]
    taught = parse_args("--version a --kd-learning True --teacher t/model_1.pt".split())
    assert taught.distils and taught.distillation_type == "hard"
    assert parse_args(["--version", "a"]).notes == []


def test_best_without_its_teacher(tmp_path):
    """As with --distillation-type none, which had to be typed."""
    alone = options_of(tmp_path, "best --teacher none".split())
    assert vars(alone) == vars(options_of(tmp_path, "best --teacher none --distillation-type none".split()))


@pytest.mark.parametrize(
    "rows, expected",
    [(3, (40, 16)), (400, (40, 16)), (499, (40, 16)), (500, (40, 32)), (1920, (10, 32)), (2000, (10, 32)), (3900, (5, 32)), (9999, (5, 32)), (11000, (5, 64)), (10**6, (5, 64))],
)  # fmt: skip
def test_length_for_rows(rows, expected):
    assert length_for(rows) == expected


def test_auto_waits_for_the_table(tmp_path):
    args = options_of(tmp_path, ["own"])
    assert (args.epochs, args.batch_size, args.views, args.decay_epoch) == (
        "auto",
        "auto",
        "epochs",
        "epochs",
    )
    args.choose(10, 32, "chosen for 1,920 photos")
    args.choose(5, 64, "not again")
    assert (args.epochs, args.batch_size, args.views, args.decay_epoch, args.warmup_epoch) == (
        10,
        32,
        10,
        10,
        1,
    )
    assert args.notes == [
        "no teacher: learns from the labels",
        "epochs 10, batch 32: chosen for 1,920 photos",
    ]
    args = options_of(tmp_path, "own --epochs 3".split())
    assert (args.epochs, args.batch_size, args.views, args.decay_epoch) == (3, "auto", 3, 3)
    args.choose(10, 32, "chosen for 1,920 photos")
    assert (args.epochs, args.batch_size, args.notes[1]) == (3, 32, "batch 32: chosen for 1,920 photos")
    late = parse_args("--version a --epochs auto --scheduler --lr 1e-7".split())
    with pytest.raises(UserError, match="--min-lr"):
        late.choose(10, 32, "")


def options_of(folder, words):
    return parse_args(script_options(folder, words))


@pytest.mark.parametrize("recipe, default", [("best-teacher", 10), ("best", 30)])
@pytest.mark.parametrize(
    "given, epochs", [("", None), ("--epochs 60 --lr 1e-4", 60), ("--lr 1e-4 --epochs=7", 7)]
)
def test_the_script_fits_views_and_schedule_to_the_epochs(tmp_path, recipe, default, given, epochs):
    args = options_of(tmp_path, [recipe, *given.split()])
    assert (args.epochs, args.views, args.decay_epoch) == (epochs or default,) * 3
    assert not given or args.lr == 1e-4
    assert options_of(tmp_path, [recipe, *given.split(), "--epochs", "1"]).warmup_epoch == 0


@pytest.mark.parametrize("words, code", [([], 2), (["--help"], 0), (["owm"], 2)])
def test_the_script_lists_its_commands(words, code):
    done = subprocess.run(
        ["bash", str(ROOT / "train.sh"), *words], stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    said = done.stdout.decode()
    assert done.returncode == code and ("no command owm; did you mean own?\n" in said) == (words == ["owm"])
    for name in "all own best-teacher best teacher student sample".split():
        assert re.search(rf"^  {name}  +\w", said, re.MULTILINE)


def test_the_commands_of_readme_and_docs_are_taken(tmp_path):
    found, plain = set(), []
    for path in [*ROOT.glob("README*.md"), *(ROOT / "docs").glob("*.md")]:
        text = path.read_text(encoding="utf-8")
        found |= set(
            re.findall(
                r"bash train\.sh ((?:all|own|teacher|student|best-teacher|best)\b[^`#|\n]*)",
                text.replace("\\\n", " "),
            )
        )
        if path.name != "recovery.md":
            text = text.replace("\\\n", " ")
            for words in re.findall(r"^python train\.py (.*)$", text, re.MULTILINE):
                parse_args(words.partition("#")[0].split())
                plain.append(words)
    assert len(found) > 6 and len(plain) > 1
    for words in (one for one in found if "$" not in one):  # in a loop of the shell
        options_of(tmp_path, words.replace("…", "").split())


@pytest.mark.parametrize("both", [False, True])
def test_a_reader_that_goes_away(tmp_path, both):
    """`| head -1`, and `2>&1 | head -1`: one line, on stderr and in the log, says why the command ended."""
    talk = (
        f"import sys; from utils.base import cli, log; log.start(); log.to_file({str(tmp_path / 'log')!r}); "
    )
    talk += "sys.exit(cli.exit_code(lambda: [log.logger.info('a line') for _ in range(100000)]))"
    errors = subprocess.STDOUT if both else subprocess.PIPE
    process = subprocess.Popen([sys.executable, "-c", talk], cwd=ROOT, stdout=subprocess.PIPE, stderr=errors)
    assert process.stdout.readline() == b"a line\n"
    process.stdout.close()
    if not both:
        said = process.stderr.read()
        assert said.startswith(b"stopped: ") and said.count(b"\n") == 1
    assert process.wait() == 141
    assert (tmp_path / "log").read_text().splitlines()[-1].endswith("head, has ended")


def test_an_error_of_the_system_is_one_line(tmp_path, capsys):
    def full():
        raise OSError(errno.ENOSPC, "No space left on device")

    assert exit_code(lambda: os.listdir(tmp_path / "absent")) == 2
    assert exit_code(full) == 4
    first, second = capsys.readouterr().err.splitlines()
    assert first == f"error: {tmp_path / 'absent'}: no such file"
    assert second == "error: No space left on device"


@pytest.mark.parametrize(
    "line, said",
    [
        ("--atributes a.json", "unrecognized arguments: --atributes; did you mean --attributes?"),
        (
            "--verison a --epoch=3",
            "unrecognized arguments: --verison --epoch; did you mean --version, --epochs?",
        ),
        ("--version a --colour", "unrecognized arguments: --colour (see"),
    ],
)
def test_a_slip_of_the_pen(line, said):
    with pytest.raises(UserError) as error:
        parse_args(line.split())
    assert said in str(error.value)


@pytest.mark.parametrize("kind", [MemoryError, RuntimeError])
def test_a_full_memory_is_one_line(capsys, kind):
    def full():
        raise kind("CUDA out of memory. Tried to allocate 20 MiB")

    assert exit_code(full) == 2
    said = capsys.readouterr().err
    assert "smaller --batch-size" in said and said.count("\n") == 1


def test_what_nobody_expected_is_one_line(tmp_path, capsys, monkeypatch):
    """With its cause, and the file that has the traceback: beside the log once there is one."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))

    def graph():
        try:
            raise KeyError("aten::odd")
        except KeyError as error:
            raise RuntimeError("cannot convert\n" + "%1 : Tensor\n" * 1496) from error

    for folder in (tmp_path, tmp_path / "logs"):
        assert exit_code(graph) == 1
        said = capsys.readouterr().err
        assert said.startswith("error: unexpected: KeyError: 'aten::odd'; ") and said.count("\n") == 1
        kept = Path(said.split()[-1])
        assert kept.parent == folder and kept.read_text().count("%1 : Tensor") > 1490
        assert "in graph\n" in kept.read_text()
        (tmp_path / "logs").mkdir(exist_ok=True)
        log.start()
        log.to_file(tmp_path / "logs" / "log")
    log.stop()
    with pytest.raises(SystemExit):
        exit_code(lambda: sys.exit(3))


def test_signs_that_are_not_to_be_seen(tmp_path, capsys):
    """Of a name from elsewhere, neither terminal nor log get escape sequences, or lines that look like ours."""
    hostile = "\x1b[2J\x9b1m\u202egpj.\r\udcb0 반팔"

    def fails():
        raise UserError(
            f"t.csv: no column a; there are {hostile}\nerror: all is lost\n{shortened([hostile])}"
        )

    expected = r"\x1b[2J\x9b1m\u202egpj.\r\udcb0 반팔"
    for started in (False, True):
        if started:
            log.start()
            log.to_file(tmp_path / "log")
            log.logger.info(f"first\nsecond {hostile}")
        assert exit_code(fails) == 2
        said = capsys.readouterr()
        first, second = said.err.splitlines()
        assert first == rf"error: t.csv: no column a; there are {expected}\nerror: all is lost"
        assert second == f"  {expected}".replace(r"\r", " ")
    log.stop()
    log.logger.warning(hostile)  # of a command that has not started the log
    assert capsys.readouterr().err == f"{expected}\n"
    assert said.out == f"first\nsecond {expected}\n"
    text = (tmp_path / "log").read_text(encoding="utf-8")
    assert text.count(expected) == 2 and "\x1b" not in text


@pytest.mark.parametrize("encoding", ["ascii", "cp949", "utf-8"])
def test_a_terminal_that_is_not_utf8(encoding):
    """Signs that it does not have are question marks, also in what print and the logger say."""
    talk = "import sys; from utils.base import cli, log; sys.stdout.write(''); "
    talk += "sys.exit(cli.exit_code(lambda: [print('반팔 Ünï'), log.start(), log.logger.info('반팔 Ünï')]))"
    env = {**os.environ, "PYTHONIOENCODING": encoding}
    done = subprocess.run([sys.executable, "-c", talk], cwd=ROOT, env=env, capture_output=True)
    assert done.returncode == 0 and done.stderr == b""
    assert done.stdout == b"\n".join(["반팔 Ünï".encode(encoding, "replace")] * 2 + [b""])


def test_words_that_are_not_utf8():
    with pytest.raises(UserError, match=r"'shop/\\udcb0' is not in UTF-8") as error:
        parse_args(["--version", "a", "--data-dir", "shop/\udcb0"])
    str(error.value).encode()
