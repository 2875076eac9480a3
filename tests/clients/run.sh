#!/usr/bin/env bash
# Runs the client tests: installs what is missing, then hands its arguments to pytest.
# With --install-only it stops there.
# Debian's packages go to the system, everything else to target/. See README.md beside this file.
set -euo pipefail
cd "$(dirname "$0")/../.."

venv=$PWD/target/venv
jars=$PWD/target/kafka-libs
requirements=tests/clients/requirements.txt
pom=tests/clients/java/pom.xml

install_debian_packages() {
    local missing=()
    command -v kcat >/dev/null || missing+=(kcat)
    command -v strace >/dev/null || missing+=(strace)
    command -v java >/dev/null || missing+=(openjdk-17-jre-headless)
    command -v mvn >/dev/null || [ -e "$jars/complete" ] || missing+=(maven)
    command -v systemd-analyze >/dev/null || missing+=(systemd)
    python3 -c 'import ensurepip' 2>/dev/null || missing+=(python3-venv)
    [ ${#missing[@]} -eq 0 ] && return
    apt-get update -q
    DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends "${missing[@]}"
}

# The live page is tested where there is a browser. Its absence is no failure.
install_browser() {
    command -v chromium >/dev/null || command -v google-chrome >/dev/null && return
    { apt-get update -q && DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends chromium; } ||
        echo "no Chromium can be had: the tests of the live page are skipped"
}

install_python_packages() {
    cmp -s "$requirements" "$venv/installed.txt" && return
    python3 -m venv --clear "$venv"
    "$venv/bin/pip" install -q --disable-pip-version-check -r "$requirements"
    cp "$requirements" "$venv/installed.txt"
}

install_kafka() {
    cmp -s "$pom" "$jars/complete" && return
    rm -rf "$jars"
    mvn -q -B -f "$pom" dependency:copy-dependencies -DincludeScope=runtime -DoutputDirectory="$jars"
    cp "$pom" "$jars/complete"
}

mkdir -p target
install_debian_packages
[ "${1:-}" = --install-only ] || install_browser
install_python_packages
install_kafka
[ "${1:-}" = --install-only ] && exit
cd tests/clients
exec "$venv/bin/python" -m pytest "$@"
