"""Tables and picture of the results of benchmarks.accuracy."""

import json
import os

LABELS = "labels"  # in place of a row's name: the record of a data set's labels


def read_results(path):
    """List of dicts, see `benchmarks.accuracy.make`; empty without a file."""
    if not os.path.exists(path):
        return []
    with open(path, encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def write_report(path, rows):
    pass
