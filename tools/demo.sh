#!/bin/sh
# The whole ladder on this machine: installs what is missing, builds, starts edge, region (two workers) and core with the
# demo models, asks prompts of rising difficulty and shows who answered, why, how fast and at what price.
#
#   sh tools/demo.sh           run it, then stop everything
#   sh tools/demo.sh --keep    leave the ladder running, with its files in build/demo/
#   sh tools/demo.sh --stop    end a ladder that was left running
set -eu
cd "$(dirname "$0")/.."
case ${1:-} in
"" | --keep) ;;
--stop) exec /usr/bin/python3 tools/demo.py --stop ;;
*) sed -n '2,8s/^# \{0,1\}//p' "$0"; exit 2 ;;
esac
sh tools/install.sh build
export PYTHONDONTWRITEBYTECODE=1

out=$(mktemp)
trap 'rm -f "$out"' EXIT
trap 'exit 130' INT TERM HUP
# Where there is an NVIDIA GPU (the second: of a Jetson) and its compiler, the models run on it.
gpu=
if [ -e /dev/nvidia0 ] || [ -e /dev/nvhost-gpu ]; then gpu=yes; fi
build() {
    set -- -DCMAKE_BUILD_TYPE=Release -DRUNG_TESTS=OFF
    if [ -n "$gpu" ]; then # for this one only: a build for every kind takes minutes
        kind=$(nvidia-smi --query-gpu=compute_cap --format=csv,noheader 2>/dev/null | head -1 | tr -cd 0-9)
        [ "$kind" != 90 ] || kind=90a
        [ -z "$kind" ] || set -- "$@" -DRUNG_CUDA_ARCHITECTURES="$kind"
    fi
    cmake -G Ninja -B build -S . "$@" >"$out" 2>&1 && ninja -C build rung >>"$out" 2>&1 || return 1
    [ -n "$gpu" ] && grep -q 'CUDA: librung_cuda.so by' "$out" || return 0
    ninja -C build rung_cuda >>"$out" 2>&1 || { tail -20 "$out"; echo "The GPU's library could not be built: the models run on the CPU."; }
}
[ -x build/rung ] || echo "Building (a minute or two) ..."
build || { tail -40 "$out"; echo "demo.sh: building failed" >&2; exit 1; }
rm -f "$out"
# exec: whoever stops this process stops the Python program, and that stops every process it has started.
exec /usr/bin/python3 tools/demo.py "$@"
