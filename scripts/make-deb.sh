#!/bin/sh
# Builds the Debian package in a clean root of each release given, checks it with lintian, and
# installs, removes and purges it in another clean root. Packages end up in target/deb.
# usage: scripts/make-deb.sh RELEASE...
set -eu
cd "$(dirname "$0")/.."
top=$(pwd)
out=${CARGO_TARGET_DIR:-$top/target}/deb
mkdir -p "$out"
work=$(mktemp -d "$out/work.XXXXXX")
trap 'rm -rf --one-file-system "$work"' EXIT

# The mirror that apt of this machine uses.
mirror=$(apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' 'Origin: Debian' | head -n 1)
if [ -z "$mirror" ]; then
    echo "error: apt of this machine has no Debian source; run 'apt-get update'" >&2
    exit 1
fi

# A root of a release with packages; kept, because the next build needs the same.
clean_root() {
    release=$1 variant=$2 packages=$3
    key=$(echo "$variant $packages" | sha256sum | cut -c1-16)
    tar=$out/root-$release-$key.tar
    if [ ! -e "$tar" ]; then
        mmdebstrap --quiet --variant="$variant" --include="$packages" \
            --aptopt='APT::Sandbox::User "root"' "$release" "$tar.new" "$mirror"
        mv "$tar.new" "$tar"
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
        exec chroot "$ROOT" /usr/bin/env -i HOME=/root PATH="/toolchain/bin:/usr/sbin:/usr/bin:/sbin:/bin" \
            LC_ALL=C.UTF-8 CARGO_HOME=/cargo CARGO_TARGET_DIR=/cargo-target sh -euc "$SCRIPT"
    '
}

build() {
    release=$1
    needed=$(sed -n '/^Build-Depends:/,/^Standards/p' packaging/debian/control |
        sed -e 's/^Build-Depends://' -e '/^Standards/d' -e '/<!/d' -e 's/ (.*)//' | tr -d ' \n' |
        sed -e 's/,$//' -e 's/debhelper-compat/debhelper/')
    clean_root "$release" buildd "$needed,lintian"
    mkdir -p "$root/build/apt-ostree" "$out/target-$release"
    git archive HEAD | tar -C "$root/build/apt-ostree" -xf -
    cp -a packaging/debian "$root/build/apt-ostree/debian"
    # Packages of two releases are linked with different libraries: their versions differ, too.
    suffix=deb$(. "$root/etc/os-release" && echo "$VERSION_ID")
    sed -i "1s/(\(.*\)) UNRELEASED/(\1~$suffix) $release/" "$root/build/apt-ostree/debian/changelog"
    cargo fetch --quiet --locked
    BINDS="$(rustc --print sysroot):toolchain ${CARGO_HOME:-$HOME/.cargo}:cargo $out/target-$release:cargo-target"
    in_root "$root" '
        cd /build/apt-ostree
        dpkg-buildpackage --build=binary --unsigned-changes --build-profiles=pkg.apt-ostree.rustup
        cd ..
        lintian --no-tag-display-limit --fail-on error --suppress-tags bad-distribution-in-changes-file *.changes'
    BINDS=
    rm -f "$out"/apt-ostree_*"~$suffix"_*.deb
    cp "$root"/build/apt-ostree_*.deb "$out/"
    deb=$(basename "$root"/build/apt-ostree_*.deb)
}

# Installs, removes and purges the package with plain apt.
try() {
    release=$1
    clean_root "$release" minbase ca-certificates
    cp "$out/$deb" "$root/tmp/"
    cp /etc/resolv.conf "$root/etc/resolv.conf"
    in_root "$root" '
        export DEBIAN_FRONTEND=noninteractive
        apt-get update -q
        apt-get install -q -y --no-install-recommends /tmp/apt-ostree_*.deb
        apt-ostree --version
        apt-ostree compose tree --help >/dev/null
        test -z "$(dpkg -V apt-ostree)"
        apt-get remove -q -y apt-ostree
        apt-get purge -q -y apt-ostree
        ! dpkg-query -s apt-ostree 2>/dev/null'
}

for release in "$@"; do
    build "$release"
    try "$release"
    echo "The package is $out/$deb"
done
