"""Train the teacher (FashionCLIP) or, with --kd-learning True, a student (TinyViT-5M, or another backbone)."""

import argparse
import sys

from utils.base.cli import Parser, exit_code, new_file, number, version_name
from utils.base.files import MARK, check_new
from utils.base.signals import StopSignals
from utils.nets.hub import CLIP_MODEL, STUDENT

# Torch is imported by main(), once the options are known to be right: --help and typing errors answer at once.

# Groups of options that mean something only with one of them.
VIEWS = "views of the training photos, with --views above 1"
STUDENTS = "a student, with --kd-learning True"
SOFT = "soft distillation, with --distillation-type soft"
SCHEDULE = "a learning rate schedule, with --scheduler True"


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

    p.view_options(p.add_argument_group(VIEWS))

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
    g.add_argument("--decay-epoch", type=number(int, 1), default=30, help="epochs of a cycle, warm-up included", metavar="N")
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
    if args.resume and args.overwrite:
        parser.error("--resume goes on with a run, --overwrite removes it: give one of the two")
    if args.decay_epoch <= args.warmup_epoch:
        parser.error(f"--decay-epoch {args.decay_epoch} must be above --warmup-epoch {args.warmup_epoch}")
    peak = args.lr * min(1.0, args.cos_gamma) ** ((args.epochs - 1) // args.decay_epoch)
    if args.scheduler and peak < args.min_lr:
        of = "" if args.lr < args.min_lr else f", times --cos-gamma {args.cos_gamma:g} in each cycle,"
        parser.error(
            f"--lr {args.lr:g}{of} is below --min-lr {args.min_lr:g}, where cycles start and end: add a lower --min-lr"
        )
    if args.distils and not (args.teacher or args.teacher_logits):
        parser.error("distillation needs --teacher FILE (in model/) or zero-shot, or --teacher-logits FILE")
    if args.logit_adjustment and args.loss_weight:
        parser.error(
            "--logit-adjustment and --loss-weight both favour rare classes: add --loss-weight False or --logit-adjustment 0"
        )
    if args.teacher and args.teacher_logits:
        parser.error(
            "--teacher-logits stands in for --teacher: give one of the two, or --teacher none with it"
        )
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


def main(argv=None):
    args = parse_args(argv)
    with StopSignals() as signals:
        from utils.base import log
        from utils.base.hardware import keep_freed_memory
        from utils.training.distributed import World
        from utils.training.run import Run, version_folder

        world = World(args.device)
        log.start(world.rank)
        keep_freed_memory()
        defaults = vars(parse_args(["--version", args.version]))
        with world, version_folder(args.version, world):
            train(args, Run(args, defaults, world), signals, world)


def train(args, run, signals, world):
    """One run, from top to bottom. Whatever can be wrong is looked at before a file of an earlier run is touched."""
    from networks import build_network
    from utils.base.hardware import choose_precision, make_reproducible
    from utils.base.log import logger
    from utils.data.attributes import read_attributes
    from utils.data.dataset import load_training_data, read_all_tables
    from utils.data.pixels import Images
    from utils.data.views import Views, view_options
    from utils.losses import build_criterion, class_shares, learned, learned_before, log_prior
    from utils.training import record
    from utils.training.engine import train_one_epoch, validate
    from utils.training.state import TrainState
    from utils.training.teacher import find_teacher, write_logits

    if run.is_finished and not args.save_teacher_logits:
        record.finished(run)
        return
    make_reproducible(args.seed)
    precision = run.began_with.get("precision", args.precision)
    precision = world.agreed(choose_precision(precision, world.device))
    attributes = read_attributes(args.attributes, args.prompts)
    tables = read_all_tables(args, attributes)
    run.check_attributes(attributes)
    net = build_network(args, attributes, run.began_with)
    teacher = None if run.has_all_logits else find_teacher(args, attributes, precision, run.teacher)
    with world.first_alone():
        shares = attributes.layout.shares
        data, pixels = load_training_data(tables, args.cache_dir, shares, args.skip_unreadable)
    labels, sizes = data["train"].labels, attributes.sizes
    before = run.began_with and learned_before(args, run.began_with)
    if args.kd_learning:
        net.class_share = class_shares(args, labels)
    if teacher and args.logit_adjustment and args.distillation_type == "soft":
        teacher.bring_to(log_prior(args, labels, sizes))

    run.check_data(data, sizes)
    run.check_room(net)
    images = {name: Images(its, world.device) for name, its in pixels.items()}
    views = Views(view_options(args), data["train"].boxes)
    if teacher:
        teacher.prepare(data["train"], images["train"], views)
    run.open(data)
    record.header(args, net, data, precision, world)
    for line in without_effect(args):
        logger.warning(f"warning: {line}")
    state = TrainState(net, args, precision, world, run, signals)
    if not run.began_with:  # so that last.pt has it from the beginning
        state.learn_from(teacher, views.of_epoch(images["train"], 1))
    state.learned = before or learned(args, labels, sizes, teacher, state.targets)
    criterion = build_criterion(args, labels, sizes, world.device, state.learned["decided"])
    if args.save_teacher_logits and run.writes:
        write_logits(args, teacher, data["train"].names, images["train"], views)

    state.load_or_begin(data)
    for epoch in state.epochs():
        view = views.of_epoch(images["train"], epoch)
        state.learn_from(teacher, view)
        losses = train_one_epoch(state, labels, view, criterion)
        scores = validate(state, data["val"].labels, images["val"])
        state.finish_epoch(losses, scores)
    if run.writes:
        record.summary(run, data)


if __name__ == "__main__":
    sys.exit(exit_code(main))
