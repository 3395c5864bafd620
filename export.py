"""Write a trained student as one small file: ONNX in float32, float16 or int8, or folded weights for PyTorch."""

import os
import shutil
import sys
import tempfile

from utils.options import Parser, number

from utils.attributes import ATTRIBUTES
from utils.errors import UserError, exit_code
from utils.files import atomic

MAX_DROP = 0.01  # in mean Top-1, from the checkpoint to the file
BATCH = 16  # photos at a time, for the comparison


# fmt: off
def get_args_parser():
    p = Parser(prog="export.py", description=__doc__)
    p.add_argument("--checkpoint", required=True, help="of a student: model/NAME/best.pt, or a published one", metavar="FILE")
    p.add_argument("--output", required=True, help="file to write, .onnx, or .pt with --format pt", metavar="FILE")
    p.add_argument("--format", choices=("onnx", "pt"), default="onnx", help="onnx runs without PyTorch, pt is a checkpoint for this project")
    p.add_argument("--precision", choices=("fp32", "fp16", "int8"), default="fp32", help="of the stored weights; int8 (ONNX only) computes in 8 bits too, fp16 in float32")
    p.add_argument("--max-mb", type=number(float, 0, above=True), default=25.0, help="limit of the file's size in MB (10^6 bytes); above it there is no file", metavar="X")
    p.add_argument("--data-dir", default="./Dataset", help="folder of the data set: training photos to calibrate int8 on, validation photos to compare with the checkpoint", metavar="DIR")
    p.add_argument("--calibration", type=number(int, 1), default=128, help="number of training photos that int8 is calibrated on", metavar="N")
    p.add_argument("--compare", type=number(int, 1), default=400, help="number of validation photos that are compared, at most", metavar="N")
    return p
# fmt: on


def parse_args(argv=None):
    """The options, checked against each other."""
    parser = get_args_parser()
    args = parser.parse_args(argv)
    if not args.output.endswith(f".{args.format}"):
        parser.error(
            f"--output {args.output}: the name of a file of --format {args.format} ends in .{args.format}"
        )
    if args.format == "pt" and args.precision == "int8":
        parser.error("--precision int8 is for --format onnx; a .pt is fp32 or fp16")
    return args


def main(argv=None):
    args = parse_args(argv)
    # PyTorch is imported once the options are known to be right.
    from utils.folding import fold

    from networks import Student
    from utils.export import export_meta, import_onnx, photos_of, write
    from utils.inference import load_network

    folder = os.path.dirname(args.output) or "."
    if not os.path.isdir(folder):
        raise UserError(f"--output {args.output}: there is no folder {folder}; make it first")
    if args.checkpoint.endswith(".onnx"):
        raise UserError(f"--checkpoint {args.checkpoint}: exported already; it needs the checkpoint (.pt)")
    if args.format == "onnx":
        import_onnx()
    net, meta = load_network(args.checkpoint)
    if net.role != Student.role:
        raise UserError(f"--checkpoint {args.checkpoint}: a {net.role}'s; only a student can be exported")

    calibration = photos_of(args.data_dir, "train", args.calibration)[0] if args.precision == "int8" else None
    pixels, labels = photos_of(args.data_dir, "val", args.compare)
    with tempfile.TemporaryDirectory() as scratch:
        exported = os.path.join(scratch, f"student.{args.format}")
        write(fold(net), exported, export_meta(meta, args), args.format, args.precision, calibration)
        check_size(args, exported)
        compare(args, exported, pixels, labels)
        with open(exported, "rb") as source, atomic(args.output, binary=True) as file:
            shutil.copyfileobj(source, file)


def check_size(args, path):
    """Print the file's size; UserError above the limit."""
    megabytes = os.path.getsize(path) / 1e6
    print(f"{args.output}: {args.format}, {args.precision}, {megabytes:.2f} MB of {args.max_mb:g} MB")
    if megabytes > args.max_mb:
        raise UserError(
            f"{args.output}: {megabytes:.2f} MB is over --max-mb {args.max_mb:g}, nothing was written; "
            "--precision fp16 or int8 makes it smaller"
        )


def compare(args, path, pixels, labels):
    """Print how the file differs from the checkpoint; UserError if it is too much.

    Args: `pixels` uint8 `(N, 224, 224, 3)`; `labels` attribute -> int64 `(N,)`, or None for drawn pictures.
    """
    from utils.export import one_thread, seconds_per_photo
    from utils.inference import load_classifier
    from utils.metrics import evaluate

    checkpoint = load_classifier(args.checkpoint)
    with one_thread():
        slow, fast = seconds_per_photo((checkpoint, load_classifier(path, threads=1)), pixels[:1])
    print(f"one photo, one thread: {fast * 1e3:.1f} ms; the checkpoint in PyTorch, float32: {slow * 1e3:.1f} ms "
          f"({slow / fast:.2f} x)")  # fmt: skip
    expected, got = (classifier.predict(pixels, BATCH) for classifier in (checkpoint, load_classifier(path)))
    name = f"{len(pixels)} {'validation photos' if labels else 'drawn pictures'}"
    difference = max(abs(expected[key] - got[key]).max() for key in ATTRIBUTES)
    print(f"probabilities differ by at most {difference:.1e} on {name}; the same classes: " + ", ".join(
        f"{key} {(expected[key].argmax(1) == got[key].argmax(1)).mean():.4f}" for key in ATTRIBUTES
    ))  # fmt: skip
    if not labels:
        return
    old, new = evaluate(expected, labels)["mean_top1"], evaluate(got, labels)["mean_top1"]
    print(f"mean Top-1 on {name}: {new:.4f}, the checkpoint {old:.4f} ({new - old:+.4f})")
    one_answer = 1 / (len(pixels) * len(ATTRIBUTES))  # more than the limit where photos are few
    if old - new > max(MAX_DROP, one_answer) + 1e-9:
        raise UserError(
            f"{args.output}: mean Top-1 falls by {old - new:.4f}, more than {MAX_DROP}, nothing was written; "
            "calibrate on more photos (--calibration), or use --precision fp16"
        )


if __name__ == "__main__":
    sys.exit(exit_code(main))
