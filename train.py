"""Train the teacher (FashionCLIP) or, with --kd-learning True, a student (TinyViT-5M, or another backbone)."""

import os
import sys
from functools import partial
from typing import Any, Dict, NamedTuple

from utils.base.cli import exit_code
from utils.base.signals import StopSignals
from utils.training.options import length_for, parse_args, without_effect

# Torch is imported by main(), once the options are known to be right: --help and typing errors answer at once.

NVIDIA_DRIVER = "/proc/driver/nvidia/version"  # is there where the driver is loaded


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
            saved = read_last(run.last_file, world) if args.resume else Saved()
            if saved.meta:
                began = saved.meta["options"]
                args.choose(began["epochs"], began["batch_size"], "as the run began")
                saved.check_options(vars(args), defaults, world.size)
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
    rows = len(tables["train"].names)
    args.choose(*length_for(rows), f"chosen for {rows:,} photos")
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
    record.header(net, options, task.tables, task.precision, world, args.notes)
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
