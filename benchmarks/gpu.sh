#!/usr/bin/env bash
# bash benchmarks/gpu.sh: whether the project works on this machine's GPU, and how fast it is there; some minutes.
set -euo pipefail
cd "$(dirname "$0")/.."
source utils/environment.sh
nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv,noheader
bash test.sh --cuda --quiet && failed=0 || failed=$?
"$PYTHON" -m benchmarks.gpu
exit "$failed"
