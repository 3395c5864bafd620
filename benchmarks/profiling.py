"""Where the time of one training step goes: torch.profiler's table, by operator."""

import sys
import tempfile

from utils.options import Parser, number

from benchmarks.__main__ import draw_photos, make_job
from benchmarks.timing import SETTLING
from utils.dataset import read_tables
from utils.errors import exit_code


def main(argv=None):
    p = Parser(prog="python -m benchmarks.profile", description=__doc__)
    p.add_argument(
        "side", choices=("project_teacher", "project_student", "reference_teacher", "reference_student")
    )
    p.add_argument("--data-dir", help="folder of a data set; without it photos are drawn", metavar="DIR")
    p.add_argument("--batch-size", type=number(int, 1), default=64, help="images of the step", metavar="N")
    p.add_argument("--precision", choices=("fp32", "bf16"), default="fp32", help="of the project")
    p.add_argument("--rows", type=number(int, 1), default=20, help="operators in the table", metavar="N")
    args = p.parse_args(argv)

    from torch.profiler import ProfilerActivity, profile

    from benchmarks import works

    with tempfile.TemporaryDirectory() as folder:
        data_dir = args.data_dir or draw_photos(folder, args.batch_size)
        photos = read_tables(data_dir, ["train"])["train"]
        run = getattr(works, args.side)(make_job(photos, args.batch_size, args.batch_size, args.precision))
        for _ in range(1 + SETTLING):
            run()
        with profile(activities=[ProfilerActivity.CPU]) as record:
            run()
    print(
        record.key_averages().table(
            sort_by="self_cpu_time_total", row_limit=args.rows, max_name_column_width=50
        )
    )


if __name__ == "__main__":
    sys.exit(exit_code(main))
