"""Where the time of one training step goes: torch.profiler's table, by operator."""

import sys
import tempfile

from benchmarks.jobs import VIT_B_32, Job, spread, training_photos
from benchmarks.timing import SETTLING
from utils.attributes import read_attributes
from utils.cli import Parser, exit_code, number

SIDES = ("project_teacher", "project_student", "reference_teacher", "reference_student")


# fmt: off
def get_args_parser():
    p = Parser(prog="python -m benchmarks.profiling", description=__doc__)
    p.add_argument("side", choices=SIDES)
    p.add_argument("--data-dir", help="folder of a data set in the competition's layout; without it photos are drawn", metavar="DIR")
    p.add_argument("--batch-size", type=number(int, 1), default=64, help="images of the step", metavar="N")
    p.add_argument("--precision", choices=("fp32", "bf16"), default="fp32", help="of the project")
    p.add_argument("--rows", type=number(int, 1), default=20, help="operators in the table", metavar="N")
    return p
# fmt: on


def main(argv=None):
    args = get_args_parser().parse_args(argv)

    from torch.profiler import ProfilerActivity, profile

    from benchmarks import works

    attributes = read_attributes()
    with tempfile.TemporaryDirectory() as folder:
        photos = spread(training_photos(args.data_dir, attributes, folder, args.batch_size), args.batch_size)
        job = Job(photos, attributes, args.batch_size, VIT_B_32, args.precision)
        run = getattr(works, args.side)(job)
        for _ in range(1 + SETTLING):
            run()
        with profile(activities=[ProfilerActivity.CPU]) as record:
            run()
    averages = record.key_averages()
    print(averages.table(sort_by="self_cpu_time_total", row_limit=args.rows, max_name_column_width=50))


if __name__ == "__main__":
    sys.exit(exit_code(main))
