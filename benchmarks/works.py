"""What is timed. Each side of a work is a function of a `Job` that prepares it, and returns a function that
does it once: the training steps return their losses by attribute, the others nothing."""

from functools import partial
from typing import NamedTuple

import numpy as np
import torch

import train
from benchmarks import recipe, reference
from clip_model import FashionCLIP, clip_config
from networks import Student
from utils.base.hardware import Precision, keep_freed_memory, make_reproducible
from utils.data import photos
from utils.data.attributes import Attributes
from utils.data.dataset import Table
from utils.data.pixels import Images
from utils.losses import build_criterion, class_weights, loss_options
from utils.nets.checkpoint import load_state
from utils.training import engine
from utils.training.distributed import World
from utils.training.state import build_state

CPU = torch.device("cpu")

# The shape of FashionCLIP, 151,277,313 weights.
VIT_B_32 = clip_config((512, 2048, 12, 8), (768, 3072, 12, 12), 512, 49408)


class Job(NamedTuple):
    """What every side of a work gets."""

    photos: Table
    attributes: Attributes
    batch_size: int
    precision: Precision  # of the project
    role: str = ""  # of the network that is trained, "teacher" or "student"
    clip: dict = VIT_B_32  # of clip_model.clip_config
    device: torch.device = CPU  # of the project's training

    def spread(self, count):
        """The same with that many of the photos, from their whole length; with all, if there are fewer."""
        indices = np.unique(np.arange(count) * len(self.photos.names) // count)
        return self._replace(photos=self.photos.rows(indices))

    def batches(self):
        """Int64 tensors of the photos' indices."""
        return torch.arange(len(self.photos.names)).split(self.batch_size)

    def args(self):
        """Options of train.py."""
        own = f"--version bench --epochs 1 --batch-size {self.batch_size} --scheduler False"
        return train.parse_args([*recipe(self.role).split(), *own.split()])

    def pixels(self):
        """The photos as the project letterboxes them."""
        return np.stack([photos.letterbox(photos.read_rgb(path)) for path in self.photos.paths()])


# --- the reference -----------------------------------------------------------------------------------


def reference_letterbox(job):
    return lambda: [reference.read(path) for path in job.photos.paths()] and None


def reference_training(job):
    args, teacher, student = job.args(), reference.Teacher(job.clip, job.attributes), new_student(job)
    weights = class_weights(job.photos.labels, job.attributes.sizes)
    options = {"lr": args.lr, "weight_decay": args.weight_decay}
    if job.role == "teacher":
        losses = partial(reference.teacher_losses, teacher)
        optimizer = torch.optim.Adam(teacher.clip.parameters(), betas=(0.9, 0.98), **options)
    else:
        losses = partial(reference.student_losses, student, teacher, args=args)
        optimizer = torch.optim.AdamW(student.parameters(), **options)

    def run():
        steps = []
        for indices in job.batches():
            batch = job.photos.rows(indices)
            labels = {key: torch.from_numpy(values) for key, values in batch.labels.items()}
            images = [reference.read(path) for path in batch.paths()]
            steps.append(reference.step(losses(images, labels, weights), optimizer))
        return {key: float(np.mean([step[key] for step in steps])) for key in weights}

    return run


# --- the project -------------------------------------------------------------------------------------


def project_letterbox(job):
    keep_freed_memory()

    def run():
        photos._resize_matrix.cache_clear()  # as for photos that are read for the first time
        job.pixels()

    return run


def project_training(job):
    """train.py's epoch, set up as its train() does, but for the images' order: the reference's, which is the table's."""
    keep_freed_memory()
    args, images = job.args(), Images(job.pixels(), job.device)
    net = new_teacher(job) if job.role == "teacher" else new_student(job)
    make_reproducible(args.seed)
    state = build_state(args, net.to(job.device, memory_format=torch.channels_last), len(images))
    state.order = torch.arange
    setup, targets = engine.build_setup(args, World(job.device.type), job.precision), None
    if job.role == "student":
        teacher = new_teacher(job).to(job.device)
        targets = engine.predict(teacher, images, job.precision, job.batches(), "photos")
        targets = {key: values.to(job.device) for key, values in targets.items()}
    examples = engine.Examples(images, job.photos.labels, targets)
    criterion = build_criterion(loss_options(args), job.photos.labels, job.attributes.sizes, job.device)

    def run():
        state.losses = state.losses[:0]  # no step is done of the epoch that begins
        return engine.train_one_epoch(state, criterion, examples, setup, net, lambda: None)

    return run


# --- the networks ------------------------------------------------------------------------------------


def new_student(job):
    torch.manual_seed(1)
    return Student(job.attributes)


def new_teacher(job):
    """The project's teacher with the reference's weights."""
    given = reference.Teacher(job.clip, job.attributes)
    token_ids = {key: [given.tokenize(s) for s in sentences] for key, sentences in given.prompts.items()}
    net = FashionCLIP.from_meta({"clip_config": job.clip, "token_ids": token_ids}, job.attributes)
    load_state(net, net.own_names(given.clip.state_dict()), "of the reference")
    return net
