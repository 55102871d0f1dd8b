#!/bin/sh
# Builds the Debian package. Packages end up in target/deb, or in the directory after --output.
# usage: scripts/make-deb.sh [--output DIR] RELEASE...
#            builds in a clean root of each release, checks with lintian, and installs, removes and
#            purges in another clean root; what the next build can use again is in target/deb-build
#        scripts/make-deb.sh [--output DIR] --programs DIR
#            packs programs that were built on this machine, xtask among them: for its release alone
set -eu
cd "$(dirname "$0")/.."
target=$(realpath -m "${CARGO_TARGET_DIR:-target}")
out=$target/deb programs=
while [ $# -gt 0 ]; do
    case $1 in
    --output) out=$(realpath -m "$2") && shift 2 ;;
    --programs) programs=$(realpath "$2") && shift 2 ;;
    *) break ;;
    esac
done
kept=$target/deb-build
mkdir -p "$out" "$kept"
work=$(mktemp -d "$kept/work.XXXXXX")
trap 'rm -rf --one-file-system "$work"' EXIT
trap 'exit 1' HUP INT TERM
# Optimized code needs no symbols of its own in a package, and the crates have many.
export DEB_BUILD_OPTIONS="${DEB_BUILD_OPTIONS:-} noautodbgsym"

# Puts debian/ into a source tree. Packages of two releases are linked with different libraries:
# their versions differ, too.
add_packaging() {
    tree=$1 os_release=$2
    cp -a packaging/debian "$tree/debian"
    suffix=deb$(. "$os_release" && echo "$VERSION_ID")
    codename=$(. "$os_release" && echo "$VERSION_CODENAME")
    sed -i "1s/(\(.*\)) UNRELEASED/(\1~$suffix) $codename/" "$tree/debian/changelog"
}

publish() {
    rm -f "$out"/apt-ostree_*"~$suffix"_*.deb
    cp "$1"/apt-ostree_*.deb "$out/"
    deb=$(basename "$1"/apt-ostree_*.deb)
    echo "The package is $out/$deb"
}

if [ -n "$programs" ]; then
    mkdir "$work/tree"
    cp -a Makefile data examples scripts "$work/tree"
    add_packaging "$work/tree" /etc/os-release
    "$programs/xtask" dist "$work/dist" >/dev/null
    (cd "$work/tree" && PROGRAMS=$programs DIST_FILES=$work/dist dpkg-buildpackage --build=binary \
        --unsigned-changes --no-check-builddeps >"$work/log" 2>&1) || {
        cat "$work/log" >&2
        exit 1
    }
    publish "$work"
    exit
fi

# The mirror that apt of this machine uses.
mirror=$(apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' 'Origin: Debian' | head -n 1)
if [ -z "$mirror" ]; then
    echo "error: apt of this machine has no Debian source; run 'apt-get update'" >&2
    exit 1
fi

# A root of a release with packages; kept, because the next build needs the same.
clean_root() {
    release=$1 variant=$2 packages=$3
    mkdir -p "$kept/$release"
    key=$(echo "$variant $packages" | sha256sum | cut -c1-16)
    tar=$kept/$release/root-$key.tar
    if [ ! -e "$tar" ]; then
        mmdebstrap --quiet --variant="$variant" --include="$packages" \
            --aptopt='APT::Sandbox::User "root"' "$release" "$work/new.tar" "$mirror"
        mv "$work/new.tar" "$tar"
    fi
    root=$work/$release-$variant
    mkdir "$root"
    tar -C "$root" -xpf "$tar"
}

# Runs a script in a root, in namespaces of its own; the environment says what it may see.
in_root() {
    root=$1 script=$2
    ROOT=$root SCRIPT=$script BINDS=${BINDS:-} unshare --mount --pid --fork --kill-child sh -euc '
        mount -t proc proc "$ROOT/proc"
        mount --rbind /dev "$ROOT/dev"
        for bind in $BINDS; do
            mkdir -p "$ROOT/${bind#*:}"
            mount --bind "${bind%:*}" "$ROOT/${bind#*:}"
        done
        exec chroot "$ROOT" /usr/bin/env -i HOME=/root LC_ALL=C.UTF-8 \
            PATH=/toolchain/bin:/usr/sbin:/usr/bin:/sbin:/bin CARGO_HOME=/cargo \
            CARGO_TARGET_DIR=/cargo-target DEB_BUILD_OPTIONS="$DEB_BUILD_OPTIONS" \
            DEBIAN_FRONTEND=noninteractive sh -euc "$SCRIPT"
    '
}

# Names in Build-Depends without versions, and without those that the host's toolchain replaces.
build_depends() {
    sed -n '/^Build-Depends:/,/^Standards/p' packaging/debian/control |
        sed -e 's/^Build-Depends://' -e '/^Standards/d' -e '/<!/d' -e 's/ (.*)//' | tr -d ' \n' |
        sed -e 's/,$//' -e 's/debhelper-compat/debhelper/'
}

build() {
    release=$1
    clean_root "$release" buildd "$(build_depends)"
    # What was committed. Files that did not change keep their time: cargo goes by it.
    source=$kept/$release/source
    mkdir -p "$source" "$kept/$release/cargo"
    GIT_INDEX_FILE=$kept/$release/index git --work-tree="$source" read-tree --reset -u HEAD
    rm -rf "$source/debian"
    add_packaging "$source" "$root/etc/os-release"
    cargo fetch --quiet --locked
    BINDS="$(rustc --print sysroot):toolchain ${CARGO_HOME:-$HOME/.cargo}:cargo $kept/$release/cargo:cargo-target $source:build/apt-ostree"
    in_root "$root" '
        cd /build/apt-ostree
        dpkg-buildpackage --build=binary --unsigned-changes --build-profiles=pkg.apt-ostree.rustup'
    BINDS=
    publish "$root/build"
    rm -rf --one-file-system "$root"
}

# lintian of the newest release: older ones want units in /lib, which is an error now.
lint() {
    clean_root trixie apt lintian
    cp "$out/$deb" "$root/tmp/"
    in_root "$root" 'lintian --tag-display-limit 0 --fail-on error /tmp/apt-ostree_*.deb'
    rm -rf --one-file-system "$root"
}

# Installs, removes and purges the package with plain apt: nothing but its configuration may stay
# after removal, and nothing at all after purge.
try() {
    release=$1
    clean_root "$release" apt ca-certificates
    cp "$out/$deb" "$root/tmp/"
    cp /etc/resolv.conf "$root/etc/resolv.conf"
    in_root "$root" '
        needed() { dpkg-deb -f /tmp/apt-ostree_*.deb "$1"; }
        files() {
            find / -xdev -path /proc -prune -o -path /dev -prune -o -path /var/cache -prune -o \
                -path /var/lib/dpkg -prune -o -path /var/lib/apt -prune -o -path /var/log -prune -o \
                -path "/root.*" -prune -o -print | sort
        }
        apt-get update -q
        apt-get satisfy -q -y --no-install-recommends "$(needed Depends)" "$(needed Recommends)"
        files >/root.before
        apt-get install -q -y --no-install-recommends /tmp/apt-ostree_*.deb
        apt-ostree --version
        apt-ostree compose tree --help >/dev/null
        /usr/libexec/apt-ostree/apt-ostreed --version
        dpkg -V apt-ostree
        apt-get remove -q -y apt-ostree
        files >/root.removed
        diff /root.before /root.removed >/root.diff || true
        sed -n "s/^> //p" /root.diff >/root.kept
        if grep -v -e ^/etc/ -e ^/var/lib/systemd/ /root.kept; then
            echo "error: these files stayed after removal" >&2
            exit 1
        fi
        apt-get purge -q -y apt-ostree
        files >/root.purged
        diff /root.before /root.purged
        ! dpkg-query -s apt-ostree 2>/dev/null'
    rm -rf --one-file-system "$root"
}

# Functions share their variables.
for wanted in "$@"; do
    build "$wanted"
    lint
    try "$wanted"
done
