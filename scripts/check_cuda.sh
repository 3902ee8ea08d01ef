#!/usr/bin/env bash
# On a machine with a GPU: check and measure what `scripts/check_cuda.py prepare FOLDER` compiled
# elsewhere. Needs Python with this package or its runtime, and no compiler.
#
#   ./scripts/check_cuda.sh FOLDER [--iterations N] [--json FILE]
set -euo pipefail
cd "$(dirname "$0")/.."
exec "${PYTHON:-python3}" scripts/check_cuda.py run "$@"
