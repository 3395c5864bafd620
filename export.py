"""Write a trained student as one small file (ONNX in float32, float16 or int8, or folded weights for PyTorch), or as
a folder to share on the Hugging Face hub."""

import copy
import os
import shlex
import sys
import tempfile
import timeit

import numpy as np

from utils.base.cli import Parser, exit_code, is_full_memory, new_path, number
from utils.base.errors import LibraryError, UserError, cause_of, shortened
from utils.base.files import MARK, check_new, copy_file
from utils.data.attributes import UNKNOWN, read_attributes
from utils.data.photos import SIZE, read_photos
from utils.data.prior import prior_of
from utils.deployment import share
from utils.evaluation.inference import load_classifier, read_data
from utils.nets.hub import BEST, ZERO_SHOT, find_checkpoint

DATA_DIR = "./Dataset"
MAX_DROP = 0.01  # in mean Top-1, from the checkpoint to the file
WORDS = {"val": "validation", "test": "test"}  # of a part
EXPORTED = "exported"  # key at the beginning of a .pt of ours
BATCH = 16  # photos at a time, for the comparison


# fmt: off
def get_args_parser():
    p = Parser(prog="export.py", description=__doc__)
    p.add_argument("--checkpoint", required=True, help="of a student: model/NAME/best.pt, a published one, or a folder of --format hub, also as owner/name of the hub", metavar="FILE")
    p.add_argument("--output", type=new_path, required=True, help="file to write, .onnx, or .pt with --format pt; the folder of --format hub", metavar="FILE")
    p.add_argument("--format", choices=("onnx", "pt", "hub"), default="onnx", help="onnx runs without PyTorch, pt is a checkpoint for this project, hub is a folder with both and a model card")
    p.add_argument("--license", help="of the weights, for the model card, by the hub's name, such as mit", metavar="NAME")
    p.add_argument("--precision", choices=("fp32", "fp16", "int8"), default="fp32", help="of the stored weights; int8 (ONNX only) computes in 8 bits too, fp16 in float32")
    p.prior_option(p)
    p.add_argument("--max-mb", type=number(float, 0, above=True), default=25.0, help="limit of the file's size in MB (10^6 bytes); above it there is no file", metavar="X")
    p.data_options(p, cached=False)
    p.set_defaults(data_dir=None)  # to tell a folder that is asked for from one that may be there
    p.add_argument("--calibration", type=number(int, 1), default=128, help="number of training photos that int8 is calibrated on", metavar="N")
    p.add_argument("--compare", type=number(int, 1), default=400, help="number of validation photos that are compared, at most; for the card of --format hub all, or those of \"test\"", metavar="N")
    return p
# fmt: on


def parse_args(argv=None):
    """The options, checked against each other."""
    parser = get_args_parser()
    args = parser.parse_args(argv)
    if args.format == "hub":
        share.check_folder(args.output, args.checkpoint)
    elif args.license:
        parser.error("--license is for --format hub")
    elif not args.output.endswith(f".{args.format}"):
        parser.error(f"--output {args.output}: the name of a --format {args.format} ends in .{args.format}")
    if args.format == "pt" and args.precision == "int8":
        parser.error("--precision int8 is for --format onnx; a .pt is fp32 or fp16")
    if args.checkpoint.endswith(".onnx"):
        raise UserError(f"--checkpoint {args.checkpoint}: exported already; it needs the checkpoint (.pt)")
    if args.checkpoint == ZERO_SHOT:
        raise UserError(f"--checkpoint {ZERO_SHOT}: is no student; train one with it as --teacher")
    if args.format != "hub":
        check_new(args.output, is_exported, [args.checkpoint, os.path.join(args.checkpoint, BEST)])
    if args.data_dir is None and os.path.isdir(DATA_DIR):
        args.data_dir = DATA_DIR
    if args.data_dir is None and args.format == "hub":
        raise UserError(f"--format hub measures scores on photos: no {DATA_DIR}; name some with --data-dir")
    if args.data_dir is None and args.precision == "int8":
        raise UserError(f"--precision int8 is calibrated on photos: no {DATA_DIR}; name some with --data-dir")
    return args


def is_exported(head):
    """Whether a file that begins with these bytes is a student that was exported, .onnx or .pt."""
    head = head[:400]  # names of a trained network come later
    return MARK in head and (head.startswith(b"\x08") or EXPORTED.encode() in head)


def main(argv=None):
    args = parse_args(argv)
    checkpoint = load_classifier(args.checkpoint, prior=args.prior)
    if checkpoint.role != "student":
        raise UserError(f"--checkpoint {args.checkpoint}: a teacher's; only a student can be exported")
    calibration, photos = None, None
    if args.precision == "int8":
        _, calibration = photos_of(args, checkpoint, "train", args.calibration)
    if args.data_dir:
        photos = photos_of(args, checkpoint, *compared_part(args, checkpoint))
    with tempfile.TemporaryDirectory() as scratch:
        exported = os.path.join(scratch, "student.pt" if args.format == "pt" else "student.onnx")
        write(checkpoint.net, exported, export_meta(checkpoint, args), calibration)
        check_size(args, exported)
        compared = compare(args, checkpoint, exported, photos)
        if args.format == "hub":
            share_folder(args, checkpoint, exported, compared, photos[0])
            return
        copy_file(exported, args.output)


def compared_part(args, checkpoint):
    """(Part of the data set that is compared on, number of its photos): for the card all photos, and of "test", if there is one."""
    if args.format != "hub":
        return "val", args.compare
    attributes = read_attributes(args.attributes) if args.attributes else checkpoint.attributes
    return "test" if "test" in attributes.content else "val", sys.maxsize


def photos_of(args, checkpoint, split, count):
    """Letterboxed photos, evenly spread over a part of the data set, as the checkpoint's network was trained on it.

    Returns: (`utils.data.dataset.Table`, their pixels, uint8 `(N, 224, 224, 3)`).
    Raises: UserError if one of the photos chosen cannot be read, unless such are to be left out, or all.
    """
    table = read_data([checkpoint], args, split)[0]
    photos = len(table.names)
    table = table.rows(np.unique(np.linspace(0, photos - 1, min(count, photos)).astype(int)))
    pixels, problems = zip(*read_photos(table.paths(), table.exif))
    bad, good = list(filter(None, problems)), [i for i, problem in enumerate(problems) if problem is None]
    if bad and not (args.skip_unreadable and good):
        raise UserError(
            f"{len(bad)} of {len(pixels)} photos of {split} cannot be read; --skip-unreadable leaves out such:\n"
            + shortened(bad)
        )
    return table.rows(good), np.stack([pixels[i] for i in good])


def export_meta(checkpoint, args):
    """The checkpoint's meta without what concerns its machine, and what the file's reader wants to know besides."""
    from utils.nets.checkpoint import public_options

    options = checkpoint.meta.get("options")
    options = public_options(options) if isinstance(options, dict) else {}
    about = {"folded": True, "options": options, "version": options.get("version")}
    about["attributes"] = checkpoint.attributes.to_meta(tables=False)
    name = os.path.basename(os.path.normpath(args.checkpoint))
    about["export"] = {"precision": args.precision, "checkpoint": name, "format": 2}
    return {**checkpoint.meta, **checkpoint.net.describe(), **about}


def share_folder(args, checkpoint, exported, compared, photos):
    """Write the folder of --format hub, and say how it is uploaded. Args: `compared`, of `compare`; `photos`, the table of those on which."""
    from networks import load_network
    from utils.evaluation import metrics

    # As it was trained: not folded, so that it can be trained further, or teach.
    net, own = load_network(find_checkpoint(args.checkpoint))
    if args.prior == "balanced":
        net.subtract_prior(prior_of(own, net.attributes.sizes))
    meta = {**export_meta(checkpoint, args), **net.describe(), "folded": bool(checkpoint.meta.get("folded"))}
    old, new = (metrics.evaluation(probabilities, photos.labels, photos.groups) for probabilities in compared)
    old["split"] = WORDS[compared_part(args, checkpoint)[0]]
    card = share.model_card(net, meta, args.license, old, new["mean_top1"])
    share.write_folder(args.output, exported, net, meta, card)
    print(f"{args.output}: written. To share it, under a name of yours:")
    print(f"hf upload OWNER/NAME {shlex.quote(args.output)}")


def write(net, path, meta, calibration=None):
    """Write a folded student, in the form that its `meta` and the path's end name.

    Args: `calibration`, uint8 `(N, 224, 224, 3)` photos for int8.
    """
    precision = meta["export"]["precision"]
    if path.endswith(".pt"):
        from utils.nets.checkpoint import save_checkpoint

        mark = {EXPORTED: MARK.decode()}
        save_checkpoint(path, copy.deepcopy(net).half() if precision == "fp16" else net, meta, **mark)
        return
    try:
        from utils.deployment import onnx_graph
    except ImportError as error:
        raise UserError(f"--format onnx needs {error.name}: pip install onnx onnxruntime") from error
    try:
        model = onnx_graph.trace(net)
        if precision == "fp16":
            onnx_graph.to_fp16(model)
        elif precision == "int8":
            model = onnx_graph.to_int8(model, calibration)
        onnx_graph.save(model, path, meta, net.attributes)
    except Exception as error:  # a dozen kinds, of torch.onnx, onnx and onnxruntime
        if isinstance(error, (UserError, OSError)) or is_full_memory(error):
            raise
        problem = f"cannot be written as ONNX in {precision} ({cause_of(error)})"
        way_out = "--format pt writes it for PyTorch; or train another --student"
        raise LibraryError(f"{net.title}: {problem}; {way_out}") from error


def check_size(args, path):
    """Print the file's size; UserError above the limit."""
    megabytes = os.path.getsize(path) / 1e6
    print(f"{args.output}: {args.format}, {args.precision}, {megabytes:.2f} MB of {args.max_mb:g} MB")
    if megabytes > args.max_mb:
        raise UserError(
            f"{args.output}: {megabytes:.2f} MB is over --max-mb {args.max_mb:g}, nothing was written; "
            "--precision fp16 or int8 makes it smaller"
        )


# --- the comparison ----------------------------------------------------------------------------------


def compare(args, checkpoint, path, photos):
    """Print how the file differs from the checkpoint; UserError if it is too much.

    Args: `photos` of `photos_of`, or None.
    Returns: with photos (the checkpoint's probabilities, the file's), each a dict attribute -> float32 `(N, classes)`.
    """
    exported = load_classifier(path)
    slow, fast = seconds_per_photo(checkpoint, load_classifier(path, threads=1))
    times = f"{fast * 1e3:.1f} ms; the checkpoint, as predict.py runs it: {slow * 1e3:.1f} ms"
    print(f"one photo, one thread: {times} ({slow / fast:.2f} x)")
    if photos is None:
        print(f"nothing was compared with the checkpoint: no {DATA_DIR}; name a data set with --data-dir")
        return None
    table, pixels = photos
    labels = table.labels
    expected, got = (classifier.predict(pixels, BATCH) for classifier in (checkpoint, exported))
    difference = max(abs(expected[key] - got[key]).max() for key in labels)
    same = {key: (expected[key].argmax(axis=1) == got[key].argmax(axis=1)).mean() for key in labels}
    name = f"{len(pixels)} {WORDS[compared_part(args, checkpoint)[0]]} photos"
    print(f"probabilities differ by at most {difference:.1e} on {name}; the same classes: "
          + ", ".join(f"{key} {share:.4f}" for key, share in same.items()))  # fmt: skip
    check_accuracy(args, name, labels, expected, got)
    return expected, got


def check_accuracy(args, name, labels, expected, got):
    """Print Top-1 of both, attribute -> probabilities; UserError if the file's is much lower."""
    from utils.evaluation.metrics import evaluate

    old, new = (evaluate(probabilities, labels)["mean_top1"] for probabilities in (expected, got))
    if old is None:
        print(f"no label of the {name} is known, so that their accuracy is not")
        return
    print(f"mean Top-1 on {name}: {new:.4f}, the checkpoint {old:.4f} ({new - old:+.4f})")
    known = [count for count in ((values != UNKNOWN).sum() for values in labels.values()) if count]
    one_answer = 1 / (min(known) * len(known))  # more than the limit where photos are few
    if old - new > max(MAX_DROP, one_answer) + 1e-9:
        raise UserError(
            f"{args.output}: mean Top-1 falls by {old - new:.4f}, more than {MAX_DROP}, nothing was written; "
            "calibrate on more photos (--calibration), or use --precision fp16"
        )


def seconds_per_photo(*classifiers):
    """The shortest of some calls of each, PyTorch on one thread; in turns, so that a busy machine hits all alike."""
    import torch

    photo = np.zeros((1, SIZE, SIZE, 3), np.uint8)
    timers = [timeit.Timer(lambda classify=classify: classify(photo)) for classify in classifiers]
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    rounds = [[timer.timeit(1) for timer in timers] for _ in range(15)]
    torch.set_num_threads(threads)
    return np.min(rounds, axis=0)


if __name__ == "__main__":
    sys.exit(exit_code(main))
