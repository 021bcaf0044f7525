#!/usr/bin/env bash
# Counts the instructions of small fixed cases and compares them with the recorded figures.
source "$(dirname "${BASH_SOURCE[0]}")/../tests/setup.sh"

usage() {
  cat <<'USAGE'
Usage: bash benchmarks/instructions.sh [--record] [CASE...]

Builds benchmarks/guard/instructions.cpp for any machine of this kind (-O2, never -march=native), runs each case under callgrind and
compares the instructions with benchmarks/instructions.txt. Fails where a case takes over 10 % more than recorded; says where one takes
over 10 % less. Instructions are not times, but they are the same in every run, even on a busy machine.

  --record   write what was counted as the new figures of this compiler
  CASE...    these only

Figures are kept by compiler and machine; for another compiler than the recorded ones, record first, change, then compare.
USAGE
}

record=no
chosen=()
while [ $# -gt 0 ]; do
  case "$1" in
    --record) record=yes ;;
    -h | --help) usage; exit 0 ;;
    -*) usage >&2; die "There is no option $1." ;;
    *) chosen+=("$1") ;;
  esac
  shift
done

have valgrind || die "valgrind is not installed, so nothing was counted: install valgrind (Debian, Ubuntu: apt-get install valgrind)."
have_cmake || die "cmake 3.23 or newer is needed."

figures="$root/benchmarks/instructions.txt"
build="$root/build/instructions"
log="$(mktemp)"
trap 'rm -f "$log"' EXIT
say "Building in build/instructions"
# The flags are explicit: the environment must not change the counts.
unset CXXFLAGS CPPFLAGS LDFLAGS
cmake -S "$root" -B "$build" -DCMAKE_BUILD_TYPE=Release -DCMAKE_CXX_FLAGS= -DCMAKE_CXX_FLAGS_RELEASE="-O2 -DNDEBUG" \
  -DIMPLICIT_ATTENTION_BUILD_TESTS=OFF -DIMPLICIT_ATTENTION_BUILD_EXAMPLES=OFF -DIMPLICIT_ATTENTION_BUILD_BENCHMARKS=ON \
  -DIMPLICIT_ATTENTION_NATIVE=OFF >"$log" 2>&1 || { cat "$log" >&2; die "Configuring failed; the reason is above."; }
cmake --build "$build" --target instructions >"$log" 2>&1 || { cat "$log" >&2; die "Building failed; the reason is above."; }
program="$build/benchmarks/instructions"

compiler="$(sed -n 's/^set(CMAKE_CXX_COMPILER_ID "\(.*\)")/\1/p' "$build"/CMakeFiles/*/CMakeCXXCompiler.cmake | head -n 1)"
version="$(sed -n 's/^set(CMAKE_CXX_COMPILER_VERSION "\([0-9]*\).*/\1/p' "$build"/CMakeFiles/*/CMakeCXXCompiler.cmake | head -n 1)"
key="$compiler-$version-$(uname -m)"
say "Counting ($key)"

mapfile -t cases < <("$program" --list)
if [ ${#chosen[@]} -gt 0 ]; then cases=("${chosen[@]}"); fi
known=no
if [ -e "$figures" ] && grep -q "^$key " "$figures"; then known=yes; fi
if [ "$known" = no ] && [ "$record" = no ]; then say "No figures are recorded for $key: this counts without comparing (--record keeps them)"; fi

worse=0
counted=()
for case in "${cases[@]}"; do
  valgrind --tool=callgrind --callgrind-out-file=/dev/null --collect-atstart=no --toggle-collect='*counted_work*' "$program" "$case" >"$log" 2>&1 ||
    { cat "$log" >&2; die "The case $case failed under valgrind."; }
  count="$(sed -n 's/.*Collected *: *\([0-9]*\).*/\1/p' "$log")"
  if [ -z "$count" ] || [ "$count" -eq 0 ]; then cat "$log" >&2; die "Nothing was counted in the case $case."; fi
  counted+=("$key $case $count")
  before="$(if [ -e "$figures" ]; then awk -v key="$key" -v name="$case" '$1 == key && $2 == name { print $3 }' "$figures"; fi)"
  if [ -z "$before" ]; then
    printf '  %-24s %12d\n' "$case" "$count"
    continue
  fi
  verdict="$(awk -v now="$count" -v before="$before" 'BEGIN { r = now / before; print (r > 1.1 ? "MORE" : r < 0.9 ? "less: record it" : "") }')"
  printf '  %-24s %12d   recorded %12d   %+6.1f %%  %s\n' "$case" "$count" "$before" "$(awk -v a="$count" -v b="$before" 'BEGIN { print 100 * (a / b - 1) }')" "$verdict"
  if [ "$verdict" = MORE ]; then worse=$((worse + 1)); fi
done

if [ "$record" = yes ]; then
  {
    printf '# Instructions of the cases of guard/instructions.cpp, by compiler and machine. Written by instructions.sh --record.\n'
    {
      if [ -e "$figures" ]; then
        grep -v '^#' "$figures" | while read -r old_key old_case old_count; do
          replaced=no
          for line in "${counted[@]}"; do case "$line" in "$old_key $old_case "*) replaced=yes ;; esac; done
          if [ "$replaced" = no ]; then printf '%s %s %s\n' "$old_key" "$old_case" "$old_count"; fi
        done
      fi
      printf '%s\n' "${counted[@]}"
    } | LC_ALL=C sort
  } >"$log"
  cat "$log" >"$figures"
  say "Recorded in benchmarks/instructions.txt"
  exit 0
fi
if [ "$worse" -gt 0 ]; then die "$worse of ${#cases[@]} cases take over 10 % more instructions than recorded."; fi
