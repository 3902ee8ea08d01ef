#!/usr/bin/env bash
# Makes the environment .venv once, then lints, type-checks and tests. Arguments go to pytest.
set -euo pipefail
cd "$(dirname "$0")/.."

if ! command -v g++ >/dev/null; then
  echo "error: g++ is missing; install it (Debian: apt-get install g++)" >&2
  exit 1
fi
python=${PYTHON:-python3}
[ -x .venv/bin/python ] || "$python" -m venv .venv
unset PYTHONDONTWRITEBYTECODE # tests start many processes, each of which would compile its modules
# Modules are compiled when they are imported: the libraries have far more than are used.
.venv/bin/python -m pip install --quiet --disable-pip-version-check --no-compile -e '.[dev]'

.venv/bin/ruff check .
.venv/bin/ruff format --check .
.venv/bin/mypy &
types=$!
.venv/bin/lint-imports
wait $types
# Three processes need no threads of NumPy, which poll for each other.
export OPENBLAS_NUM_THREADS=1
# Three processes keep two cores busy while some tests wait; each takes whole files.
exec .venv/bin/python -m pytest -n 3 --dist loadfile --no-loadscope-reorder "$@"
