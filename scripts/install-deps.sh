#!/bin/sh
# Installs the Debian packages (12 or 13) that the given jobs need; does nothing when all are there.
# usage: scripts/install-deps.sh build|run|test...
set -eu

packages_for() {
    case $1 in
    build) echo g++ gcc git libapt-pkg-dev liblzma-dev libostree-dev libssl-dev make pkg-config ;;
    run) echo ca-certificates debian-archive-keyring gpgv ostree ;;
    test)
        echo apt-utils attr busybox-static ca-certificates cpio curl dbus-daemon debhelper docker-registry \
            dpkg-dev e2fsprogs faketime file gnupg iptables mmdebstrap podman polkitd procps python3 \
            qemu-system-x86 runc skopeo strace \
            systemd-container util-linux time umoci xz-utils zstd
        ;;
    *)
        echo "error: '$1' is none of build, run, test" >&2
        exit 2
        ;;
    esac
}

is_installed() {
    [ "$(dpkg-query -W -f '${db:Status-Status}' "$1" 2>/dev/null || true)" = installed ]
}

missing=
for job in "$@"; do
    for package in $(packages_for "$job"); do
        is_installed "$package" || missing="$missing $package"
    done
done
[ -n "$missing" ] || exit 0
echo "Installing$missing"
if [ "$(id -u)" != 0 ]; then
    echo "error: only root can install packages; as root: apt-get install$missing" >&2
    exit 1
fi
export DEBIAN_FRONTEND=noninteractive
apt-get update -q
# shellcheck disable=SC2086 # a list of words
apt-get install -q -y --no-install-recommends $missing
