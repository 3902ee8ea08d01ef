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
.venv/bin/python -m pip install --quiet --disable-pip-version-check -e '.[dev]'

.venv/bin/ruff check .
.venv/bin/ruff format --check .
.venv/bin/mypy
.venv/bin/lint-imports
# Three processes keep two cores busy while some tests wait; each takes whole files.
exec .venv/bin/python -m pytest -n 3 --dist loadfile --no-loadscope-reorder "$@"
