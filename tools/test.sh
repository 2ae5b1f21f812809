#!/bin/sh
# Installs what is missing, builds, and passes every test. Usage: sh tools/test.sh [-v]
set -eu
cd "$(dirname "$0")/.."
export PYTHONDONTWRITEBYTECODE=1
verbose=${1:-}
sh tools/install.sh build test

step() { printf '== %s\n' "$*"; }
quiet() { # run, show output only when it fails (or with -v)
    if [ "$verbose" = -v ]; then "$@"; return; fi
    out=$(mktemp)
    if "$@" >"$out" 2>&1; then rm -f "$out"; else status=$?; tail -60 "$out"; rm -f "$out"; return $status; fi
}

step "build the program (build/)"
quiet cmake -G Ninja -B build -S . -DCMAKE_BUILD_TYPE=Release -DRUNG_TESTS=OFF
quiet ninja -C build
step "build with AddressSanitizer and UndefinedBehaviorSanitizer (build-asan/)"
quiet cmake -G Ninja -B build-asan -S . -DRUNG_SANITIZE=ON
quiet ninja -C build-asan
if clang --version >/dev/null 2>&1; then
    step "build the fuzzers (build-fuzz/)"
    quiet cmake -G Ninja -B build-fuzz -S . -DCMAKE_C_COMPILER=clang -DRUNG_FUZZ=ON -DRUNG_TESTS=OFF
    quiet ninja -C build-fuzz
fi

failed=0 passed=0 skipped=0
step "unit tests, sanitized"
ctest --test-dir build-asan -j2 --output-on-failure >build-asan/ctest.log 2>&1 || failed=$((failed + 1))
grep -E '^ *[0-9]+/[0-9]+ Test.*(Failed|Timeout|Exception)|tests passed|The following' build-asan/ctest.log || true
[ "$failed" -eq 0 ] || tail -80 build-asan/ctest.log
ok=$(grep -cE 'Test +#[0-9]+:.*Passed' build-asan/ctest.log || true)
passed=$((passed + ok))

step "every decoder, fuzzed for a few seconds"
for fuzzer in build-fuzz/fuzz/fuzz_*; do
    [ -x "$fuzzer" ] || continue
    corpus=tests/data/fuzz/$(basename "$fuzzer" | sed 's/^fuzz_[a-z]*_//')
    work=$(mktemp -d)
    if "$fuzzer" -max_total_time=4 -timeout=10 -rss_limit_mb=2048 -artifact_prefix="$work/" -print_final_stats=0 "$work" \
        $([ -d "$corpus" ] && echo "$corpus") >"$work.log" 2>&1; then
        passed=$((passed + 1))
        rm -rf "$work" "$work.log"
    else
        echo "FAILED: $fuzzer (input and log: $work, $work.log)"
        tail -30 "$work.log"
        failed=$((failed + 1))
    fi
done

step "tools, models and whole ladders over real sockets"
/usr/bin/python3 -m pytest -q -rs -p no:cacheprovider tests >build/pytest.log 2>&1 || failed=$((failed + 1))
tail -40 build/pytest.log
counts=$(tail -1 build/pytest.log)
number() { printf '%s\n' "$counts" | grep -oE "[0-9]+ $1" | cut -d' ' -f1 || true; }
n=$(number passed); passed=$((passed + ${n:-0}))
n=$(number skipped); skipped=$((skipped + ${n:-0}))

echo "$passed passed, $failed failed, $skipped skipped"
[ "$failed" -eq 0 ]
