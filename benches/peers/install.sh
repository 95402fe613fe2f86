#!/bin/sh
# Fetches the servers that `cargo bench --bench group` puts beside nomad, from the mirror that this Debian or Ubuntu is set
# up with, and unpacks them into target/peers (or the directory named as the first argument). Nothing is installed, no
# service is started, no root is needed. What the bench does not find there it looks for in PATH; what is in neither place
# is left out of the table, and the bench says so.
set -eu
cd "$(dirname "$0")/../.."
dir=${1:-${CARGO_TARGET_DIR:-target}/peers}
servers="etcd-server redis-server nats-server"
# What redis-server is made of, and the libraries that a small machine may lack.
parts="redis-tools libjemalloc2 liblzf1 libatomic1"

for tool in apt-get dpkg-deb; do
    command -v "$tool" >/dev/null && continue
    echo "$tool is missing: this is no Debian. Put etcd, redis-server and nats-server into PATH by hand." >&2
    exit 1
done
mkdir -p "$dir/packages"
dir=$(cd "$dir" && pwd)
cd "$dir/packages"
for package in $servers $parts; do
    # A mirror that does not have one of them is no reason to go without the others.
    apt-get download "$package" >/dev/null 2>&1 || echo "not to be had: $package" >&2
done
for file in *.deb; do
    [ -e "$file" ] && dpkg-deb -x "$file" "$dir"
done
for library in "$dir"/usr/lib/*-linux-gnu; do
    [ -d "$library" ] && export LD_LIBRARY_PATH="$library"
done
missing=0
for server in usr/bin/etcd usr/bin/redis-server usr/sbin/nats-server; do
    if version=$("$dir/$server" --version 2>/dev/null); then
        echo "$server: $(echo "$version" | head -n 1)"
    else
        echo "$server: missing, or does not start" >&2
        missing=1
    fi
done
exit "$missing"
