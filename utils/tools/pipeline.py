"""Train, evaluate, export and make the page: `bash train.sh all`. A step that was done with the same options is not done again.

train.py itself knows whether a run is finished. Of the steps behind it, model/NAME/steps.json has the options, and digests of the
files that they read.
"""

import os
import shlex
import signal
import subprocess
import sys

from utils.base.cli import exit_code
from utils.base.errors import UserError
from utils.base.files import digest_of, read_json, write_json
from utils.data.attributes import read_attributes
from utils.tools import demo
from utils.training.options import parse_args

NAMES = "best.pt", "best_val", "page", "steps.json"  # in the folder of the version
# Options of train.py that others have, too; what else they need is in the checkpoint.
PASSED_ON = "--data-dir", "--skip-unreadable", "--follow-links", "--device"
END = """
the network           {best}
scores and pictures   {scores}
without PyTorch       {onnx}
in a browser          {seen}

Next, fill the table's empty cells where the network is sure:
  python predict.py --fill {table} --images {photos} --checkpoint {best} --output filled.csv{doubts}"""
FOLDS = "\nTo find wrong labels, too, give this command again with --folds 5, and that one with --doubts doubts.csv."


def main(argv=None):
    argv = sys.argv[1:] if argv is None else argv
    args = parse_args(argv)
    train, val = map(read_attributes(args.attributes).layout.part, ("train", "val"))
    table, photos, held_out = (os.path.join(args.data_dir, name) for name in (*train, val.table))
    folder = os.path.join("model", args.version)
    best, scores, page, steps, onnx = (os.path.join(folder, one) for one in (*NAMES, f"{args.version}.onnx"))
    told, trained = args.told(), [*argv, *([] if args.overwrite else ["--resume", "True"])]
    data = [word for option in PASSED_ON if option in told for word in (option, str(told[option]))]
    evaluated = ["--checkpoint", best, "--cache-dir", args.cache_dir, *data]
    # Another limit than export.py's own, which is the competition's.
    exported = ["--checkpoint", best, "--output", onnx, "--max-mb", "1000", *data]
    samples = [] if args.skip_unreadable or args.follow_links else ["--samples", photos]
    read = [digest_of(one) for one in (table, args.attributes) if one]
    # Each with its options, the files that it reads, and what it writes, where that tells whether it is done.
    commands = {
        "train": (["train", *trained, "--folds", "1"], [], ""),
        "evaluate": (["evaluate", *evaluated], [best, held_out], scores),
        "export": (["export", *exported], [best, held_out], onnx),
        "page": ([demo.__name__, onnx, "--output", page, *samples], [onnx], page),
    }
    if args.folds > 1:
        commands["folds"] = (["train", *trained], [], "")
    seen = f"python -m http.server --bind 127.0.0.1 --directory {shlex.quote(page)} 8000"
    try:
        if not os.path.exists(page):  # npm keeps what it fetches
            demo.fetch_runtime()
    except UserError as error:
        del commands["page"]
        seen = f"not made: {error}"
        print(f"warning: there will be no page: {error}")
    done = read_json(steps, "steps") if os.path.exists(steps) and not args.overwrite else {}
    if done.get("read", read) != read:
        problem = f"{best} has learned from {table} as it was before; --overwrite True trains anew"
        raise UserError(f"{problem}, another --version beside it, --student-weights {best} goes on from it")
    for number, (name, (words, sources, output)) in enumerate(commands.items(), 1):
        is_done = os.path.exists(output) and done.get(name) == [words, *map(digest_of, sources)]
        print(f"\n=== {number} of {len(commands)}: {name}{', done before' if is_done else ''}", flush=True)
        if not is_done:
            run(words)
            done.update({name: [words, *map(digest_of, sources)], "read": read})
            write_json(steps, done)
    doubts = " --doubts doubts.csv" if args.folds > 1 else FOLDS
    files = {"best": best, "scores": scores, "onnx": onnx, "table": table, "photos": photos}
    print(END.format(seen=seen, doubts=doubts, **{name: shlex.quote(path) for name, path in files.items()}))


def run(words):
    """One step, a module and its options, as a program of its own. SystemExit with its exit code, if that is not 0.

    What stops a step stops this program: the terminal sends SIGINT to both, and SIGTERM is passed on.
    """
    step = subprocess.Popen([sys.executable, "-m", *words])
    handlers = {signal.SIGINT: lambda *_: None, signal.SIGTERM: lambda *_: step.terminate()}
    before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    code = step.wait()
    for number, handler in before.items():
        signal.signal(number, handler)
    if code:
        sys.exit(code if code > 0 else 128 - code)


if __name__ == "__main__":
    sys.exit(exit_code(main))
