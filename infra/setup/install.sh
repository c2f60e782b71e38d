#!/bin/sh
# Installs shardbus into .venv of this checkout: "install.sh run" what the processes need, "install.sh dev" tests and checks too.
#
# It needs Python >= 3.11 and nothing else. It uses uv where that is on PATH, else pip; both take the package index
# from the machine's own configuration and check every file against the hashes in the lock. It changes nothing outside
# the checkout and needs no root.
set -eu

want=${1:-run}
case $want in
    run) lock=requirements.lock ;;
    dev) lock=requirements-dev.lock ;;
    *) echo "usage: install.sh run|dev" >&2; exit 2 ;;
esac
cd "$(dirname "$0")/../.."
venv=.venv

say() { printf 'setup: %s\n' "$*" >&2; }
fail() { say "$*"; exit 1; }

find_python() {
    for name in ${PYTHON:-python3 python3.14 python3.13 python3.12 python3.11}; do
        if "$name" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
            command -v "$name"
            return
        fi
    done
    found=$(python3 --version 2>&1 || true)
    fail "Python 3.11 or newer is needed; found: ${found:-none}. Install it (Debian 12: apt-get install python3; macOS: the installer of python.org or brew install python) or name one: make setup PYTHON=/path/to/python3.12"
}

# Debian splits ensurepip off python3. Its package holds pip as a wheel, and a wheel can be run where it lies: fetched
# by apt into a folder of our own, no root is needed and the system stays as it is.
borrow_debian_pip() {
    command -v apt-get >/dev/null && command -v dpkg-deb >/dev/null ||
        fail "this Python has no ensurepip, so it cannot install packages; install its venv and pip modules, or uv, and try again"
    say "this Python comes without pip; fetching Debian's pip wheel into $venv (nothing is installed on the system)"
    here=$PWD/$venv/apt
    mkdir -p "$here/lists/partial" "$here/archives/partial"
    options="-o Dir::State::lists=$here/lists -o Dir::Cache=$here -o Dir::Cache::archives=$here/archives -o APT::Sandbox::User="
    # shellcheck disable=SC2086  # options are words
    (cd "$here" && apt-get $options -qq update && apt-get $options -qq download python3-pip-whl) >&2 ||
        fail "apt could not fetch python3-pip-whl; run as root: apt-get install python3-venv"
    dpkg-deb -x "$here"/python3-pip-whl_*.deb "$here/root"
    wheel=$(echo "$here"/root/usr/share/python-wheels/pip-*.whl)
    "$venv/bin/python" "$wheel/pip" --disable-pip-version-check install -q --no-index --no-deps "$wheel"
    rm -rf "$here"
}

if [ ! -x $venv/bin/python ] || ! $venv/bin/python -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
    python=$(find_python)
    say "making $venv with $python ($("$python" --version))"
    rm -rf $venv
    if command -v uv >/dev/null; then
        uv venv --quiet --python "$python" $venv
    elif "$python" -c 'import ensurepip' 2>/dev/null; then
        "$python" -m venv $venv
    else
        "$python" -m venv --without-pip $venv || fail "$python cannot make virtual environments; install its venv module"
    fi
fi

if command -v uv >/dev/null; then
    pip() { uv pip "$@" --python $venv/bin/python; }
else
    if ! $venv/bin/python -c 'import pip' 2>/dev/null; then
        $venv/bin/python -m ensurepip >/dev/null 2>&1 || borrow_debian_pip
    fi
    pip() { $venv/bin/python -m pip --disable-pip-version-check --no-input "$@"; }
fi

# Runs pip with a line of progress now and then in place of its hundred; what it said is shown if it fails.
pip_told_briefly() {
    log=$venv/install.log
    pip "$@" >"$log" 2>&1 &
    installer=$!
    trap 'kill $installer 2>/dev/null; exit 130' INT TERM
    seconds=0
    while kill -0 $installer 2>/dev/null; do
        sleep 1
        seconds=$((seconds + 1))
        [ $((seconds % 5)) -eq 0 ] || continue
        if grep -q '^Installing collected' "$log"; then
            say "$seconds s: installing"
        else
            say "$seconds s: fetched $(grep -c '^Collecting' "$log" || true) packages"
        fi
    done
    trap - INT TERM
    wait $installer || { tail -n 30 "$log" >&2; fail "pip failed; the whole story is in $log"; }
}

say "installing what $lock pins (the first time fetches about $([ "$want" = run ] && echo 150 || echo 250) MB)"
if command -v uv >/dev/null; then
    pip install --require-hashes -r $lock
else
    pip_told_briefly install --require-hashes -r $lock
fi
say "installing shardbus itself, editable"
pip install --quiet --no-deps --no-build-isolation -e .

touch $venv/.stamp-run
[ "$want" = run ] || touch $venv/.stamp-dev
