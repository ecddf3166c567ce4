#!/usr/bin/env bash
# Install the gateways that benchmarks.gateway.real runs, each in its own environment below DIR (about 1 GB):
#     benchmarks/gateway/install.sh [DIR]          default: build/gateways, which git ignores
# nginx comes from the system: apt-get install nginx-light.
# Portkey's pinned overrides: a plain install answers 500 to every streamed request (1.15.2 with newer hono).
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
target=${1:-$here/../../build/gateways}
mkdir -p "$target/portkey"
target=$(cd "$target" && pwd)

cat > "$target/portkey/package.json" <<'JSON'
{
  "private": true,
  "dependencies": { "@portkey-ai/gateway": "1.15.2" },
  "overrides": { "@hono/node-server": "1.13.5", "hono": "4.9.7" }
}
JSON
(cd "$target/portkey" && npm install --no-audit --no-fund --ignore-scripts)

python3 -m venv "$target/naive"
"$target/naive/bin/pip" install --quiet 'uvicorn[standard]' starlette httpx
python3 -m venv "$target/litellm"
"$target/litellm/bin/pip" install --quiet 'litellm[proxy]==1.106.2'
echo "installed below $target"
