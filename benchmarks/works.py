"""What is timed. Each side of a work is a function of a `timing.Job` that prepares it, and returns a function
that does it once: the training steps return their losses by attribute, the others nothing."""

import numpy as np
import torch
from utils.optimizer import build_optimizer

import train
from benchmarks import reference
from clip_model import PROMPTS, FashionCLIP
from utils import dataset, engine
from utils.attributes import ATTRIBUTES
from utils.checkpoint import load_state
from utils.distributed import World
from utils.hardware import Precision, choose_precision, keep_freed_memory, make_reproducible
from utils.losses import build_criterion, class_weights
from utils.pixels import Images

CPU = torch.device("cpu")
GROWING_STEPS = 8

# What counts of the two recipes' options (train.sh).
TEACHER = "--version bench --lr 1e-6 --weight-decay 0.2 --loss-weight True"
STUDENT = (
    "--version bench --lr 1e-3 --optimizer AdamW --weight-decay 0.01 --ls 0.1 --loss-weight True --kd-learning True "
    "--teacher zero-shot --distillation-type soft --distillation-tau 4 --distillation-alpha 0.9"
)


def _args(job, recipe):
    return train.parse_args(f"{recipe} --batch-size {job.batch_size} --epochs 1".split())


# --- the reference -----------------------------------------------------------------------------------


def reference_letterbox(job):
    return lambda: [reference.read(path) for path in job.paths] and None


def _read(job, batch):
    if job.whole_greys:
        return [dataset.letterbox(dataset.read_rgb(job.paths[i])) / 255 for i in batch]
    return [reference.read(job.paths[i]) for i in batch]


def reference_teacher(job):
    teacher, args = reference.Teacher(job.clip_config, PROMPTS), _args(job, TEACHER)
    optimizer = torch.optim.Adam(
        teacher.clip.parameters(), lr=args.lr, betas=(0.9, 0.98), weight_decay=args.weight_decay
    )
    return _reference_epoch(
        job,
        lambda images, labels, weights: reference.train_teacher(teacher, optimizer, images, labels, weights),
    )


def reference_student(job):
    teacher, student, args = (
        reference.Teacher(job.clip_config, PROMPTS),
        reference.build_student(),
        _args(job, STUDENT),
    )
    optimizer = torch.optim.AdamW(student.parameters(), lr=args.lr, weight_decay=args.weight_decay)
    settings = dict(alpha=args.distillation_alpha, tau=args.distillation_tau, smoothing=args.ls)
    student.train()
    return _reference_epoch(
        job, lambda *batch: reference.train_student(student, teacher, optimizer, *batch, **settings)
    )


def _reference_epoch(job, step):
    labels, weights = (
        {key: torch.from_numpy(values) for key, values in job.labels.items()},
        class_weights(job.labels),
    )

    def run():
        losses = []
        for batch in job.batches():
            losses.append(
                step(
                    _read(job, batch),
                    {key: v[batch.start : batch.stop] for key, v in labels.items()},
                    weights,
                )
            )
        return {key: float(np.mean([loss[key] for loss in losses])) for key in ATTRIBUTES}

    return run


def plain_teacher(job):
    return _plain(job, _teacher(job))


def plain_student(job):
    return _plain(job, reference.build_student())


def _plain(job, net):
    """Nothing but forward passes in evaluation mode, in the run's precision, of batches that lie ready."""
    pixels = torch.from_numpy(_pixels(job)).permute(0, 3, 1, 2)
    net.eval().to(memory_format=torch.channels_last)
    keep_freed_memory()

    @torch.no_grad()
    def run():
        with Precision(job.precision, "").autocast(CPU):
            for batch in job.batches():
                net(pixels[batch.start : batch.stop])

    return run


# --- the project -------------------------------------------------------------------------------------


def project_letterbox(job):
    keep_freed_memory()

    def run():
        dataset._resize_matrix.cache_clear()  # as for photos that are read for the first time
        for path in job.paths:
            dataset.letterbox(dataset.read_rgb(path))

    return run


def project_teacher(job):
    return _project_epoch(job, _teacher(job), TEACHER, taught=None)


def project_student(job):
    keep_freed_memory()
    float32 = Precision("fp32", "")
    taught = engine.predict(_teacher(job), Images(_pixels(job), CPU), job.batch_size, float32, "teacher")
    return _project_epoch(job, reference.build_student(), STUDENT, taught)


def project_validate_teacher(job):
    return _project_validation(job, _teacher(job))


def project_validate_student(job):
    return _project_validation(job, reference.build_student())


def _pixels(job):
    return np.stack([dataset.letterbox(dataset.read_rgb(path)) for path in job.paths])


def _teacher(job):
    """The project's teacher with the reference's weights."""
    tokenizer = reference.build_tokenizer(job.clip_config, PROMPTS)
    token_ids = {key: tokenizer(list(sentences))["input_ids"] for key, sentences in PROMPTS.items()}
    net = FashionCLIP.from_meta({"clip_config": job.clip_config, "prompts": PROMPTS, "token_ids": token_ids})
    load_state(net, net.own_names(reference.build_clip(job.clip_config).state_dict()), "of the reference")
    return net


def project_growing(job):
    """Some steps of the student's training on photos drawn at random from a cached array of many."""
    array = np.load(job.array, mmap_mode="r")
    random = torch.Generator().manual_seed(0)
    taught = {
        key: torch.randn(len(array), len(attribute.classes), generator=random)
        for key, attribute in ATTRIBUTES.items()
    }
    order = torch.randperm(len(array), generator=random)[: GROWING_STEPS * job.batch_size]
    return _project_epoch(job, reference.build_student(), STUDENT, taught, array, order)


def _project_epoch(job, net, recipe, taught, array=None, order=None):
    """train.py's epoch, set up as its main() does."""
    args = _args(job, recipe)
    keep_freed_memory()
    make_reproducible(args.seed)
    net.to(memory_format=torch.channels_last)
    criterion = build_criterion(args, job.labels)
    optimizer = build_optimizer(net, args)
    array = _pixels(job) if array is None else array
    order = torch.arange(len(array)) if order is None else order
    data = dataset.Split(job.paths, Images(array, CPU), job.labels)
    precision = Precision(job.precision, "")
    return lambda: engine.train_one_epoch(
        net,
        criterion,
        data,
        taught,
        optimizer,
        order,
        args=args,
        progress=_Unsaved(),
        precision=precision,
        world=World("cpu"),
    )


class _Unsaved:
    """In place of `utils.resume.Progress`: an epoch that is not saved."""

    epoch = 1

    def __init__(self):
        self.losses = torch.zeros(0, len(ATTRIBUTES))

    def poll(self):
        pass


def _project_validation(job, net):
    pixels, precision = Images(_pixels(job), CPU), Precision(job.precision, "")
    keep_freed_memory()
    net.to(memory_format=torch.channels_last)
    return lambda: engine.predict(net, pixels, job.batch_size, precision, "validation") and None


def facts(job):
    """Of the machine, for the table's head."""
    precision = choose_precision("auto", CPU)
    capability = torch.backends.cpu.get_cpu_capability() if hasattr(torch.backends, "cpu") else "cpu"
    return lambda: {
        "threads": torch.get_num_threads(),
        "capability": capability,
        "precision": precision.name,
        "reason": precision.reason,
    }
