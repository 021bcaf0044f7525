#!/usr/bin/env bash
# Other compilers, other standards, another Eigen, another processor: what is here of them is tried, what is not is said.
# Tests that read no files are compiled as others would and run: rows, applications and transposed applications against the plain walk.
set -u
usage() {
  cat <<'USAGE'
Usage: bash tests/compile/other_machines.sh [--compilers] [--eigen FOLDER] [--arm] [--test FILE]...

  --compilers     every g++-N and clang++-N found, C++20 and C++23: all headers parsed under our warnings, the tests built and run
  --eigen FOLDER  the same with the Eigen there, by c++ alone (a copy of Eigen 5: the folder that holds Eigen/Core)
  --arm           the tests built by aarch64-linux-gnu-g++, linked statically, run by qemu (Debian: g++-aarch64-linux-gnu qemu-user-static)
  --test FILE     below tests/, instead of operator/test_explicit.cpp core/test_numerics.cpp (and with --arm kernels/test_not_finite.cpp
                  kernels/test_reducers.cpp kernels/test_four_tap_rows.cpp layers/test_mamba2.cpp, too)

Without one of the first three: all of them, Eigen being looked for in IMPLICIT_ATTENTION_OTHER_EIGEN. Exit status 77 where nothing was there
to be tried, 1 where something failed.
USAGE
}
cd "$(dirname "${BASH_SOURCE[0]}")/../.." || exit 1
compilers=no arm=no eigen="" tests=()
while [ $# -gt 0 ]; do
  case "$1" in
    --compilers) compilers=yes ;;
    --eigen) eigen="${2:?}"; shift ;;
    --arm) arm=yes ;;
    --test) tests+=("${2:?}"); shift ;;
    -h | --help) usage; exit 0 ;;
    *) usage >&2; exit 1 ;;
  esac
  shift
done
if [ "$compilers$arm$eigen" = nono ]; then compilers=yes arm=yes eigen="${IMPLICIT_ATTENTION_OTHER_EIGEN:-none}"; fi

scratch="${TMPDIR:-/tmp}/other_machines-$$"
mkdir -p "$scratch/headers"
trap 'rm -rf "$scratch"' EXIT
for header in catch2 nlohmann; do ln -s "/usr/include/$header" "$scratch/headers/$header"; done  # without the rest of this machine's headers
system_eigen="${EIGEN_INCLUDE:-/usr/include/eigen3}"
strict=(-Wall -Wextra -Wpedantic -Wconversion -Wshadow -Wsign-conversion -Wold-style-cast -Wdouble-promotion -Werror)
printf '#include <implicit_attention/implicit_attention.hpp>\n#include <implicit_attention/metrics/metrics.hpp>\n' >"$scratch/all.cpp"
printf '#include <implicit_attention/io/io.hpp>\n' >"$scratch/io.cpp"
printf '#include <algorithm>\nvoid sort(int* from, int* to) { std::stable_sort(from, to); }\n' >"$scratch/sort.cpp"
tried=0 failed=0

has_standard() { "$1" "$2" -x c++ -fsyntax-only /dev/null >/dev/null 2>&1; }
report() { # status, what
  if [ "$1" -eq 0 ]; then
    echo "passed: $2"
  else
    echo "FAILED: $2"
    head -c 3000 "$scratch/output"
    failed=1
  fi
  tried=$((tried + 1))
}
# try_one NAME COMPILER EIGEN RUNNER FLAGS...: headers parsed, tests built and run.
try_one() {
  local name="$1" cxx="$2" with="$3" runner="$4" test
  shift 4
  local flags=("$@" -I include -I tests -isystem "$with" -isystem "$scratch/headers"
    "-DIMPLICIT_ATTENTION_SOURCE_DIR=\"$PWD\"" "-DIMPLICIT_ATTENTION_BINARY_DIR=\"$scratch\"")
  local warnings=("${strict[@]}")
  if "$cxx" --version | grep -qE 'g\+\+.* 1[12]\.'; then warnings+=(-Wno-restrict); fi  # its bug 105651
  # Where the standard library's own std::stable_sort warns of what that library has marked deprecated (libstdc++ 12 with clang++ 19).
  "$cxx" "${flags[@]}" -Werror=deprecated-declarations -fsyntax-only "$scratch/sort.cpp" 2>/dev/null || warnings+=(-Wno-deprecated-declarations)
  if [ -z "$runner" ]; then
    "$cxx" "${flags[@]}" "${warnings[@]}" -fsyntax-only "$scratch/all.cpp" >"$scratch/output" 2>&1
    report $? "$name: all headers but io/, without a warning"
    "$cxx" "${flags[@]}" "${warnings[@]}" -fsyntax-only "$scratch/io.cpp" >"$scratch/output" 2>&1
    report $? "$name: io/, without a warning"
  fi
  "$cxx" "${flags[@]}" -w -O0 -c tests/main.cpp -o "$scratch/main.o" >"$scratch/output" 2>&1 || { report 1 "$name: Catch2"; return; }
  for test in "${chosen[@]}"; do
    "$cxx" "${flags[@]}" -w -O1 -I "tests/$(dirname "$test")" -c "tests/$test" -o "$scratch/test.o" >"$scratch/output" 2>&1 &&
      "$cxx" ${runner:+-static} "$scratch/test.o" "$scratch/main.o" -lpthread -o "$scratch/test" >>"$scratch/output" 2>&1 &&
      $runner "$scratch/test" >>"$scratch/output" 2>&1
    report $? "$name: $test"
  done
}

chosen=("${tests[@]:-}")
[ ${#tests[@]} -gt 0 ] || chosen=(operator/test_explicit.cpp core/test_numerics.cpp)
if [ "$compilers" = yes ]; then
  found="$(for folder in ${PATH//:/ }; do ls "$folder" 2>/dev/null; done | grep -xE '(g|clang)\+\+-[0-9]+' | sort -u -V)"
  [ -n "$found" ] || echo "skipped: no g++-N and no clang++-N in PATH"
  for cxx in $found; do
    for standard in c++20 c++23; do
      flag="-std=$standard"
      has_standard "$cxx" "$flag" || flag=-std=c++2b  # as it was called before
      if has_standard "$cxx" "$flag"; then try_one "$cxx, $standard" "$cxx" "$system_eigen" "" "$flag"; else echo "skipped: $cxx has no $standard"; fi
    done
  done
fi
if [ -n "$eigen" ] && [ -e "$eigen/Eigen/Core" ]; then
  version="$(sed -n 's/^#define EIGEN_VERSION_STRING "\(.*\)"/\1/p' "$eigen/Eigen/Version" 2>/dev/null)"
  try_one "Eigen ${version:-of $eigen}, ${CXX:-c++}" "${CXX:-c++}" "$eigen" "" -std=c++20
elif [ -n "$eigen" ]; then
  echo "skipped: no other Eigen; --eigen or IMPLICIT_ATTENTION_OTHER_EIGEN names the folder that holds Eigen/Core"
fi
if [ "$arm" = yes ]; then
  qemu="$(command -v qemu-aarch64-static || command -v qemu-aarch64 || true)"
  if command -v aarch64-linux-gnu-g++ >/dev/null && [ -n "$qemu" ]; then
    [ ${#tests[@]} -gt 0 ] || chosen+=(kernels/test_not_finite.cpp kernels/test_reducers.cpp kernels/test_four_tap_rows.cpp layers/test_mamba2.cpp)
    try_one "arm64 by qemu" aarch64-linux-gnu-g++ "$system_eigen" "$qemu" -std=c++20
  else
    echo "skipped: no aarch64-linux-gnu-g++ or no qemu-aarch64 (Debian: g++-aarch64-linux-gnu qemu-user-static)"
  fi
fi
[ "$tried" -gt 0 ] || exit 77
exit "$failed"
