#!/usr/bin/env bash
# bash test.sh [options of pytest]: the tests, in the active environment or in one that is made here.
# A process a core, with one thread each: most tests are too small to use more. -n 0 runs them in one process.
set -euo pipefail
cd "$(dirname "$0")"
source utils/environment.sh
"$PYTHON" -c 'import pytest, xdist' 2>/dev/null ||
    { echo "error: pytest or pytest-xdist is missing: $PYTHON -m pip install pytest pytest-xdist" >&2; exit 2; }
export OMP_NUM_THREADS=1
exec "$PYTHON" -m pytest -n auto --maxprocesses 4 --dist worksteal "$@"
