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
build() {
    cmake -G Ninja -B build -S . -DCMAKE_BUILD_TYPE=Release -DRUNG_TESTS=OFF >"$out" 2>&1 &&
        ninja -C build rung >>"$out" 2>&1
}
[ -x build/rung ] || echo "Building (a minute or two) ..."
build || { tail -40 "$out"; echo "demo.sh: building failed" >&2; exit 1; }
rm -f "$out"
# exec: whoever stops this process stops the Python program, and that stops every process it has started.
exec /usr/bin/python3 tools/demo.py "$@"
