"""Learning curves of one run, or of several laid over each other.

python -m utils.tools.curves logs/a logs/b --output curves.png
"""

import sys

from utils.base.cli import Parser, exit_code
from utils.base.files import check_new
from utils.evaluation.plots import draw_curves, is_figure, read_run, save


def main(argv=None):
    parser = Parser(prog="python -m utils.tools.curves", description=__doc__.splitlines()[0])
    parser.add_argument("runs", nargs="+", help="log folder of a run, or a metrics.csv", metavar="LOGS")
    parser.add_argument("--output", default="curves.png", help="the picture, PNG", metavar="FILE")
    args = parser.parse_args(argv)
    check_new(args.output, is_figure)
    save(draw_curves({run: read_run(run) for run in args.runs}), args.output)
    print(args.output)


if __name__ == "__main__":
    sys.exit(exit_code(main))
