#!/usr/bin/env bash
# What the tests run of the library: lines and branches of include/, by clang++'s own counters.
source "$(dirname "${BASH_SOURCE[0]}")/setup.sh"

usage() {
  cat <<'USAGE'
Usage: bash tests/coverage.sh [--rooms "io;core"] [--under include/implicit_attention/io] [--lines] [--sanitize] [--no-install]

Builds with clang++ in build/coverage, runs every test (or those of some rooms), and prints lines and branches that ran, file by file.

  --rooms LIST   folders of tests/ to build and run, separated by semicolons (all)
  --under PATH   what is counted (include/implicit_attention)
  --lines        every line that did not run, too
  --sanitize     under the address and undefined-behaviour sanitizers as well: one build that answers both
  --no-install   look for no packages and install none
USAGE
}

rooms="" under=include/implicit_attention lines=no sanitize=no install=yes
while [ $# -gt 0 ]; do
  case "$1" in
    --rooms) rooms="${2:?}"; shift ;;
    --under) under="${2:?}"; shift ;;
    --lines) lines=yes ;;
    --sanitize) sanitize=yes ;;
    --no-install) install=no ;;
    -h | --help) usage; exit 0 ;;
    *) usage >&2; die "There is no option $1." ;;
  esac
  shift
done
if [ "$install" = yes ]; then
  install_packages build tests examples clang coverage
  install_optional_packages
fi
profdata="$(llvm_tool llvm-profdata)" || die "There is no llvm-profdata (Debian: llvm)."
cov="$(llvm_tool llvm-cov)" || die "There is no llvm-cov (Debian: llvm)."

build="$root/build/coverage" profiles="$root/build/coverage/profiles"
# Counters live in the mapped profile itself: a program that runs for a moment need not merge megabytes of them when it ends.
flags="-fprofile-instr-generate -fcoverage-mapping -mllvm -runtime-counter-relocation"
if [ "$sanitize" = yes ]; then flags+=" -g1 $(sed -n 's/.*"CMAKE_CXX_FLAGS": "\(-fsanitize=address[^"]*\)".*/\1/p' CMakePresets.json)"; fi
have ccache && export CMAKE_CXX_COMPILER_LAUNCHER=ccache CCACHE_SLOPPINESS=pch_defines,time_macros
cmake -S "$root" -B "$build" -D CMAKE_CXX_COMPILER=clang++ -D CMAKE_BUILD_TYPE=Release -D CMAKE_CXX_FLAGS_RELEASE=-O1 \
  -D CMAKE_CXX_FLAGS="$flags" -D IMPLICIT_ATTENTION_BUILD_BENCHMARKS=OFF \
  -D IMPLICIT_ATTENTION_TEST_ROOMS="$rooms" >/dev/null
say "Building in build/coverage"
cmake --build "$build" --parallel "$(job_count)"
rm -rf "$profiles"
mkdir -p "$profiles"
say "Running"
# Others' builds count nothing here. A test that fails has run, too; it is said.
# Where files may not grow, what counts is left out: half a file of counters would fail every later test.
small_files='^examples/faults$|^faults/'
(cd "$build" && LLVM_PROFILE_FILE="$profiles/%m%c.profraw" ctest --parallel "$(job_count)" --output-on-failure -E "^(compile|consume)/|$small_files") || say "Some tests failed"
(cd "$build" && LLVM_PROFILE_FILE=/dev/null ctest --output-on-failure -R "$small_files") || say "Some tests failed"
"$profdata" merge -sparse "$profiles"/*.profraw -o "$profiles/all.profdata"
report_coverage "$cov" "$profiles/all.profdata" "$under" "$lines" "$build"/tests/test_* "$build"/examples/*
