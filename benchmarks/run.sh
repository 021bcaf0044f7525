#!/usr/bin/env bash
# Installs what is missing, builds the benchmarks for this machine, measures.
source "$(dirname "${BASH_SOURCE[0]}")/../tests/setup.sh"

usage() {
  cat <<'USAGE'
Usage: bash benchmarks/run.sh [--no-install] [arguments of the program...]

Installs what is missing (Debian and Ubuntu; elsewhere it names the packages), builds the benchmarks for this machine, runs them.
For steady figures let nothing else run. Further arguments go to the program, for example --benchmark_filter=mamba.
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

if [ "$install" = yes ]; then install_packages build benchmarks; fi
run_preset benchmarks || die "It could not be built; the reason stands above."
say "Measuring"
exec "$root/build/benchmarks/benchmarks/benchmarks" "${arguments[@]}"
