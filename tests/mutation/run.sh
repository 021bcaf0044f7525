#!/usr/bin/env bash
# Faults put into the headers one at a time, each of which a test must catch. faults.txt lists them.
source "$(dirname "${BASH_SOURCE[0]}")/../setup.sh"

usage() {
  cat <<'USAGE'
Usage: bash tests/mutation/run.sh [--only WORD] [--list] [--no-install]

Puts each fault of tests/mutation/faults.txt into a copy of the headers, compiles the tests that are named beside it against that copy, and
runs them. A fault is caught where one of them fails, or ends in no time that makes sense. Prints the share caught, and every survivor;
exit status 1 where there is one, or a fault no longer fits its header.

  --only WORD   faults whose line holds the word
  --list        prints them and does nothing else
  --no-install  look for no packages and install none
USAGE
}

only="" list=no install=yes
while [ $# -gt 0 ]; do
  case "$1" in
    --only) only="${2:?}"; shift ;;
    --list) list=yes ;;
    --no-install) install=no ;;
    -h | --help) usage; exit 0 ;;
    *) usage >&2; die "There is no option $1." ;;
  esac
  shift
done
faults="$(grep -v '^#' tests/mutation/faults.txt | grep -F -e "$only" || true)"
[ -n "$faults" ] || die "No fault has the word $only."
if [ "$list" = yes ]; then
  echo "$faults"
  exit
fi
if [ "$install" = yes ]; then install_packages build tests; fi

out="$root/build/mutation" cxx="${CXX:-g++}"
mkdir -p "$out"
launcher=()
if have ccache; then launcher=(ccache); fi
flags=(-std=c++20 -O0 -w "-DIMPLICIT_ATTENTION_SOURCE_DIR=\"$root\"" "-DIMPLICIT_ATTENTION_BINARY_DIR=\"$out\"" -I "$root/tests" -isystem /usr/include/eigen3)
libraries=(-lpcre2-8 -lutf8proc -lpthread)
if have_header catch2/catch_all.hpp; then libraries+=(-lCatch2); fi
"${launcher[@]}" "$cxx" "${flags[@]}" -I include -c tests/main.cpp -o "$out/main.o"

# 0: the test passes, 1: it fails, 2: it does not compile.
outcome() { # include folder, test
  local name="${2//\//_}"
  "${launcher[@]}" "$cxx" "${flags[@]}" -I "$1" -I "$root/tests/$(dirname "$2")" -c "$root/tests/$2" -o "$out/$name.o" >"$out/output" 2>&1 &&
    "$cxx" "$out/$name.o" "$out/main.o" "${libraries[@]}" -o "$out/$name.test" >>"$out/output" 2>&1 || return 2
  # 77: passed, as far as there is data.
  local status=0
  (cd "$out" && ulimit -v 16000000 && timeout 120 "$out/$name.test" >"$out/output" 2>&1 </dev/null) || status=$?
  [ "$status" -eq 0 ] || [ "$status" -eq 77 ] || return 1
}

say "The tests without a fault"
mapfile -t tests < <(echo "$faults" | cut -f4 | tr ' ' '\n' | sort -u)
for test in "${tests[@]}"; do
  outcome "$root/include" "$test" || die "tests/$test fails as it is: $(tail -n 3 "$out/output")"
done

say "With one"
caught=0 all=0 bad=0
while IFS=$'\t' read -r header fault meaning named; do
  all=$((all + 1))
  rm -rf "$out/include"
  cp -r include "$out/include"
  sed -i -E -e "$fault" "$out/include/implicit_attention/$header"
  if cmp -s "include/implicit_attention/$header" "$out/include/implicit_attention/$header"; then
    echo "does not fit any more: $header: $fault"
    bad=1
    continue
  fi
  found=no
  for test in $named; do
    status=0
    outcome "$out/include" "$test" || status=$?
    if [ "$status" -eq 1 ]; then found="$test" && break; fi
    if [ "$status" -eq 2 ]; then found=compiler && break; fi
  done
  case "$found" in
    no) echo "SURVIVED: $header: $meaning" && bad=1 ;;
    compiler) echo "no fault, it does not compile: $header: $fault" && bad=1 ;;
    *) echo "caught by $found: $header: $meaning" && caught=$((caught + 1)) ;;
  esac
done <<<"$faults"
say "$caught of $all caught, $((100 * caught / all)) %"
exit "$bad"
