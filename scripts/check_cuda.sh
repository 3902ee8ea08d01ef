#!/usr/bin/env bash
# On a machine with a GPU: check and measure what `scripts/check_cuda.py prepare FOLDER` compiled
# elsewhere. Needs Python with this package and TVM's runtime library, and no compiler.
#
#   ./scripts/check_cuda.sh FOLDER [--iterations N] [--json FILE]
set -euo pipefail
cd "$(dirname "$0")/.."
export TVM_USE_RUNTIME_LIB=1
exec "${PYTHON:-python3}" scripts/check_cuda.py run "$@"
