#!/bin/sh
# Runs all tests and ends with one line: "N passed, N failed". Arguments go to the test runner.
set -eu
cd "$(dirname "$0")/.."
log=$(mktemp)
trap 'rm -f "$log" "$log.status"' EXIT

run_all() {
    # End-to-end tests run the programs.
    cargo build --workspace || return
    if cargo nextest --version >/dev/null 2>&1; then
        cargo nextest run --workspace --no-fail-fast "$@" || echo 1 >"$log.status"
    else
        # One test at a time: those that compose need the whole machine.
        cargo test --workspace --no-fail-fast --lib --bins --tests "$@" -- --test-threads=1 ||
            echo 1 >"$log.status"
    fi
    if [ -n "${APTOSTREE_TEST_FULL:-}" ]; then
        cargo test -p apt-ostree-testkit --test parity -- --ignored --test-threads=1 ||
            echo 1 >"$log.status"
        scripts/make-deb.sh bookworm trixie || echo 1 >"$log.status"
    fi
    cargo test --workspace --no-fail-fast --doc || echo 1 >"$log.status"
}

{ run_all "$@" || echo 1 >"$log.status"; } 2>&1 | tee "$log"
# nextest: "Summary [ 1.2s] 9 tests run: 8 passed (1 slow), 1 failed, 2 skipped"
# libtest: "test result: FAILED. 8 passed; 1 failed; 0 ignored; ..."
awk '
    /^ *Summary \[/ || /^test result:/ {
        for (i = 2; i <= NF; i++) {
            if ($i ~ /^passed/) passed += $(i - 1)
            if ($i ~ /^(failed|timed)/) failed += $(i - 1)
        }
        found = 1
    }
    END { printf "%d passed, %d failed\n", passed, failed; exit !found || failed > 0 }
' "$log" && [ ! -e "$log.status" ]
