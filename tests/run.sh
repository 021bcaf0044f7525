#!/usr/bin/env bash
# Installs what is missing, builds everything, runs every test.
source "$(dirname "${BASH_SOURCE[0]}")/setup.sh"

usage() {
  cat <<'USAGE'
Usage: bash tests/run.sh [--preset NAME] [--no-install]

Installs what is missing (Debian and Ubuntu; elsewhere it names the packages), builds, and runs every test but
for most of the scripts that build as others do (below).

  --preset NAME  test        g++ or whatever CXX says, assertions on (the default)
                 test-clang  clang++, assertions off, warnings are errors: programs, benchmarks, tests of kernels, operator
                             and what takes the compiler long: every header alone, hosts without exceptions, the README
                 test-native for this machine: its vector width, its fused multiplications
                 sanitize    under the address and undefined-behaviour sanitizers; sanitize-clang with clang++,
                             sanitize-native for this machine's vector width, sanitize-thread under the thread sanitizer
  --no-install   look for no packages and install none: CMake says what it misses

The scripts that build as others do (tests/compile, tests/consume) are shared by the two: each runs in one of test and test-clang, and
.ci/run runs both. One by itself: bash tests/compile/headers_alone.sh

IMPLICIT_ATTENTION_TESTS_EVERY_FAULT=1 makes about three times as many calls and moments fail, one at a time, in the tests of the programs.

Golden data and trained models are used if they are in ../shared or where IMPLICIT_ATTENTION_SHARED points.
To run one room or test again:  ctest --preset test -R layers
USAGE
}

preset=test install=yes
while [ $# -gt 0 ]; do
  case "$1" in
    --preset) has_value "$@"; preset="$2"; shift ;;
    --no-install) install=no ;;
    -h | --help) usage; exit 0 ;;
    *) usage >&2; die "There is no option $1." ;;
  esac
  shift
done
case "$preset" in
  test | test-native | sanitize | sanitize-native | sanitize-thread) parts=(build tests examples) ;;
  sanitize-clang) parts=(build tests examples clang) ;;
  test-clang) parts=(build tests examples benchmarks clang) ;;
  *) usage >&2; die "There is no preset '$preset' for tests." ;;
esac

if [ "$install" = yes ]; then
  install_packages "${parts[@]}"
  install_optional_packages
fi
shared="${IMPLICIT_ATTENTION_SHARED:-$root/../shared}"
begin=$SECONDS
if ! run_preset "$preset"; then
  die "Failed after $(took $((SECONDS - begin))); the reason is above."
fi
if [ ! -d "$shared" ]; then
  say "Without golden data and real models ($shared is not there): the tests that need them are shown as skipped. IMPLICIT_ATTENTION_SHARED names another place."
fi
say "Every test of $preset passed, $(took $((SECONDS - begin)))"
