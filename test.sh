#!/usr/bin/env bash
# bash test.sh [options of pytest]: the tests, in the active environment or in one that is made here.
set -euo pipefail
cd "$(dirname "$0")"
source utils/environment.sh
"$PYTHON" -c 'import pytest' 2>/dev/null || { echo "error: pytest is missing: $PYTHON -m pip install pytest" >&2; exit 2; }
exec "$PYTHON" -m pytest "$@"
