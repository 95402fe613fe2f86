#!/bin/sh
# Runs Schemathesis on a running node: bounded, and with a fixed seed, so that a finding can be had again.
# Usage: tests/clients/schemathesis.sh REST_HOST:PORT [further options of "schemathesis run"]
# Not asked: `trace`, which answers as late as its parameter `wait` says, up to 30 s, and `leave`, after which the
# node refuses everything else.
# It writes objects and changes settings: use a node made for it. NOMAD_EXAMPLES (40) cases per operation,
# NOMAD_SEED (2006). Needs python3 with venv; installs under target/clients (or $NOMAD_CLIENTS_DIR).
set -eu
if [ $# -lt 1 ]; then
    sed -n '2,7s/^# //p' "$0" >&2
    exit 2
fi
node=$1
shift
root=$(cd "$(dirname "$0")/../.." && pwd)
work=${NOMAD_CLIENTS_DIR:-$root/target/clients}
mkdir -p "$work"
[ -x "$work/venv/bin/python" ] || python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check 'schemathesis>=4.32,<5'
cd "$work"
exec "$work/venv/bin/schemathesis" --config-file "$root/tests/clients/schemathesis.toml" \
    run "http://$node/nomad/openapi.json" --url "http://$node" \
    --seed "${NOMAD_SEED:-2006}" --max-examples "${NOMAD_EXAMPLES:-40}" \
    --exclude-operation-id trace --exclude-operation-id leave --checks all --exclude-checks ignored_auth --continue-on-failure \
    --request-timeout 10 --generation-database none "$@"
