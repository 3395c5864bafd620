"""Train the teacher (FashionCLIP) or, with --kd-learning True, a student (TinyViT-5M, or another backbone)."""

import os
import shlex
import sys
from functools import partial
from typing import Any, Dict, NamedTuple

from utils.base import log
from utils.base.cli import exit_code
from utils.base.errors import UserError
from utils.base.signals import StopSignals
from utils.training.options import length_for, parse_args

# Torch is imported by main(), once the options are known to be right: --help and typing errors answer at once.


def main(argv=None):
    argv = sys.argv[1:] if argv is None else argv
    args = parse_args(argv)
    if args.folds > 1 and not args.fold:
        if os.environ.get("WORLD_SIZE", "1") != "1":  # their connection cannot be made a second time
            raise UserError("--folds is for one process; with torchrun, train each by --fold K/N")
        for number in range(1, args.folds + 1):
            version, goes_on = f"{args.version}-fold-{number}", str(not args.overwrite)
            print(f"\n=== fold {number} of {args.folds}: {version}", flush=True)
            main([*argv, "--version", version, "--fold", f"{number}/{args.folds}", "--resume", goes_on])
        return
    with StopSignals() as signals:
        from utils.base.hardware import keep_freed_memory
        from utils.training.distributed import World
        from utils.training.resume import Saved, read_last
        from utils.training.run import Run, version_folder

        world = World(args.device)
        log.start(world.rank)
        log.logger.debug("command: train.py " + shlex.join(argv))
        keep_freed_memory()
        with world, version_folder(args.version, world):
            run = Run(args.version, world.is_first, args.best, args.keep)
            run.check_free(args.resume, args.overwrite, [args.student_weights, args.teacher])
            defaults = vars(parse_args(["--version", args.version]))
            saved = read_last(run.last_file, world) if args.resume else Saved()
            if saved.meta:
                began = saved.meta["options"]
                args.choose(began["epochs"], began["batch_size"], "as the run began")
                if args.student_weights and "--student" not in args.given:
                    args.student = began.get("student", args.student)
                saved.check_options(vars(args), defaults, world.size)
            if saved.meta and len(saved.rows) >= args.epochs and not args.save_teacher_logits:
                ends = args.scheduler and args.decay_epoch == args.epochs  # so that more would be another run
                way_out = "another --version begins anew" if ends else "a higher --epochs goes on from there"
                log.logger.info(f"{run.model_dir}: all {len(saved.rows)} epochs are done; {way_out}")
            else:
                train(args, run, saved, world, signals)


class Task(NamedTuple):
    """What a run trains, and on what."""

    net: Any  # Student or FashionCLIP, on the device
    setup: Any  # utils.training.engine.Setup
    loss: Any  # utils.losses.LossOptions
    teacher: Any  # utils.training.teacher.Teacher, or None
    tables: Dict[str, Any]  # "train" and "val" -> utils.data.dataset.Table
    images: Dict[str, Any]  # likewise utils.data.pixels.Images
    views: Any  # utils.data.views.Views
    counts: Dict[str, Any]  # of the labels by class, see utils.data.dataset.class_counts


def prepare(args, run, saved, world):
    """The Task of the options, and of a resumed run's last.pt. Whatever can be wrong is looked at; nothing of a run is written."""
    from torch import channels_last

    from networks import build_network
    from utils.base.hardware import choose_precision, make_reproducible
    from utils.data.attributes import read_attributes
    from utils.data.dataset import class_counts, load_training_data, read_all_tables
    from utils.data.pixels import Images
    from utils.data.views import Views, view_options
    from utils.losses import check_learnable, class_shares, log_prior, loss_options
    from utils.training.engine import build_setup
    from utils.training.teacher import find_teacher

    make_reproducible(args.seed)
    precision = world.broadcast(choose_precision(saved.meta.get("precision", args.precision), world.device))
    attributes, loss = read_attributes(args.attributes, args.prompts), loss_options(args)
    attributes = attributes.of_fold(args.fold) if args.fold else attributes
    tables = read_all_tables(args, attributes)
    rows = len(tables["train"].names)
    args.choose(*length_for(rows), f"chosen for {rows:,} photos")
    saved.check_attributes(attributes)
    net = build_network(args, attributes, saved.meta, saved.path)
    setup = build_setup(args, world, precision)
    teacher = find_teacher(args, net, setup, saved.progress)
    with world.first_alone():
        how = args.cache_dir, attributes.layout.shares, args.skip_unreadable
        tables, pixels = load_training_data(tables, *how)
    labels = tables["train"].labels
    if args.kd_learning:
        if teacher:
            net.keep_heads(teacher.taught)
        check_learnable(loss, labels, net.taught)
        net.weigh_heads(class_shares(loss, labels, net.taught))
    saved.check_data(tables, {key: attributes.sizes[key] for key in net.taught})
    run.check_room(net, args.epochs, bool(args.ema))
    images = {part: Images(its, world.device) for part, its in pixels.items()}
    views = Views(view_options(args), tables["train"].boxes)
    if teacher and loss.adjustment and loss.kind == "soft":
        teacher.shift_prior_to(log_prior(loss, labels, attributes.sizes))
    if teacher:
        teacher.prepare(tables["train"].names, images["train"], views)
    net = net.to(world.device, memory_format=channels_last)
    counts = class_counts(tables, attributes.sizes)
    return Task(net, setup, loss, teacher, tables, images, views, counts)


def introduce(args, run, saved, task, world):
    """Open the run's files, and tell what begins."""
    from utils.base.hardware import machine
    from utils.data.dataset import unreadable
    from utils.training import advice, record

    attributes, tables = task.net.attributes, task.tables
    run.open(vars(args), attributes, saved.rows)
    record.header(task.net, task.counts, tables, args.told(), args.notes)
    machine(world.device, task.setup.precision, world.size)
    log.logger.info(f"log: {run.log_file}")
    if run.writes:
        record.write_counts(os.path.join(run.log_dir, "classes.csv"), task.counts, attributes)
        unreadable(tables, os.path.join(run.log_dir, "unreadable.txt"))
    for line in advice.before(args, task.loss, tables, attributes, task.counts, world.device):
        log.logger.warning(f"warning: {line}")


def begin(args, run, saved, task, world):
    """What the epochs change; of a resumed run, still as it began. Returns: TrainState, Targets, loss."""
    from utils.losses import build_criterion, learned, learned_before
    from utils.nets.checkpoint import public_options
    from utils.training.resume import facts, fingerprint
    from utils.training.state import build_state
    from utils.training.teacher import Targets, said_of_views, save_logits

    net, table, images = task.net, task.tables["train"], task.images["train"]
    sizes, known = net.attributes.sizes, learned_before(task.loss, saved.meta) if saved.meta else None
    introduce(args, run, saved, task, world)
    state, targets = build_state(args, net, len(images)), Targets(task.teacher, world)
    if known is None:  # the first last.pt has the teacher's logits, too
        known = learned(task.loss, table.labels, sizes, task.teacher, targets.of(images))
    about = {"options": public_options(vars(args)), "precision": task.setup.precision.name}
    meta = {**about, "attributes": net.attributes.to_meta(), "class_counts": task.counts["train"]}
    data = {"data": fingerprint(task.tables), "facts": facts(task.tables)}
    run.describe({**meta, **known, **net.describe()}, **data, processes=world.size)
    if args.save_teacher_logits:
        said = said_of_views(task.teacher, images, task.views)
        if run.writes:
            save_logits(args.save_teacher_logits, table.names, *said)
    return state, targets, build_criterion(task.loss, table.labels, sizes, world.device, known["decided"])


def train(args, run, saved, world, signals):
    """One run, from top to bottom. Args: `saved`, what a resumed run's last.pt holds."""
    from utils.training import record
    from utils.training.engine import Examples, train_one_epoch, validate
    from utils.training.run import save_or_stop

    task = prepare(args, run, saved, world)
    state, targets, criterion = begin(args, run, saved, task, world)
    between_steps = partial(save_or_stop, run, state, targets, world, signals, args.save_every_minutes)
    signals.defer(alone=world.size == 1, speaks=world.is_first)
    if saved.meta:
        saved.load(state, targets)
        log.logger.info(f"resumed from {run.last_file}: epoch {state.epoch}, {len(state.losses)} steps done")
    else:
        run.save(state, targets)

    parallel, curves = world.parallel(state.net), record.Curves(run.log_dir, args.tensorboard)
    lines = record.EpochLines(state.net.attributes, args.epochs)
    labels, held_out = task.tables["train"].labels, Examples(task.images["val"], task.tables["val"].labels)
    for epoch in range(state.epoch, args.epochs + 1):
        view = task.views.view(task.images["train"], epoch - 1)
        examples = Examples(view, labels, targets.of(view, between_steps))
        losses = train_one_epoch(state, criterion, examples, task.setup, parallel, between_steps)
        scores = validate(state.averaged, held_out, task.setup, between_steps)
        row = record.metrics_row(state, losses, scores)
        run.finish_epoch(state.averaged, row)
        if run.writes:
            record.epoch(scores, state.net.attributes)
            lines.add(row, run.best is row)
            curves.update(row)
        state.finish_epoch()
        run.save(state, targets)
    if run.writes:
        record.summary(run, task.counts)


if __name__ == "__main__":
    sys.exit(exit_code(main))
