#!/bin/sh
# Fails when a file names the host of a package mirror or of an image registry: which mirror is used
# is the user's choice, and examples say MIRROR.
set -eu
cd "$(dirname "$0")/.."
debian='([a-z0-9-]+[.])+(debian|ubuntu|debian-ports|devuan|launchpadcontent)[.](org|com|net)'
registry='(docker|quay|ghcr|gcr|mcr)[.](io|microsoft[.]com)'
allowed='(www|wiki|bugs|manpages|lists)[.]debian[.]org'
if git grep -nIE "$debian|$registry" -- . ':!Cargo.lock' | grep -vE "$allowed"; then
    echo "error: the lines above name a mirror or registry" >&2
    exit 1
fi
