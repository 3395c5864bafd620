"""What is timed. Each side of a work is a function of a `jobs.Job` that prepares it, and returns a function
that does it once: the training steps return their losses by attribute, the others nothing."""

import numpy as np
import torch

import train
from benchmarks import reference
from clip_model import FashionCLIP, clip_config
from networks import Student
from utils import engine, photos
from utils.checkpoint import load_state
from utils.distributed import World
from utils.hardware import Precision, choose_precision, keep_freed_memory, make_reproducible
from utils.losses import build_criterion, class_weights
from utils.pixels import Images
from utils.state import TrainState

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


def _prompts(job):
    return {key: [sentence for (sentence,) in attribute.prompts] for key, attribute in job.attributes.items()}


def _student(job):
    torch.manual_seed(1)
    return Student(job.attributes)


# --- the reference -----------------------------------------------------------------------------------


def reference_letterbox(job):
    return lambda: [reference.read(path) for path in job.photos.paths()] and None


def reference_teacher(job):
    args, teacher = _args(job, TEACHER), reference.Teacher(clip_config(*job.clip), _prompts(job))
    optimizer = torch.optim.Adam(
        teacher.clip.parameters(), lr=args.lr, betas=(0.9, 0.98), weight_decay=args.weight_decay
    )
    return _reference_epoch(job, optimizer, lambda *batch: reference.teacher_losses(teacher, *batch))


def reference_student(job):
    args, teacher = _args(job, STUDENT), reference.Teacher(clip_config(*job.clip), _prompts(job))
    student = _student(job).train()
    optimizer = torch.optim.AdamW(student.parameters(), lr=args.lr, weight_decay=args.weight_decay)
    return _reference_epoch(
        job, optimizer, lambda *batch: reference.student_losses(student, teacher, *batch, args)
    )


def _reference_epoch(job, optimizer, losses):
    """Args: `losses`, a function of images, labels and class weights."""
    labels = {key: torch.from_numpy(values) for key, values in job.photos.labels.items()}
    weights = class_weights(job.photos.labels, job.attributes.sizes)

    def run():
        steps = []
        for batch in job.batches():
            chosen = {key: values[batch.start : batch.stop] for key, values in labels.items()}
            steps.append(reference.step(losses(_read(job, batch), chosen, weights), optimizer))
        return {key: float(np.mean([step[key] for step in steps])) for key in labels}

    return run


def _read(job, batch):
    paths = job.photos.paths()[batch.start : batch.stop]
    if job.whole_greys:
        return [photos.letterbox(photos.read_rgb(path)) / 255 for path in paths]
    return [reference.read(path) for path in paths]


def plain_teacher(job):
    return _plain(job, _teacher(job))


def plain_student(job):
    return _plain(job, _student(job))


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
        photos._resize_matrix.cache_clear()  # as for photos that are read for the first time
        _pixels(job)

    return run


def project_teacher(job):
    return _project_epoch(job, _teacher(job), TEACHER, taught=None)


def project_student(job):
    keep_freed_memory()
    taught = _predict(job, _teacher(job), _pixels(job), "fp32")
    return _project_epoch(job, _student(job), STUDENT, taught)


def project_growing(job):
    """Some steps of the student's training on photos drawn at random from a cached array of many."""
    array = np.load(job.array, mmap_mode="r")
    random = torch.Generator().manual_seed(0)
    taught = {
        key: torch.randn(len(array), classes, generator=random)
        for key, classes in job.attributes.sizes.items()
    }
    order = torch.randperm(len(array), generator=random)[: GROWING_STEPS * job.batch_size]
    return _project_epoch(job, _student(job), STUDENT, taught, array, order)


def _project_epoch(job, net, recipe, taught, array=None, order=None):
    """train.py's epoch, set up as its train() does, but for the images' order: the reference's, which is the table's."""
    args = _args(job, recipe)
    keep_freed_memory()
    make_reproducible(args.seed)
    state = TrainState(net, args, Precision(job.precision, ""), World("cpu"))
    state.targets = taught
    array = _pixels(job) if array is None else array
    state.order = lambda images: torch.arange(images) if order is None else order
    criterion = build_criterion(args, job.photos.labels, job.attributes.sizes, CPU)
    data = job.photos._replace(pixels=Images(array, CPU))

    def run():
        state.losses = state.losses[:0]  # no step is done of the epoch that begins
        return engine.train_one_epoch(state, data, criterion)

    return run


def project_validate_teacher(job):
    return _project_validation(job, _teacher(job))


def project_validate_student(job):
    return _project_validation(job, _student(job))


def _project_validation(job, net):
    pixels = _pixels(job)
    keep_freed_memory()
    net.to(memory_format=torch.channels_last)
    return lambda: _predict(job, net, pixels, job.precision) and None


def _predict(job, net, pixels, precision):
    batches = torch.arange(len(pixels)).split(job.batch_size)
    return engine.predict(net, Images(pixels, CPU), Precision(precision, ""), batches, "photos")


def _pixels(job):
    return np.stack([photos.letterbox(photos.read_rgb(path)) for path in job.photos.paths()])


def _teacher(job):
    """The project's teacher with the reference's weights."""
    config, prompts = clip_config(*job.clip), _prompts(job)
    tokenizer = reference.build_tokenizer(config, prompts)
    token_ids = {key: tokenizer(sentences)["input_ids"] for key, sentences in prompts.items()}
    net = FashionCLIP.from_meta({"clip_config": config, "token_ids": token_ids}, job.attributes)
    load_state(net, net.own_names(reference.build_clip(config).state_dict()), "of the reference")
    return net


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
