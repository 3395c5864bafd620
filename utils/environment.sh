# Sourced by train.sh and test.sh, in the checkout. Sets PYTHON to an interpreter that has the packages:
# the one that PYTHON names, the active environment's, or that of .venv, which is made here if need be.

has_packages() {
    "$1" - 2>/dev/null <<'END'
from importlib.metadata import version
from packaging.requirements import Requirement

for line in open("requirements.txt"):
    if line.strip() and not line.startswith("#"):
        requirement = Requirement(line.strip())
        assert requirement.specifier.contains(version(requirement.name), prereleases=True), line
END
}

base_python() {
    local name
    for name in python3.11 python3 python; do
        if "$name" -c 'import sys; sys.exit(sys.version_info < (3, 8))' 2>/dev/null; then
            echo "$name"
            return
        fi
    done
    echo "error: no Python 3.8 or newer found; install Python 3.11, or name an interpreter: PYTHON=/path/to/python" >&2
    return 1
}

find_python() {
    local name
    if [ -n "${PYTHON:-}" ]; then
        has_packages "$PYTHON" && return
        echo "error: PYTHON=$PYTHON lacks packages of requirements.txt: $PYTHON -m pip install -r requirements.txt" >&2
        return 1
    fi
    for name in python python3 .venv/bin/python; do
        if has_packages "$name"; then
            PYTHON=$name
            return
        fi
    done
    name=$(base_python) || return 1
    echo "setting up .venv with $("$name" --version): several minutes and some GB, once"
    "$name" -m venv .venv && .venv/bin/python -m pip install --quiet --disable-pip-version-check -r requirements.txt || return 1
    PYTHON=.venv/bin/python
}

find_python || exit 2
export PYTHON PYTHONUNBUFFERED=1  # so that lines come at once through a pipe, too
