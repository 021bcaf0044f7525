#!/usr/bin/env bash
# Faults put into the headers, each of which a test must catch. faults.txt lists them; one build holds them all.
source "$(dirname "${BASH_SOURCE[0]}")/../setup.sh"

usage() {
  cat <<'USAGE'
Usage: bash tests/mutation/run.sh [--only WORD] [--under ROOM]... [--list] [--no-build] [--jobs N] [--no-install]

Puts every fault of tests/mutation/faults.txt into a copy of the headers, where the environment variable IMPLICIT_ATTENTION_FAULT chooses one
by its number, and builds the rooms of the tests once. Then, for each fault, it runs the tests that are named beside it. A fault is caught
where one of them fails, or takes ten times the processor time that it takes without it. One that neither ends nor works, as on a machine
that has no time for it, is undecided. Prints the share caught, every survivor and what is undecided, and leaves the table in
build/mutation/table.txt. Exit status 1 where less than 97 % is caught, or a fault no longer fits its header.

  --only WORD   faults whose line holds the word
  --under ROOM  faults in the headers of that folder; may be repeated
  --no-build    runs the programs of the last time
  --list        checks that all of them fit, prints them with their numbers, and does nothing else
  --jobs N      tests run at the same time (as many as cores)
  --no-install  look for no packages and install none
USAGE
}

only="" under="" list=no build=yes install=yes jobs=""
while [ $# -gt 0 ]; do
  case "$1" in
    --only) only="${2:?}"; shift ;;
    --under) under+="${under:+|}${2:?}"; shift ;;
    --list) list=yes ;;
    --no-build) build=no install=no ;;
    --jobs) jobs="${2:?}"; shift ;;
    --no-install) install=no ;;
    -h | --help) usage; exit 0 ;;
    *) usage >&2; die "There is no option $1." ;;
  esac
  shift
done
have perl || die "There is no perl (Debian: perl-base)."

out="$root/build/mutation" source="$root/build/mutation/source"
rm -rf "$out/include.new"
mkdir -p "$source" "$out/runs"
cp -r include "$out/include.new"
perl tests/mutation/insert.pl tests/mutation/faults.txt "$out/include.new/implicit_attention" >"$out/numbered.txt"
chosen="$(grep -F -e "$only" "$out/numbered.txt" | grep -P "^\d+\t($under)" || true)"
[ -n "$chosen" ] || die "No fault has the word $only${under:+ and is in a header of $under}."
if [ "$list" = yes ]; then
  echo "$chosen"
  exit
fi
if [ "$install" = yes ]; then install_packages build tests; fi

mapfile -t tests < <(echo "$chosen" | cut -f5 | tr ' ' '\n' | sort -u)
if [ "$build" = yes ]; then
  # Headers that have not changed keep their time, so that a second run builds little.
  (cd "$out/include.new" && find . -type f) | while read -r header; do
    if ! cmp -s "$out/include.new/$header" "$source/include/$header"; then
      mkdir -p "$source/include/$(dirname "$header")"
      cp "$out/include.new/$header" "$source/include/$header"
    fi
  done
  for each in CMakeLists.txt cmake tests README.md docs examples; do
    if [ -e "$each" ]; then ln -sfn "$root/$each" "$source/$each"; fi
  done
  have ccache && export CMAKE_CXX_COMPILER_LAUNCHER=ccache CCACHE_SLOPPINESS=pch_defines,time_macros
  say "Building $(wc -l <"$out/numbered.txt") faults in build/mutation, for ${#tests[@]} files of tests"
  cmake -S "$source" -B "$out/build" -D CMAKE_BUILD_TYPE=Release -D CMAKE_CXX_FLAGS="-w" -D CMAKE_CXX_FLAGS_RELEASE=-O1 \
    -D IMPLICIT_ATTENTION_BUILD_EXAMPLES=OFF -D IMPLICIT_ATTENTION_BUILD_BENCHMARKS=OFF -D IMPLICIT_ATTENTION_TEST_FILES="$(IFS=';' && echo "${tests[*]}")" >/dev/null
  cmake --build "$out/build" --parallel "${CMAKE_BUILD_PARALLEL_LEVEL:-$(job_count)}"
  cp "$out/numbered.txt" "$out/built.txt"
  printf '%s\n' "${tests[@]}" >"$out/built_tests.txt"
else
  cmp -s "$out/numbered.txt" "$out/built.txt" || die "The faults are not those of the last build: leave out --no-build."
  for test in "${tests[@]}"; do
    grep -qxF -e "$test" "$out/built_tests.txt" || die "The last build has no $test: leave out --no-build."
  done
fi

export IMPLICIT_ATTENTION_SHARED="${IMPLICIT_ATTENTION_SHARED:-$root/../shared}" MUTATION_OUT="$out"
# run_test FAULT TEST SECONDS: 0 where it passes, as far as there is data; 152 (SIGXCPU) where it works for longer, 124 where it has not
# ended ten times later.
run_test() {
  local status=0
  (cd "$MUTATION_OUT/runs" && ulimit -v 6000000 && ulimit -S -t "$3" && IMPLICIT_ATTENTION_FAULT="$1" timeout $(($3 * 10)) "$MUTATION_OUT/build/tests/test_${2%%/*}" -a \
    -\# "[#test_${2#*/}]" >"$MUTATION_OUT/runs/$1_${2//\//_}.log" 2>&1 </dev/null) || status=$?
  if [ "$status" -eq 77 ]; then status=0; fi
  return "$status"
}
# run_fault LINE: writes what became of it to runs/NUMBER.
run_fault() {
  local number header fault meaning named test status found=SURVIVED
  IFS=$'\t' read -r number header fault meaning named <<<"$1"
  for test in $named; do
    status=0
    run_test "$number" "$test" "$(cat "$MUTATION_OUT/runs/limit_${test//\//_}")" || status=$?
    case "$status" in
      0) ;;
      124) found="UNDECIDED: $test stands still" ;;
      *)
        found="caught by $test"
        if [ "$status" -eq 152 ]; then found+=", which does not end"; fi
        break
        ;;
    esac
  done
  printf '%s\t%s\t%s\t%s\n' "$number" "$found" "$header" "$meaning" >"$MUTATION_OUT/runs/$number"
}
export -f run_test run_fault

say "The tests without a fault"
rm -f "$out"/runs/*
take_time() { # sets `worked`: the processor's seconds of what has run so far
  times >"$out/times" # not in a subshell, which begins at nothing
  worked="$(awk 'NR == 2 { split($1, user, /[ms]/); split($2, kernel, /[ms]/); print int((user[1] + kernel[1]) * 60 + user[2] + kernel[2]) }' "$out/times")"
}
for test in "${tests[@]}"; do
  take_time
  begin="$worked"
  run_test 0 "$test" 1200 || die "tests/${test%%/*}/test_${test#*/}.cpp fails as it is: $(tail -n 3 "$out/runs/0_${test//\//_}.log")"
  take_time
  echo $(((worked - begin + 1) * 10 + 20)) >"$out/runs/limit_${test//\//_}"
done
say "With one, $(took "$SECONDS") after the start"
echo "$chosen" | tr '\n' '\0' | xargs -0 -P "${jobs:-$(job_count)}" -I{} bash -c 'run_fault "$1"' _ {}

find "$out/runs" -regex '.*/[0-9]+' -exec cat {} + | sort -n >"$out/table.txt"
cut -f3 "$out/table.txt" | cut -d/ -f1 | sort -u | while read -r room; do
  printf '%-12s %3d of %3d\n' "$room" "$(awk -F'\t' -v r="$room/" 'index($3, r) == 1 && $2 ~ /^caught/' "$out/table.txt" | wc -l)" \
    "$(awk -F'\t' -v r="$room/" 'index($3, r) == 1' "$out/table.txt" | wc -l)"
done
grep -P '\t(SURVIVED|UNDECIDED.*)\t' "$out/table.txt" || true
all="$(wc -l <"$out/table.txt")" caught="$(grep -cP '\tcaught' "$out/table.txt" || true)"
say "$caught of $all caught, $((100 * caught / all)) %, in $(took "$SECONDS")"
[ $((100 * caught)) -ge $((97 * all)) ]
