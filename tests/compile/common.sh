# Shared by the scripts here: the compiler, its flags, and how a test ends. ctest sets CXX, EIGEN_INCLUDE, JSON_INCLUDE and WORK; without
# ctest the defaults are used.
set -u
CXX="${CXX:-c++}"
REPOSITORY="${REPOSITORY:-$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)}"
EIGEN_INCLUDE="${EIGEN_INCLUDE:-/usr/include/eigen3}"
JSON_INCLUDE="${JSON_INCLUDE:-/usr/include}"
scratch="${WORK:-${TMPDIR:-/tmp}}/$(basename "$0" .sh)-$$"
mkdir -p "$scratch"
trap 'rm -rf "$scratch"' EXIT

flags=(-std=c++20 -fmessage-length=0 "-I$REPOSITORY/include" -isystem "$EIGEN_INCLUDE")
# A compiler's own folder must not be named again: it would come before the C++ headers.
[ "$JSON_INCLUDE" = /usr/include ] || flags+=(-isystem "$JSON_INCLUDE")
strict=(-Wall -Wextra -Wpedantic -Wconversion -Wshadow -Wsign-conversion -Wold-style-cast -Wdouble-promotion -Werror)

# precompile NAME TEXT FLAGS...: TEXT, lines of #include, parsed once for many small compilations with -include $scratch/NAME.hpp and the same
# flags, which are flags, strict and FLAGS: g++ ignores what was precompiled with other warnings.
precompile() {
  local name="$1" ending=gch
  printf '%s\n' "$2" >"$scratch/$name.hpp"
  shift 2
  if "$CXX" --version | grep -qi clang; then ending=pch; fi
  "$CXX" "${flags[@]}" "${strict[@]}" "$@" -x c++-header "$scratch/$name.hpp" -o "$scratch/$name.hpp.$ending" >"$scratch/output" 2>&1 ||
    fail "the headers do not compile with: $*"
}
# A header that includes config.hpp gets all of Eigen/Core anyway, so precompiling this hides nothing.
eigen='#include <Eigen/Core>'
fail() { # the message, then the compiler's output
  echo "FAILED: $1"
  [ -s "$scratch/output" ] && head -c 6000 "$scratch/output"
  exit 1
}
skip() {
  echo "skipped: $1"
  exit 77
}
