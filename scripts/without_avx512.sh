#!/usr/bin/env bash
# Runs a command in which every library believes that the CPU has AVX2 at most:
#
#     scripts/without_avx512.sh python scripts/benchmark_models.py networks --target portable --json avx2.json
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -r "$folder"' EXIT
gcc -O2 -shared -fPIC "$(dirname "$0")/without_avx512.c" -o "$folder/without_avx512.so"
LD_PRELOAD="$folder/without_avx512.so" "$@"
