#!/usr/bin/env bash
# bash test.sh [--all | --hub | --cuda] [options of pytest]: the tests, in the active environment or in one that is made here.
# --all: also those that take minutes (kills, several processes, a browser); --hub: the real weights, from the hub;
# --cuda: what may differ on a GPU, on one.
# A process a core, with one thread each: most tests are too small to use more. -n 0 runs them in one process.
set -euo pipefail
cd "$(dirname "$0")"
source utils/environment.sh
"$PYTHON" -c 'import hypothesis, pytest, xdist' 2>/dev/null ||
    "$PYTHON" -m pip install --quiet --disable-pip-version-check -r requirements-tests.txt
export OMP_NUM_THREADS=1
case " $* " in *" --hub "*) set -- -n 0 "$@" ;; esac
exec "$PYTHON" -m pytest -n auto --maxprocesses 4 --dist worksteal "$@"
