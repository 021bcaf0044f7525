# For the scripts here: the compiler and its flags, and how a test ends. ctest hands in CXX, EIGEN_INCLUDE, JSON_INCLUDE and WORK; by hand
# the defaults do.
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

fail() { # the message, then the compiler's words
  echo "FAILED: $1"
  [ -s "$scratch/output" ] && head -c 6000 "$scratch/output"
  exit 1
}
skip() {
  echo "skipped: $1"
  exit 77
}
