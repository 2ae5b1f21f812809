#!/bin/sh
# Installs what is missing, builds, and passes every test. Usage: sh tools/test.sh [-v]
# The last line is always "N passed, N failed, N skipped"; the exit status is 0 only when nothing failed.
set -eu
cd "$(dirname "$0")/.."
export PYTHONDONTWRITEBYTECODE=1
verbose=${1:-}
jobs=$(nproc)
out=$(mktemp -d)
passed=0 failed=0 skipped=0

finish() { # also when a step ended the script: what could not be built has failed
    status=$?
    [ "$status" -eq 0 ] || [ "$failed" -gt 0 ] || failed=1
    rm -rf "$out"
    echo "$passed passed, $failed failed, $skipped skipped"
    [ "$failed" -eq 0 ] || exit 1
}
trap finish EXIT
trap 'exit 130' INT TERM

step() { printf '== %s\n' "$*"; }
quiet() { # run, show output only when it fails (or with -v)
    if [ "$verbose" = -v ]; then "$@"; return; fi
    "$@" >"$out/step.log" 2>&1 || { tail -60 "$out/step.log"; echo "FAILED: $*"; return 1; }
}
build() { # build FOLDER CMAKE-OPTION...
    folder=$1
    shift
    quiet cmake -G Ninja -B "$folder" -S . "$@"
    quiet ninja -C "$folder"
}
count() { grep -oE "[0-9]+ $1" "$2" | tail -1 | cut -d' ' -f1; } # count WORD FILE

sh tools/install.sh build test
step "build the program (build/), with the GPU's library where nvcc is"
build build -DCMAKE_BUILD_TYPE=Release -DRUNG_TESTS=OFF -DRUNG_CUDA_ARCHITECTURES="80;90a"
step "build with AddressSanitizer and UndefinedBehaviorSanitizer (build-asan/)"
build build-asan -DRUNG_SANITIZE=ON
step "build the fuzzers (build-fuzz/)"
build build-fuzz -DCMAKE_C_COMPILER=clang -DRUNG_FUZZ=ON -DRUNG_TESTS=OFF

step "unit tests, sanitized"
status=0
ctest --test-dir build-asan -j"$jobs" --output-on-failure >build-asan/ctest.log 2>&1 || status=1
passed=$(grep -cE 'Test +#[0-9]+: .* Passed' build-asan/ctest.log || true)
failed=$(grep -cE 'Test +#[0-9]+: .*\*\*\*' build-asan/ctest.log || true)
[ "$status" -eq 0 ] || [ "$failed" -gt 0 ] || failed=1
if [ "$failed" -eq 0 ]; then echo "$passed programs passed"; else tail -100 build-asan/ctest.log; fi

step "what has threads, under ThreadSanitizer (build-tsan/)"
threaded="test_node_loop test_node_gpu test_node_watch test_router_log test_engine_engine test_engine_sched"
quiet cmake -G Ninja -B build-tsan -S . -DRUNG_TSAN=ON
quiet ninja -C build-tsan $threaded
for program in $threaded; do
    if build-tsan/tests/$program >"build-tsan/$program.log" 2>&1; then
        passed=$((passed + 1))
    else
        failed=$((failed + 1))
        tail -40 "build-tsan/$program.log"
        echo "FAILED: build-tsan/tests/$program"
    fi
done

if [ -e build/librung_cuda.so ]; then
    step "what runs on a GPU"
    quiet ninja -C build cuda_tests
    for program in build/tests/cuda_*; do
        log=build/$(basename "$program").log
        if ! "$program" >"$log" 2>&1; then
            failed=$((failed + 1))
            tail -40 "$log"
            echo "FAILED: $program"
        elif grep -q '^skipped' "$log"; then
            skipped=$((skipped + 1))
        else
            passed=$((passed + 1))
        fi
    done
fi

step "every decoder, fuzzed for a few seconds"
fuzz() { # fuzz PROGRAM: its corpus is read, what it finds goes to a folder of its own
    name=$(basename "$1")
    corpus=tests/data/fuzz/$(echo "$name" | sed 's/^fuzz_[a-z]*_//')
    mkdir "$out/$name"
    [ -d "$corpus" ] || corpus=
    "$1" -max_total_time=3 -timeout=10 -rss_limit_mb=2048 -artifact_prefix="build-fuzz/$name." "$out/$name" $corpus \
        >"build-fuzz/$name.log" 2>&1 && : >"$out/$name.passed"
}
running=0
for program in build-fuzz/fuzz/fuzz_*; do
    fuzz "$program" &
    running=$((running + 1))
    [ $((running % jobs)) -ne 0 ] || wait
done
wait
for program in build-fuzz/fuzz/fuzz_*; do
    name=$(basename "$program")
    if [ -e "$out/$name.passed" ]; then
        passed=$((passed + 1))
    else
        failed=$((failed + 1))
        tail -30 "build-fuzz/$name.log"
        echo "FAILED: $program (the whole log is build-fuzz/$name.log, the input beside it)"
    fi
done
echo "$running fuzzers ran"

step "tools, models and whole ladders over real sockets"
status=0
RUNG_BUILD="$PWD/build-asan" /usr/bin/python3 -m pytest -q -rs -p no:cacheprovider tests >build/pytest.log 2>&1 || status=$?
tail -40 build/pytest.log
tail -1 build/pytest.log >"$out/counts"
n=$(count passed "$out/counts"); passed=$((passed + ${n:-0}))
n=$(count skipped "$out/counts"); skipped=$((skipped + ${n:-0}))
before=$failed
for word in failed error; do
    n=$(count "$word" "$out/counts"); failed=$((failed + ${n:-0}))
done
[ "$status" -eq 0 ] || [ "$failed" -gt "$before" ] || failed=$((failed + 1)) # pytest itself ended badly
