#!/bin/sh
# Installs the Debian packages that building, testing and the demo need. Quiet when nothing is missing.
# Usage: sh tools/install.sh [build] [test]     (default: both)
set -eu

BUILD="gcc cmake ninja-build pkg-config libzmq3-dev libmsgpack-dev libsqlite3-dev libcurl4-openssl-dev
libmicrohttpd-dev libjansson-dev libyaml-dev libsodium-dev python3 curl ca-certificates"
# NVIDIA's compiler, where it is, works through g++.
if command -v nvcc >/dev/null 2>&1 || [ -x /usr/local/cuda/bin/nvcc ]; then BUILD="$BUILD g++"; fi
TEST="g++ clang libclang-rt-14-dev libcmocka-dev sqlite3 python3-zmq python3-msgpack python3-jinja2 python3-numpy
python3-pytest python3-yaml python3-regex git"

want=""
for set in ${*:-build test}; do
    case $set in
    build) want="$want $BUILD" ;;
    test) want="$want $TEST" ;;
    *) echo "install.sh: '$set' is not a set of packages (want build, test)" >&2; exit 2 ;;
    esac
done
missing=""
for package in $want; do
    dpkg-query -W -f '${Status}' "$package" 2>/dev/null | grep -q 'ok installed' || missing="$missing $package"
done
# The demo's tools are needed only by the tests, which use Node.js for the official OpenAI client.
case " ${*:-build test} " in *" test "*) command -v npm >/dev/null 2>&1 || missing="$missing nodejs npm" ;; esac
[ -n "$missing" ] || exit 0

as_root=""
if [ "$(id -u)" -ne 0 ]; then
    command -v sudo >/dev/null 2>&1 || {
        echo "install.sh: packages are missing, and this user is neither root nor has sudo. As root:" >&2
        echo "  apt-get update && apt-get install --no-install-recommends$missing" >&2
        exit 1
    }
    as_root=sudo
fi
echo "Installing (a minute or two):$missing"
log=$(mktemp)
if ! { $as_root apt-get update -qq &&
       $as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $missing; } >"$log" 2>&1; then
    tail -20 "$log" >&2
    echo "install.sh: installing failed; the whole output is in $log" >&2
    exit 1
fi
rm -f "$log"
