#!/usr/bin/env bash
# From nothing to a comparison: makes .venv, installs the project and a rival (OpenVINO, 60 MB), and
# brings Inception-v3 all the way. Needs Python 3.10 to 3.13, git and g++; files go to demo/.
set -euo pipefail
cd "$(dirname "$0")/.."

if ! command -v g++ >/dev/null; then
  echo "error: g++ is missing; install it (Debian: apt-get install g++)" >&2
  exit 1
fi
python=${PYTHON:-python3}
[ -x .venv/bin/python ] || "$python" -m venv .venv
.venv/bin/python -m pip install --quiet --disable-pip-version-check -e '.[rivals]'

mkdir -p demo
show() { echo "\$ $*"; }
run() { show "$@"; ".venv/bin/$1" "${@:2}"; echo; }
run hios-tvm zoo inception_v3 -o demo/inception_v3.onnx
run hios-tvm compile demo/inception_v3.onnx -o demo/inception_v3.hios
run hios-tvm run demo/inception_v3.hios
run hios-tvm compare demo/inception_v3.onnx demo/inception_v3.hios
