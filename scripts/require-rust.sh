#!/bin/sh
# Checks that there is a Rust toolchain as new as Cargo.toml asks for.
set -eu
cd "$(dirname "$0")/.."
wanted=$(sed -n 's/^rust-version = "\(.*\)"/\1/p' Cargo.toml)
if ! found=$(rustc --version 2>/dev/null | cut -d' ' -f2) || [ -z "$found" ]; then
    echo "error: no Rust toolchain found; install Rust $wanted or newer, for example with rustup" >&2
    exit 1
fi
if [ "$(printf '%s\n%s\n' "$wanted" "$found" | sort -V | head -n 1)" != "$wanted" ]; then
    echo "error: Rust $found is too old; install Rust $wanted or newer, for example with rustup" >&2
    exit 1
fi
