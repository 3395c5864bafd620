"""Write a trained student as one small file (ONNX in float32, float16 or int8, or folded weights for PyTorch), or as
a folder to share on the Hugging Face hub."""

import copy
import functools
import os
import shlex
import sys
import tempfile
import timeit

import numpy as np

from utils.base.cli import Parser, exit_code, is_full_memory, new_path, number
from utils.base.errors import LibraryError, UserError, cause_of, shortened
from utils.base.files import MARK, check_new, copy_file
from utils.data.attributes import read_attributes
from utils.data.photos import SIZE, read_photos
from utils.data.prior import options_of
from utils.deployment import share
from utils.evaluation import metrics
from utils.evaluation.as_trained import read_as_trained
from utils.evaluation.confidence import KEY, measure
from utils.evaluation.inference import load_classifier
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
    p.device_option(p)
    p.add_argument("--max-mb", type=number(float, 0, above=True), default=25.0, help="limit of the file's size in MB (10^6 bytes); above it there is no file", metavar="X")
    p.data_options(p, cached=False)
    p.set_defaults(data_dir=None)  # to tell a folder that is asked for from one that may be there
    p.add_argument("--calibration", type=number(int, 1), default=128, help="number of training photos that int8 is calibrated on", metavar="N")
    p.add_argument("--compare", type=number(int, 1), default=2000, help="number of validation photos that are compared, at most, and tell which answers are sure; for the card of --format hub all, or those of \"test\"", metavar="N")
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
    if args.checkpoint == ZERO_SHOT or args.checkpoint.endswith(".onnx"):
        raise UserError(f"--checkpoint {args.checkpoint}: not a student's checkpoint, all that is exported")
    if args.format != "hub":
        check_new(args.output, is_exported, [args.checkpoint, os.path.join(args.checkpoint, BEST)])
    if args.data_dir is None and os.path.isdir(DATA_DIR):
        args.data_dir = DATA_DIR
    if args.data_dir is None and (args.format == "hub" or args.precision == "int8"):
        raise UserError(f"--format hub and --precision int8 need photos: no {DATA_DIR}; name a --data-dir")
    return args


def is_exported(head):
    """Whether a file that begins with these bytes is a student that was exported, .onnx or .pt."""
    head = head[:400]  # names of a trained network come later
    return MARK in head and (head.startswith(b"\x08") or EXPORTED.encode() in head)


def main(argv=None):
    args = parse_args(argv)
    checkpoint = load_classifier(args.checkpoint, prior=args.prior, device=args.device)
    if checkpoint.role != "student":
        raise UserError(f"--checkpoint {args.checkpoint}: a teacher's; only a student can be exported")
    calibration, photos, split, count = None, None, "val", args.compare
    if args.format == "hub":  # its card tells the scores of all photos
        attributes = read_attributes(args.attributes) if args.attributes else checkpoint.attributes
        split, count = "test" if "test" in attributes.content else "val", sys.maxsize
    how = {key: getattr(args, key) for key in ("data_dir", "attributes", "skip_unreadable", "follow_links")}
    if args.precision == "int8":
        _, calibration = photos_of(checkpoint, "train", args.calibration, **how)
    if args.data_dir:
        photos = photos_of(checkpoint, split, count, **how)
    meta = export_meta(checkpoint, args.precision)
    with tempfile.TemporaryDirectory() as scratch:
        exported = os.path.join(scratch, "student.pt" if args.format == "pt" else "student.onnx")
        net = copy.deepcopy(checkpoint.net).cpu().without_prior(checkpoint.taken_off)
        write_again = write(net, exported, meta, calibration)
        say_seconds(checkpoint, exported)
        if photos is None:
            print(f"nothing was compared, and no answer is sure: no {DATA_DIR}; name a --data-dir")
        else:
            reports = compare_answers(checkpoint, exported, *photos, WORDS[split])
            write_again({**meta, KEY: reports[1][KEY]})
        megabytes = os.path.getsize(exported) / 1e6
        print(f"{args.output}: {args.format}, {args.precision}, {megabytes:.2f} MB of {args.max_mb:g} MB")
        if megabytes > args.max_mb:
            raise UserError(f"over --max-mb {args.max_mb:g}, nothing was written; fp16 and int8 are smaller")
        if args.format == "hub":
            from networks import load_network

            # As it was trained: not folded, so that it can be trained further, or teach.
            net = load_network(find_checkpoint(checkpoint.path))[0].without_prior(checkpoint.taken_off)
            folded = bool(checkpoint.meta.get("folded"))
            meta = {**meta, **net.describe(), KEY: reports[0][KEY], "folded": folded}
            card = share.model_card(net, meta, args.license, reports[0], reports[1]["mean_top1"])
            share.write_folder(args.output, exported, net, meta, card)
            print(f"{args.output}: written. To share it, under a name of yours:")
            print(f"hf upload OWNER/NAME {shlex.quote(args.output)}")
        else:
            copy_file(exported, args.output)


def photos_of(checkpoint, split, count, skip_unreadable=False, **how):
    """Photos evenly spread over a part of the data set, as the checkpoint's network was trained on it.

    Args: `checkpoint`, a `Classifier`; `how` as of `read_as_trained`.
    Returns: (`utils.data.dataset.Table`, their letterboxed pixels, uint8 `(N, 224, 224, 3)`).
    Raises: UserError if one of the photos chosen cannot be read, unless such are to be left out, or all.
    """
    table = read_as_trained([checkpoint], split, skip_unreadable=skip_unreadable, **how)[0]
    photos = len(table.names)
    table = table.rows(np.unique(np.linspace(0, photos - 1, min(count, photos)).astype(int)))
    pixels, problems = zip(*read_photos(table.paths(), table.exif))
    bad, good = list(filter(None, problems)), [i for i, problem in enumerate(problems) if problem is None]
    if bad and not (skip_unreadable and good):
        problem = f"{len(bad)} of {len(pixels)} photos of {split} cannot be read"
        raise UserError(f"{problem}; --skip-unreadable leaves out such:\n{shortened(bad)}")
    return table.rows(good), np.stack([pixels[i] for i in good])


def export_meta(checkpoint, precision):
    """The checkpoint's meta without what concerns its machine, and what the file's reader wants to know besides."""
    from utils.nets.checkpoint import public_options

    options = public_options(options_of(checkpoint.meta))
    about = {KEY: None, "folded": True, "options": options, "version": options.get("version")}
    about["attributes"] = checkpoint.attributes.to_meta(tables=False)
    name = os.path.basename(os.path.normpath(checkpoint.path))
    about["export"] = {"precision": precision, "checkpoint": name, "format": 2}
    return {**checkpoint.meta, **checkpoint.net.describe(), **about}


def write(net, path, meta, calibration=None):
    """Write a folded student, in the form that its `meta` and the path's end name.

    Args: `calibration`, uint8 `(N, 224, 224, 3)` photos for int8.
    Returns: a function that writes it again with other meta.
    """
    precision = meta["export"]["precision"]
    if path.endswith(".pt"):
        from utils.nets.checkpoint import save_checkpoint

        net = copy.deepcopy(net).half() if precision == "fp16" else net
        save = functools.partial(save_checkpoint, path, net, **{EXPORTED: MARK.decode()})
        save(meta)
        return save
    try:
        from utils.deployment import onnx_graph
    except ImportError as error:
        raise UserError(f"--format onnx needs {error.name}: pip install onnx onnxruntime") from error
    try:
        model = onnx_graph.trace(net)
        if precision == "fp16":
            onnx_graph.narrow(model)
        elif precision == "int8":
            model = onnx_graph.to_int8(model, calibration)
        save = functools.partial(onnx_graph.save, model, path)
        save(meta)
        return save
    except Exception as error:  # a dozen kinds, of torch.onnx, onnx and onnxruntime
        if isinstance(error, (UserError, OSError)) or is_full_memory(error):
            raise
        problem = f"{net.title}: cannot be written as ONNX in {precision} ({cause_of(error)})"
        raise LibraryError(f"{problem}; --format pt writes it, or train another --student") from error


# --- the comparison ----------------------------------------------------------------------------------


def say_seconds(checkpoint, path):
    """Print how long one photo takes: the shortest of some calls of each, PyTorch on one thread; in turns, so that a busy
    machine hits both alike."""
    import torch

    photo = np.zeros((1, SIZE, SIZE, 3), np.uint8)
    both = load_classifier(checkpoint.path), load_classifier(path, threads=1)
    timers = [timeit.Timer(lambda classify=classify: classify(photo)) for classify in both]
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    slow, fast = np.min([[timer.timeit(1) for timer in timers] for _ in range(15)], axis=0)
    torch.set_num_threads(threads)
    times = f"{fast * 1e3:.1f} ms; the checkpoint, as predict.py runs it: {slow * 1e3:.1f} ms"
    print(f"one photo, one thread: {times} ({slow / fast:.2f} x)")


def compare_answers(checkpoint, path, table, pixels, split):
    """Print how the file's answers differ from the checkpoint's; UserError if they are much worse.

    Args: `table` and `pixels` of `photos_of`; `split`, what the photos are called.
    Returns: (the checkpoint's figures, the file's), see `utils.evaluation.metrics.report`, each with "split", and "sure" as the
        file's meta have it.
    """
    labels, name = table.labels, f"{len(pixels)} {split} photos"
    expected, got = (one.predict(pixels, BATCH) for one in (checkpoint, load_classifier(path)))
    difference = max(abs(expected[key] - got[key]).max() for key in labels)
    same = {key: (expected[key].argmax(axis=1) == got[key].argmax(axis=1)).mean() for key in labels}
    shares = ", ".join(f"{key} {share:.4f}" for key, share in same.items())
    print(f"probabilities differ by at most {difference:.1e} on {name}; the same classes: {shares}")
    reports = []
    for said in (expected, got):
        sure = {"attributes": measure(said, labels, table.groups)}
        reports.append({"split": split, KEY: sure, **metrics.report(said, labels, table.groups)})
    old, new = (report["mean_top1"] for report in reports)
    if old is None:
        print(f"no label of the {name} is known, so that their accuracy is not")
        return reports
    columns = {"checkpoint": metrics.by_attribute(reports[0], "top1")}
    columns["file"] = metrics.by_attribute(reports[1], "top1")
    columns["majority"] = metrics.by_attribute(reports[1], "majority")
    print("\n".join(metrics.score_table("Top-1", columns)))
    if reports[1]["warning"]:
        print(reports[1]["warning"])
    print(f"mean Top-1 on {name}: {new:.4f}, the checkpoint {old:.4f} ({new - old:+.4f})")
    known = [one["images"] for one in reports[0]["attributes"].values() if one["images"]]
    one_answer = 1 / (min(known) * len(known))  # more than the limit where photos are few
    if old - new > max(MAX_DROP, one_answer) + 1e-9:
        way_out = "calibrate on more photos (--calibration), or use --precision fp16"
        raise UserError(f"mean Top-1 falls by {old - new:.4f}, over {MAX_DROP}: no file; {way_out}")
    return reports


if __name__ == "__main__":
    sys.exit(exit_code(main))
