#!/bin/sh
# Cross-builds the engine for 64-bit ARM and runs its tests under qemu-user: the NEON kernels must give the scalar ones' bits.
# Exit status 77, with a word why, where a tool is missing. Usage: sh tools/cross_test.sh [BUILD-FOLDER]
set -eu

root=$(cd "$(dirname "$0")/.." && pwd)
build=${1:-$root/build-aarch64}
for tool in aarch64-linux-gnu-gcc qemu-aarch64; do
    command -v $tool >/dev/null 2>&1 || {
        echo "cross_test.sh: no $tool (apt: gcc-aarch64-linux-gnu libc6-dev-arm64-cross qemu-user)" >&2
        exit 77
    }
done
mkdir -p "$build"
log=$build/cross_test.log
cmake -G Ninja -S "$root/tests/cross" -B "$build" -DCMAKE_TOOLCHAIN_FILE="$root/cmake/aarch64.cmake" >"$log" 2>&1 &&
    ninja -C "$build" >>"$log" 2>&1 || { tail -30 "$log" >&2; exit 1; }
ctest --test-dir "$build" --output-on-failure
