#!/usr/bin/env bash
# clang-tidy by .clang-tidy: all headers, or the files that are named.
source "$(dirname "${BASH_SOURCE[0]}")/setup.sh"

usage() {
  cat <<'USAGE'
Usage: bash tests/tidy.sh [FILES]

Runs clang-tidy 14 with the checks of .clang-tidy over every header of include/, or over FILES (sources of examples/ and benchmarks/, too).
Exit status 1 where it warns of something.
USAGE
}

case "${1:-}" in
  -h | --help) usage; exit 0 ;;
  -*) usage >&2; die "There is no option $1." ;;
esac
tidy="$(llvm_14_tool clang-tidy)" || die "There is no clang-tidy 14 (Debian: clang-tidy-14)."
mkdir -p build/tidy
files=("$@")
if [ ${#files[@]} -eq 0 ]; then
  files=(build/tidy/headers.cpp)
  (cd include && find implicit_attention -name '*.hpp' ! -name 'openmp_executor.hpp' | LC_ALL=C sort | sed 's/.*/#include <&>/') >build/tidy/headers.cpp
fi
"$tidy" --quiet "${files[@]}" -- -std=c++20 -I include -I examples -isystem /usr/include/eigen3 -isystem /usr/include/freetype2
