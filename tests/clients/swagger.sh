#!/bin/sh
# Uses a running node's Swagger UI as a person does, in headless Chromium: "Try it out" on put and on get.
# Usage: tests/clients/swagger.sh REST_HOST:PORT [directory for the screenshots]
# Needs node, npm and Chromium ($CHROMIUM, else "chromium" on the PATH: apt-get install chromium). Installs playwright-core
# under target/clients (or $NOMAD_CLIENTS_DIR).
set -eu
if [ $# -lt 1 ]; then
    sed -n '2,5s/^# //p' "$0" >&2
    exit 2
fi
here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../.." && pwd)
work=${NOMAD_CLIENTS_DIR:-$root/target/clients}
pictures=${2:-$work/swagger}
chromium=${CHROMIUM:-$(command -v chromium || true)}
if [ -z "$chromium" ]; then
    echo "no Chromium: set CHROMIUM or install the package \"chromium\"" >&2
    exit 1
fi
mkdir -p "$work" "$pictures"
[ -d "$work/node_modules/playwright-core" ] ||
    npm install --silent --no-audit --no-fund --no-save --prefix "$work" playwright-core@1
PLAYWRIGHT_FROM="$work/" exec node "$here/swagger.mjs" "$1" "$pictures" "$chromium"
