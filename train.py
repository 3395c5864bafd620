"""Train the teacher (FashionCLIP) or, with --kd-learning True, a student (TinyViT-5M, or another backbone)."""

import argparse
import os
import sys
from functools import partial
from importlib.util import find_spec
from typing import Any, Dict, NamedTuple

from utils.base.cli import Parser, exit_code, new_file, number, version_name
from utils.base.files import MARK, check_new
from utils.base.signals import StopSignals
from utils.nets.hub import CLIP_MODEL, STUDENT

# Torch is imported by main(), once the options are known to be right: --help and typing errors answer at once.

NVIDIA_DRIVER = "/proc/driver/nvidia/version"  # is there where the driver is loaded
# Groups of options that mean something only with one of them.
VIEWS = "views of the training photos, with --views above 1"
STUDENTS = "a student, with --kd-learning True"
SOFT = "soft distillation, with --distillation-type soft"
SCHEDULE = "a learning rate schedule, with --scheduler True"


def epochs_or_number(text):
    """A whole number of at least 1, or the word "epochs", which `parse_args` resolves."""
    return text if text == "epochs" else number(int, 1)(text)


# fmt: off
def get_args_parser():
    p = Parser(prog="train.py", description=__doc__)

    g = p.add_argument_group("the run")
    g.add_argument("--version", type=version_name, required=True, help="name: the run writes logs/NAME/ and model/NAME/", metavar="NAME")
    p.switch(g, "--overwrite", "remove the checkpoints and logs of an earlier run of this version first")
    p.switch(g, "--resume", "go on with an interrupted run of this version, from model/NAME/last.pt; with none, begin")
    g.add_argument("--save-every-minutes", type=number(float, 0, above=True), default=10.0, help="model/NAME/last.pt is written this often, and after every epoch", metavar="X")
    g.add_argument("--keep", type=number(int, 1), help="keep the checkpoints of the newest N epochs and of the best; the default is all", metavar="N")
    g.add_argument("--seed", type=number(int, 0, 2**32 - 1), default=214, help="of the weights and of the order of images", metavar="N")
    g.add_argument("--epochs", type=number(int, 1), default=100, help="passes over the training images", metavar="N")
    g.add_argument("--log-interval", type=number(int, 1), default=10, help="steps between two lines of the log", metavar="N")
    p.switch(g, "--tensorboard", "also write TensorBoard events, into logs/NAME/tensorboard; needs the package tensorboard")

    g = p.add_argument_group("data")
    p.data_options(g)
    p.unlabelled_option(g)
    g.add_argument("--batch-size", type=number(int, 1), default=64, help="images per training step", metavar="N")
    g.add_argument("--val-batch-size", type=number(int, 1), default=32, help="images per step of validation and of the teacher's pass", metavar="N")

    p.view_options(p.add_argument_group(VIEWS), epochs_or_number)

    g = p.add_argument_group("model")
    p.switch(g, "--kd-learning", "False trains the FashionCLIP teacher, True a student")
    g.add_argument("--clip-model", default=CLIP_MODEL, help="hub name, local folder in Hugging Face layout, or 'random': a small CLIP with random weights", metavar="NAME")
    g.add_argument("--prompts", help="JSON file, attribute -> for each class a sentence or a list of them; in place of those of --attributes", metavar="FILE")

    g = p.add_argument_group(STUDENTS)
    g.add_argument("--student", default=STUDENT, help="backbone of the student, by timm's name, with or without the tag of its weights", metavar="NAME")
    g.add_argument("--student-weights", help="of the backbone: hub id, file, also of a student of ours, or 'none' for random ones; without it timm's own on the hub", metavar="NAME")
    g.add_argument("--teacher", type=lambda name: None if name == "none" else name, help="checkpoint relative to model/, of a teacher or a student, or a folder of export.py --format hub, also as owner/name of the hub; 'zero-shot': FashionCLIP as it comes; 'none': not that of train.sh", metavar="FILE")
    g.add_argument("--teacher-logits", help="in place of --teacher: .npz file with image_name and the logits of each attribute", metavar="FILE")
    g.add_argument("--save-teacher-logits", type=new_file, help="write the teacher's logits of the training images, for --teacher-logits", metavar="FILE")
    g.add_argument("--distillation-type", choices=("none", "soft", "hard"), default="hard", help="what is learned from the teacher: nothing, its logits, its decision")
    g.add_argument("--distillation-alpha", type=number(float, 0, 1), default=0.5, help="the teacher's share of the loss, 0 to 1", metavar="X")

    g = p.add_argument_group(SOFT)
    g.add_argument("--distillation-tau", type=number(float, 0, above=True), default=1.0, help="temperature of soft distillation", metavar="X")
    g.add_argument("--distillation-reduction", choices=("classes", "batch"), default="classes", help="what the soft divergence is divided by: images times classes, as published, or images")

    training_options(p)

    g = p.add_argument_group("hardware")
    g.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto", help="auto: CUDA where there is one")
    g.add_argument("--precision", choices=("auto", "fp32", "bf16"), default="auto", help="of the networks; fp32 is TF32 on GPUs; auto: on CPUs bf16 where a short measurement finds it at least 1.3 x as fast")
    return p


def training_options(p):
    """Loss, optimizer and schedule."""
    g = p.add_argument_group("loss")
    g.add_argument("--loss", choices=("CE",), default="CE", help="cross-entropy")
    g.add_argument("--ls", type=number(float, 0, 1, below=True), default=0.0, help="label smoothing, 0 to 1", metavar="X")
    p.switch(g, "--loss-weight", "weigh each class by 1 - its share of the training images")
    g.add_argument("--logit-adjustment", type=number(float, 0), default=0.0, help="X * log(share of the class) is added to the logits within the cross-entropy: with 1 the network's own speak for classes of equal size", metavar="X")

    g = p.add_argument_group("optimizer")
    g.add_argument("--optimizer", choices=("Adam", "AdamW", "Muon"), default="Adam", help="betas: Adam (0.9, 0.98), AdamW (0.9, 0.999); Muon: for the matrices, and AdamW for the rest")
    g.add_argument("--lr", type=number(float, 0, above=True), default=1e-4, help="learning rate; with --scheduler the first peak", metavar="X")
    g.add_argument("--weight-decay", type=number(float, 0), default=0.0, help="L2 penalty with Adam, decoupled with AdamW and Muon", metavar="X")
    p.switch(g, "--clipping", "clip the norm of the gradient to 5.0")
    g.add_argument("--ema", type=number(float, 0, 1, above=True, below=True), help="keep a moving average of the weights with this decay, such as 0.999, and validate and save that", metavar="X")
    g.add_argument("--best", choices=("top1", "acsa"), default="top1", help="the score, a mean over the attributes, that best.pt follows")

    g = p.add_argument_group(SCHEDULE)
    p.switch(g, "--scheduler", "warm-up and cosine, with restarts; False keeps --lr throughout")
    g.add_argument("--schedule-by", choices=("epoch", "step"), default="epoch", help="how often the rate changes")
    g.add_argument("--min-lr", type=number(float, 0), default=1e-6, help="where each cycle starts and ends", metavar="X")
    g.add_argument("--warmup-epoch", type=number(int, 0), default=10, help="epochs of warm-up in each cycle", metavar="N")
    g.add_argument("--decay-epoch", type=epochs_or_number, default=30, help="epochs of a cycle, warm-up included; 'epochs': all of --epochs, of which the last is no warm-up", metavar="N")
    g.add_argument("--cos-gamma", type=number(float, 0, above=True), default=1.0, help="each peak is this many times the one before", metavar="X")
# fmt: on


class Options(argparse.Namespace):
    """The options of a run."""

    @property
    def distils(self):
        """Whether a student learns from a teacher."""
        return self.kd_learning and self.distillation_type != "none"


def parse_args(argv=None):
    """The options, checked against each other."""
    parser = get_args_parser()
    args = parser.parse_args(argv, Options())
    if args.views == "epochs":
        args.views = args.epochs
    if args.decay_epoch == "epochs":
        args.decay_epoch, args.warmup_epoch = args.epochs, min(args.warmup_epoch, args.epochs - 1)
    if args.resume and args.overwrite:
        parser.error("--resume goes on with a run, --overwrite removes it: give one of the two")
    if args.decay_epoch <= args.warmup_epoch:
        parser.error(f"--decay-epoch {args.decay_epoch} must be above --warmup-epoch {args.warmup_epoch}")
    peak = args.lr * min(1.0, args.cos_gamma) ** ((args.epochs - 1) // args.decay_epoch)
    if args.scheduler and peak < args.min_lr:
        of = "" if args.lr < args.min_lr else f", times --cos-gamma {args.cos_gamma:g} in each cycle,"
        parser.error(f"--lr {args.lr:g}{of} is below --min-lr {args.min_lr:g}: add a lower --min-lr")
    if args.distils and not (args.teacher or args.teacher_logits):
        parser.error(
            "distillation needs --teacher FILE or zero-shot, or --teacher-logits; else --distillation-type none"
        )
    if args.logit_adjustment and args.loss_weight:
        parser.error(
            "--logit-adjustment and --loss-weight True both favour rare classes: give one of the two"
        )
    if args.teacher and args.teacher_logits:
        parser.error("--teacher-logits stands in for --teacher: add --teacher none, or give one of the two")
    if (args.teacher or args.teacher_logits) and not args.kd_learning:
        name = "--teacher" if args.teacher else "--teacher-logits"
        parser.error(f"{name} is for training the student: add --kd-learning True")
    if args.unlabelled and not args.distils:
        parser.error("--unlabelled needs a teacher, who says what they are: --kd-learning True --teacher")
    if args.save_teacher_logits and not (args.distils and args.teacher):
        parser.error("--save-teacher-logits needs a --teacher to ask: --kd-learning True --teacher")
    if args.save_teacher_logits:  # the same run may have written it
        again = args.resume or args.overwrite
        check_new(args.save_teacher_logits, lambda head: again and head[30:].startswith(MARK))
    if args.tensorboard and find_spec("tensorboard") is None:
        parser.error("--tensorboard needs a package: pip install tensorboard")
    return args


def without_effect(args):
    """Lines: which options have other values than their defaults, and change nothing. No errors, since train.sh gives some that
    further ones make void, and its sample gives its own to teacher and student."""
    void = {
        VIEWS: args.views == 1 < args.epochs,  # a run's first epoch sees the photos themselves
        STUDENTS: not args.kd_learning,
        SOFT: args.kd_learning and args.distillation_type != "soft",
        SCHEDULE: not args.scheduler,
    }
    lines = []
    for group in get_args_parser()._action_groups:
        options = group._group_actions if void.get(group.title) else []
        idle = [a.option_strings[0] for a in options if getattr(args, a.dest) != a.default]
        if idle:
            lines.append(f"{', '.join(idle)}: without effect; meant for {group.title}")
    if args.scheduler and args.warmup_epoch >= args.epochs:
        lines.append(f"--epochs {args.epochs}: ends within --warmup-epoch {args.warmup_epoch}, below --lr")
    return lines


def warn(args, task):
    """Point out what one may not have meant."""
    from utils.base.log import logger
    from utils.losses import UNKNOWN, overweighted

    lines, tables, sizes = without_effect(args), task.tables, task.net.attributes.sizes
    if args.device == "auto" and task.images["val"].device.type != "cuda" and os.path.exists(NVIDIA_DRIVER):
        lines.append("PyTorch cannot use the NVIDIA GPU here: install a build of it that fits the driver")
    if not args.kd_learning and args.clip_model == "random":
        lines.append("--clip-model random: a small CLIP with random weights, not FashionCLIP")
    if args.kd_learning and args.student_weights == "none":
        lines.append("--student-weights none: the student starts from random weights")
    for key in overweighted(task.loss, tables["train"].labels, sizes):
        problem = f"--ls {args.ls} and --loss-weight True together let its rare classes win on every photo"
        lines.append(f"{key}: {problem}; add --ls 0, or --logit-adjustment 1 --loss-weight False")
    for key, labels in tables["val"].labels.items():
        if (labels == UNKNOWN).all():
            lines.append(f"{key}: no label in validation: no score, and no part in the means")
    for line in lines:
        logger.warning(f"warning: {line}")


# --- the run -----------------------------------------------------------------------------------------


def main(argv=None):
    args = parse_args(argv)
    with StopSignals() as signals:
        from utils.base import log
        from utils.base.hardware import keep_freed_memory
        from utils.training.distributed import World
        from utils.training.resume import Saved, read_last
        from utils.training.run import Run, version_folder

        world = World(args.device)
        log.start(world.rank)
        keep_freed_memory()
        with world, version_folder(args.version, world):
            run = Run(args.version, world.is_first, args.best, args.keep)
            run.check_free(args.resume, args.overwrite)
            defaults = vars(parse_args(["--version", args.version]))
            saved = read_last(run.last_file, vars(args), defaults, world) if args.resume else Saved()
            if saved.is_finished(args.epochs) and not args.save_teacher_logits:
                done = f"all {len(saved.rows)} epochs are done; a higher --epochs goes on from there"
                log.logger.info(f"{run.model_dir}: {done}")
            else:
                train(args, run, saved, world, signals)


class Task(NamedTuple):
    """What a run trains, and on what."""

    net: Any  # Student or FashionCLIP, on the device
    precision: Any  # utils.base.hardware.Precision
    loss: Any  # utils.losses.LossOptions
    teacher: Any  # utils.training.teacher.Teacher, or None
    tables: Dict[str, Any]  # "train" and "val" -> utils.data.dataset.Table
    images: Dict[str, Any]  # likewise utils.data.pixels.Images
    views: Any  # utils.data.views.Views


def prepare(args, run, saved, world):
    """The Task of the options, and of a resumed run's last.pt. Whatever can be wrong is looked at; nothing of a run is written."""
    from torch import channels_last

    from networks import build_network
    from utils.base.hardware import choose_precision, make_reproducible
    from utils.data.attributes import read_attributes
    from utils.data.dataset import load_training_data, read_all_tables
    from utils.data.pixels import Images
    from utils.data.views import Views, view_options
    from utils.losses import check_learnable, class_shares, log_prior, loss_options
    from utils.training.teacher import find_teacher

    make_reproducible(args.seed)
    precision = world.broadcast(choose_precision(saved.meta.get("precision", args.precision), world.device))
    attributes, loss = read_attributes(args.attributes, args.prompts), loss_options(args)
    tables = read_all_tables(args, attributes)
    saved.check_attributes(attributes)
    net = build_network(args, attributes, saved.meta, saved.path)
    teacher = find_teacher(args, attributes, precision, saved.progress)
    with world.first_alone():
        how = args.cache_dir, attributes.layout.shares, args.skip_unreadable
        tables, pixels = load_training_data(tables, *how)
    labels = tables["train"].labels
    if args.kd_learning:
        check_learnable(loss, labels)
        net.weigh_heads(class_shares(loss, labels))
    saved.check_data(tables, attributes.sizes)
    run.check_room(net, args.epochs, bool(args.ema))
    images = {part: Images(its, world.device) for part, its in pixels.items()}
    views = Views(view_options(args), tables["train"].boxes)
    if teacher and loss.adjustment and loss.kind == "soft":
        teacher.shift_prior_to(log_prior(loss, labels, attributes.sizes))
    if teacher:
        teacher.prepare(tables["train"].names, images["train"], views)
    net = net.to(world.device, memory_format=channels_last)
    return Task(net, precision, loss, teacher, tables, images, views)


def begin(args, run, saved, task, world):
    """Begin the run's files, and what the epochs change; of a resumed run, still as it began. Returns: TrainState, Targets, loss."""
    from utils.data.dataset import unreadable
    from utils.losses import build_criterion, learned, learned_before
    from utils.nets.checkpoint import public_options
    from utils.training import record
    from utils.training.resume import fingerprint
    from utils.training.state import build_state
    from utils.training.teacher import Targets, save_logits_of_views

    net, table, images = task.net, task.tables["train"], task.images["train"]
    options, sizes = vars(args), net.attributes.sizes
    facts = learned_before(task.loss, saved.meta) if saved.meta else None
    counts = record.class_counts(task.tables, sizes)
    run.open(options, sizes, saved.rows)
    record.header(net, options, task.tables, task.precision, world)
    if run.writes:
        record.write_classes(run.classes_file, counts, net.attributes)
        unreadable(task.tables, os.path.join(run.log_dir, "unreadable.txt"))
    warn(args, task)
    state, targets = build_state(args, net, len(images)), Targets(task.teacher, world)
    if facts is None:  # the first last.pt has the teacher's logits, too
        facts = learned(task.loss, table.labels, sizes, task.teacher, targets.of(images))
    about = {"options": public_options(options), "precision": task.precision.name}
    meta = {**about, "attributes": net.attributes.to_meta(), "class_counts": counts["train"]}
    run.describe({**meta, **facts, **net.describe()}, data=fingerprint(task.tables), processes=world.size)
    if args.save_teacher_logits and run.writes:
        how = task.teacher, table.names, images, task.views
        save_logits_of_views(args.save_teacher_logits, *how)
    return state, targets, build_criterion(task.loss, table.labels, sizes, world.device, facts["decided"])


def train(args, run, saved, world, signals):
    """One run, from top to bottom. Args: `saved`, what a resumed run's last.pt holds."""
    from utils.base.log import logger
    from utils.training import record
    from utils.training.engine import Examples, build_setup, train_one_epoch, validate
    from utils.training.run import save_or_stop

    task = prepare(args, run, saved, world)
    state, targets, criterion = begin(args, run, saved, task, world)
    setup = build_setup(args, world, task.precision)
    between_steps = partial(save_or_stop, run, state, targets, world, signals, args.save_every_minutes)
    signals.defer(alone=world.size == 1, speaks=world.is_first)
    if saved.meta:
        saved.load(state, targets)
        logger.info(f"resumed from {run.last_file}: epoch {state.epoch}, {len(state.losses)} steps done")
    else:
        run.save(state, targets)

    parallel, curves = world.parallel(state.net), record.Curves(run.log_dir, args.tensorboard, run.score)
    labels, held_out = task.tables["train"].labels, Examples(task.images["val"], task.tables["val"].labels)
    for epoch in range(state.epoch, args.epochs + 1):
        view = task.views.of_epoch(task.images["train"], epoch)
        examples = Examples(view, labels, targets.of(view, between_steps))
        losses = train_one_epoch(state, criterion, examples, setup, parallel, between_steps)
        scores = validate(state.averaged, held_out, setup, between_steps)
        row = record.metrics_row(state, losses, scores)
        run.finish_epoch(state.averaged, row)
        if run.writes:
            record.epoch(row, scores["matrix"], state.net.attributes, args.epochs)
            curves.update(row)
        state.finish_epoch()
        run.save(state, targets)
    if run.writes:
        record.summary(run, task.tables)


if __name__ == "__main__":
    sys.exit(exit_code(main))
