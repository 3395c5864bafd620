"""What the pages say of speed and accuracy is measured here."""

import re
from pathlib import Path


def recipe(name):
    """Options of a command of train.sh, where alone the recipes stand."""
    script = Path(__file__).parent.parent.joinpath("train.sh").read_text(encoding="utf-8")
    return re.search(rf"--version {name} (.*?) \"\$@\"", script.replace("\\\n", ""))[1]
