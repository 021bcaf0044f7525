#!/usr/bin/env bash
# Installs what is missing, builds the benchmarks for this machine, measures.
source "$(dirname "${BASH_SOURCE[0]}")/../tests/setup.sh"

usage() {
  cat <<'USAGE'
Usage: bash benchmarks/run.sh [--no-install] [--quick] [--all] [arguments of the program...]

Installs what is missing (Debian and Ubuntu; elsewhere it names the packages), builds the benchmarks for this machine, measures the
machine and the work in turn, and prints the table of docs/speed.md: figures, bars, fitted exponents, memory, precision. A few minutes; for
steady figures let nothing else run.

  --no-install   look for no packages and install none
  --quick        smaller problems and few rounds: whether everything works, not how fast
  --all          also the grid of layer sizes and lengths
  --rounds=N     medians over N rounds
  --processor-time   processor time instead of wall-clock time, where others use the machine
  --benchmark_filter=REGEX, --benchmark_list_tests, --benchmark_out=FILE   as Google Benchmark has them

The table goes to standard output, the benchmarks one by one to standard error:  bash benchmarks/run.sh > table.md
USAGE
}

install=yes
arguments=()
while [ $# -gt 0 ]; do
  case "$1" in
    --no-install) install=no ;;
    -h | --help) usage; exit 0 ;;
    *) arguments+=("$1") ;;
  esac
  shift
done

{
  if [ "$install" = yes ]; then install_packages build benchmarks; fi
  run_preset benchmarks || die "Building failed; the reason is above."
  say "Measuring"
} >&2
exec "$root/build/benchmarks/benchmarks/benchmarks" "${arguments[@]}"
