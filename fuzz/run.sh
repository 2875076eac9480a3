#!/bin/sh
# Runs one fuzz target: fuzz/run.sh TARGET SECONDS [libFuzzer options]
# Targets are the files of fuzz/fuzz_targets. Ends with 0 when nothing was found; what was found is
# in fuzz/artifacts/TARGET. With a nightly toolchain the address sanitizer watches every allocation,
# so that one of more than 32 MiB is a finding too; on stable it is coverage and memory in use only.
set -eu
target=${1:?usage: fuzz/run.sh TARGET SECONDS} seconds=${2:?usage: fuzz/run.sh TARGET SECONDS}
shift 2
cd "$(dirname "$0")"

triple=$(rustc -vV | sed -n 's/^host: //p')
flags="--cfg fuzzing -Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4
       -Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table"
toolchain=
if rustc +nightly -V >/dev/null 2>&1; then
    toolchain=+nightly flags="$flags -Zsanitizer=address"
fi

# The target is named so that the flags do not reach build scripts and procedural macros.
RUSTFLAGS="$flags" cargo $toolchain build --release --target "$triple" --bin "$target"
mkdir -p "corpus/$target" "artifacts/$target"
exec "${CARGO_TARGET_DIR:-target}/$triple/release/$target" "corpus/$target" \
    -artifact_prefix="artifacts/$target/" -max_total_time="$seconds" \
    -malloc_limit_mb=32 -rss_limit_mb=1024 -max_len=4096 -timeout=5 -print_final_stats=1 "$@"
