#!/bin/sh
# Builds an earlier revision for a server without a network, as its own documents say: the folder REVISION in the cache
# gets its wheels, and its requirements.txt if that pins the program itself. Prints the folder.
set -eu
revision=$1
root=$(cd -- "$(dirname -- "$0")/../.." && pwd)
cache=${XDG_CACHE_HOME:-$HOME/.cache}/rostersync-tests
folder=$cache/$revision
if [ ! -d "$folder" ]; then
    mkdir -p "$cache"
    work=$(mktemp -d "$cache/.$revision.XXXXXX")
    trap 'rm -rf "$work"' EXIT
    git clone --quiet --shared --no-checkout "$root" "$work/source"
    cd "$work/source"
    git checkout --quiet "$revision"
    if grep -q '^build)' dev; then
        PYTHON=/usr/bin/python3 ./dev build --wheels "$work/dist" >&2
    else # its README: `pip install .` in a checkout
        /usr/bin/python3 -m venv "$work/pip"
        "$work/pip/bin/pip" --quiet --disable-pip-version-check wheel --require-hashes -r requirements.txt -w "$work/dist" >&2
        "$work/pip/bin/pip" --quiet --disable-pip-version-check wheel --no-deps . -w "$work/dist" >&2
    fi
    cp -r systemd "$work/dist"
    mv "$work/dist" "$folder"
fi
echo "$folder"
