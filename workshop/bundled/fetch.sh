#!/bin/sh
# Fetches the artwork and the names through npm: fetch.sh DATA
set -eu
mkdir -p "$1/npm"
cd "$1/npm"
[ -f package.json ] || npm init --yes >/dev/null
npm install --no-audit --no-fund --ignore-scripts \
    @lobehub/fluent-emoji-3d@1.1.0 @lobehub/fluent-emoji-flat@1.1.0 unicode-emoji-json nsfwjs@4.3.0
