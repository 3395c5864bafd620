"""Train the teacher (FashionCLIP) or, with --kd-learning True, the student (TinyViT-5M)."""

import os
import sys

from utils.errors import exit_code
from utils.options import Parser, cache_folder, number, version_name
from utils.signals import StopSignals

# Torch is imported by main(), once the options are known to be right: --help and typing errors answer at once.


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
    g.add_argument("--data-dir", default="./Dataset", help="folder of the data set", metavar="DIR")
    g.add_argument("--cache-dir", default=cache_folder(), help="folder for decoded pixels and teacher's logits", metavar="DIR")
    g.add_argument("--batch-size", type=number(int, 1), default=64, help="images per training step", metavar="N")
    g.add_argument("--val-batch-size", type=number(int, 1), default=32, help="images per step of validation and of the teacher's pass", metavar="N")

    g = p.add_argument_group("model")
    p.switch(g, "--kd-learning", "False trains the FashionCLIP teacher, True the TinyViT student")
    g.add_argument("--clip-model", default="patrickjohncyh/fashion-clip", help="hub name, local folder in Hugging Face layout, or 'random': a small CLIP with random weights", metavar="NAME")
    g.add_argument("--prompts", help="JSON file, attribute -> a sentence for each class; the default is clip_model.PROMPTS", metavar="FILE")
    g.add_argument("--student-weights", default="timm/tiny_vit_5m_224.dist_in22k", help="hub id, file, or 'none' for random weights", metavar="NAME")

    g = p.add_argument_group("distillation, with --kd-learning True")
    g.add_argument("--teacher", help="checkpoint relative to model/, or 'zero-shot': FashionCLIP as it comes", metavar="FILE")
    g.add_argument("--teacher-logits", help="in place of --teacher: .npz file with image_name and the logits of each attribute", metavar="FILE")
    g.add_argument("--save-teacher-logits", help="write the teacher's logits of the training images, for --teacher-logits", metavar="FILE")
    g.add_argument("--distillation-type", choices=("none", "soft", "hard"), default="hard", help="what is learned from the teacher: nothing, its logits, its decision")
    g.add_argument("--distillation-alpha", type=number(float, 0, 1), default=0.5, help="the teacher's share of the loss, 0 to 1", metavar="X")
    g.add_argument("--distillation-tau", type=number(float, 0, above=True), default=1.0, help="temperature of soft distillation", metavar="X")

    g = p.add_argument_group("loss")
    g.add_argument("--loss", choices=("CE",), default="CE", help="cross-entropy")
    g.add_argument("--ls", type=number(float, 0, 1, below=True), default=0.0, help="label smoothing, 0 to 1", metavar="X")
    p.switch(g, "--loss-weight", "weigh each class by 1 - its share of the training images")

    g = p.add_argument_group("optimizer")
    g.add_argument("--optimizer", choices=("Adam", "AdamW"), default="Adam", help="betas: Adam (0.9, 0.98), AdamW (0.9, 0.999)")
    g.add_argument("--lr", type=number(float, 0, above=True), default=1e-4, help="learning rate; with --scheduler the first peak", metavar="X")
    g.add_argument("--weight-decay", type=number(float, 0), default=0.0, help="L2 penalty with Adam, decoupled with AdamW", metavar="X")
    p.switch(g, "--clipping", "clip the norm of the gradient to 5.0")

    g = p.add_argument_group("learning rate schedule")
    p.switch(g, "--scheduler", "warm-up and cosine, with restarts, stepped once an epoch; False keeps --lr throughout")
    g.add_argument("--min-lr", type=number(float, 0), default=1e-6, help="where each cycle starts and ends", metavar="X")
    g.add_argument("--warmup-epoch", type=number(int, 0), default=10, help="epochs of warm-up in each cycle", metavar="N")
    g.add_argument("--decay-epoch", type=number(int, 1), default=30, help="epochs of a cycle, warm-up included", metavar="N")
    g.add_argument("--cos-gamma", type=number(float, 0, above=True), default=1.0, help="each peak is this many times the one before", metavar="X")

    g = p.add_argument_group("hardware")
    g.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto", help="auto: CUDA where there is one")
    g.add_argument("--precision", choices=("auto", "fp32", "bf16"), default="auto", help="of the networks; fp32 is TF32 on GPUs; auto: bf16 where a short measurement finds it at least 1.3 x as fast")
    return p
# fmt: on


def parse_args(argv=None):
    """The options, checked against each other."""
    parser = get_args_parser()
    args = parser.parse_args(argv)
    if args.resume and args.overwrite:
        parser.error("--resume goes on with a run, --overwrite removes it: give one of the two")
    args.distils = args.kd_learning and args.distillation_type != "none"
    if args.decay_epoch <= args.warmup_epoch:
        parser.error(
            f"--decay-epoch {args.decay_epoch} is the length of a cycle, warm-up included: "
            f"it must be above --warmup-epoch {args.warmup_epoch}"
        )
    if args.distils and not (args.teacher or args.teacher_logits):
        parser.error(
            f"--distillation-type {args.distillation_type} needs --teacher: a checkpoint relative to model/ such as "
            "teacher/model_5.pt, or zero-shot for FashionCLIP as it comes; or its logits, --teacher-logits FILE.npz"
        )
    if args.teacher and args.teacher_logits:
        parser.error("--teacher-logits stands in for --teacher: give one of the two")
    if (args.teacher or args.teacher_logits) and not args.kd_learning:
        name = "--teacher" if args.teacher else "--teacher-logits"
        parser.error(f"{name} is for training the student: add --kd-learning True")
    if args.save_teacher_logits and not (args.distils and args.teacher):
        parser.error(
            "--save-teacher-logits needs a teacher to ask: --kd-learning True --teacher, and a --distillation-type"
        )
    if args.save_teacher_logits and not os.path.isdir(os.path.dirname(args.save_teacher_logits) or "."):
        parser.error(f"--save-teacher-logits {args.save_teacher_logits}: there is no such folder")
    return args


def main(argv=None):
    args = parse_args(argv)
    with StopSignals() as signals:
        from utils import logging
        from utils.distributed import World
        from utils.hardware import keep_freed_memory

        world = World(args.device)
        logging.start(world.rank)
        keep_freed_memory()
        with world:
            train(args, signals, world)


def train(args, signals, world):
    """One run, from top to bottom."""
    import torch

    from clip_model import read_prompts
    from utils import engine, plots, report, resume
    from utils.dataset import load_pixels, read_tables
    from utils.hardware import choose_precision, make_reproducible
    from utils.losses import build_criterion
    from utils.optimizer import build_optimizer, build_scheduler
    from utils.pixels import Images
    from utils.run import Run, metrics_row
    from utils.teacher import find_teacher, save_logits, teacher_logits

    # Whatever can be wrong is looked at before anything of an earlier run is touched.
    run = Run(args.version, args.overwrite, args.resume, writes=world.is_first)
    options = {name: value for name, value in vars(args).items() if name != "distils"}
    saved = resume.read(run.last_file, options) if args.resume and run.is_begun else None
    if saved:
        run.rows = saved["progress"]["rows"]
        if len(run.rows) >= args.epochs:
            report.finished(run)
            return
    wanted = saved["meta"]["precision"] if saved else args.precision
    precision = world.agreed(choose_precision(wanted, world.device))
    tables = read_tables(args.data_dir)
    fingerprint = resume.data_fingerprint(tables)
    if saved:
        resume.check_data(saved, fingerprint, args.data_dir)
    prompts = read_prompts(args.prompts) if args.prompts and not saved else None
    make_reproducible(args.seed)
    net = build_network(args, prompts, saved)
    teacher = find_teacher(args, prompts, tables["train"].names, saved)
    with world.first_alone():
        data = load_pixels(tables, args.cache_dir)

    run.check_room(net, args.epochs, args.keep)
    run.open(options)
    report.header(options, net, data, precision, world)

    net.to(world.device, memory_format=torch.channels_last)
    data = {split: part._replace(pixels=Images(part.pixels, world.device)) for split, part in data.items()}
    with world.first_alone():
        taught = teacher_logits(teacher, data["train"], args.cache_dir, args.val_batch_size, precision)
    if args.save_teacher_logits and run.writes:
        save_logits(args.save_teacher_logits, data["train"].names, taught)
    del teacher  # it has said all it has to say
    criterion = build_criterion(args, data["train"].labels).to(world.device)
    optimizer = build_optimizer(net, args)
    scheduler = build_scheduler(optimizer, args)
    curves = plots.Curves(run.log_dir, args.tensorboard)

    meta = {"options": options, "precision": precision.name, **net.describe(), "role": net.role}
    constant = {"data": fingerprint, "teacher_logits": taught}
    progress = resume.Progress(run, net, optimizer, scheduler, signals, world, args, meta, constant)
    signals.defer(alone=world.size == 1, speaks=world.is_first)
    progress.begin(saved)
    del saved  # twice the weights and more
    parallel = world.parallel(net)

    for epoch in range(progress.epoch, args.epochs + 1):
        lr = optimizer.param_groups[0]["lr"]
        order = progress.order(len(data["train"].names))
        losses = engine.train_one_epoch(
            parallel,
            criterion,
            data["train"],
            taught,
            optimizer,
            order,
            args=args,
            progress=progress,
            precision=precision,
            world=world,
        )
        scores = engine.validate(net, data["val"], args.val_batch_size, precision, world, progress.poll)
        if scheduler:
            scheduler.step()

        row = metrics_row(epoch, lr, losses, scores, progress.seconds())
        run.save_epoch(net, row, meta)
        if run.writes:
            report.epoch(row, scores, args.epochs)
            curves.update(row)
        progress.next_epoch()
        run.prune(args.keep)
    if run.writes:
        report.summary(run, data)


def build_network(args, prompts, saved):
    """The network to be trained; of a resumed run, from what it was made from when the run began."""
    from clip_model import FashionCLIP
    from networks import Student

    if saved:
        return (Student if args.kd_learning else FashionCLIP).from_meta(saved["meta"])
    if args.kd_learning:
        return Student(args.distils, None if args.student_weights == "none" else args.student_weights)
    return FashionCLIP(args.clip_model, prompts)


if __name__ == "__main__":
    sys.exit(exit_code(main))
