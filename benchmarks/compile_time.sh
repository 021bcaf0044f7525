#!/usr/bin/env bash
# What compiling against the library costs, against a file that includes Eigen alone.
source "$(dirname "${BASH_SOURCE[0]}")/../tests/setup.sh"

usage() {
  cat <<'USAGE'
Usage: bash benchmarks/compile_time.sh [--rounds N] [--only NAME,...]

Compiles small programs against the headers and prints a table: seconds of processor time, the ratio to a file that includes <Eigen/Core> and
nothing else, compiled in turn with them, and the compiler's peak memory. Medians over N rounds (default 3). The compiler is CXX, or c++.
All rows take about six minutes a round; --only takes some of them, by name:

  umbrella, one_layer                            headers included and nothing else
  float_layer, minimal, explains, explains_mamba  programs from headers alone
  float_layer_compiled, minimal_compiled, explains_compiled    the same against the compiled library

Example: CXX=clang++-16 bash benchmarks/compile_time.sh --rounds 5 > table.md
USAGE
}

rounds=3 only=""
while [ $# -gt 0 ]; do
  case "$1" in
    --rounds) has_value "$@"; rounds="$2"; shift ;;
    --only) has_value "$@"; only="$2"; shift ;;
    -h | --help) usage; exit 0 ;;
    *) usage >&2; die "There is no option $1." ;;
  esac
  shift
done
[[ "$rounds" =~ ^[1-9][0-9]?$ ]] || die "--rounds is '$rounds', expected 1 to 99."
compiler="${CXX:-c++}"
eigen="${EIGEN_INCLUDE:-/usr/include/eigen3}"
have "$compiler" || die "There is no compiler $compiler: set CXX."

work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT
program() { cat >"$work/$1.cpp"; }
main='int main() {}'
program eigen <<<"#include <Eigen/Core>
$main"
program umbrella <<<"#include <implicit_attention/implicit_attention.hpp>
$main"
program one_layer <<<"#include <implicit_attention/layers/mamba.hpp>
$main"
program float_layer <<'CPP'
#include <cstdio>
#include <implicit_attention/layers/mamba.hpp>
int main() {
  using namespace implicit_attention;
  Mamba<float>::Weights weights;
  const Mamba<float> layer(weights);
  const Matrix<float> u = Matrix<float>::Random(12, layer.width());
  const auto result = layer.materialize_attention(u);
  std::printf("%g\n", static_cast<double>(result.attention(0, 11, 9)));
}
CPP
cp examples/minimal.cpp "$work/minimal.cpp"
program explains <<'CPP'
#include <cstdio>
#include <implicit_attention/io/open_checkpoint.hpp>
#include <implicit_attention/models/explainer.hpp>
#include <implicit_attention/models/load.hpp>
int main(int, char** arguments) {
  using namespace implicit_attention;
  const auto checkpoint = open_checkpoint<float>(arguments[1]);
  Explainer<float> explainer(load_language_model<float>(*checkpoint.source, checkpoint.configuration), {1, 2, 3});
  const Attribution<float> relevance = explainer.explain(Method::relevance, {2, 4, {}});
  std::printf("%g\n", static_cast<double>(relevance.scores(0)));
}
CPP
# A program that knows its model's family compiles no other.
sed -e 's|models/load.hpp|models/mamba_lm.hpp|; s|load_language_model<|load_mamba_lm<|' "$work/explains.cpp" >"$work/explains_mamba.cpp"
for name in float_layer minimal explains; do
  { echo '#include <implicit_attention/instantiations.hpp>'
    if [ "$name" != float_layer ]; then echo '#include <implicit_attention/io/instantiations.hpp>'; fi
    cat "$work/$name.cpp"; } >"$work/${name}_compiled.cpp"
done

# name | what it is | arguments | bar
rows='eigen|a file that includes `<Eigen/Core>`|-fsyntax-only|
umbrella|`implicit_attention.hpp` included|-fsyntax-only|1.4
one_layer|one layer (`layers/mamba.hpp`) included|-fsyntax-only|1.2
eigen_O2|the same file of Eigen alone, `-O2`|-O2|
float_layer|a program with one layer in float, `-O2`|-O2|10
minimal|`examples/minimal.cpp`, `-O2`|-O2|15
explains|a program that loads any model and explains, `-O2`|-O2|30
explains_mamba|one that loads a Mamba and explains, `-O2`|-O2|
float_layer_compiled|one layer in float, against the compiled library|-O2|6
minimal_compiled|`examples/minimal.cpp`, likewise|-O2|6
explains_compiled|loads and explains, likewise|-O2|8'
cp "$work/eigen.cpp" "$work/eigen_O2.cpp"
if [ -n "$only" ]; then
  for name in ${only//,/ }; do
    cut -d'|' -f1 <<<"$rows" | grep -qxF -e "$name" || die "There is no row $name: expected $(cut -d'|' -f1 <<<"$rows" | paste -sd' ')."
  done
  [[ "$only" =~ [a-z] ]] || die "--only: '$only' names no row."
  rows="$(grep -E "^(eigen|eigen_O2|${only//,/|})[|]" <<<"$rows")"
fi

seconds() { # name, arguments: processor seconds and MiB of one compilation
  local TIMEFORMAT='%U %S' memory='-' spent
  if [ -x /usr/bin/time ]; then
    spent="$( { /usr/bin/time -f '%U %S %M' "$compiler" -std=c++20 $2 -I include -isystem "$eigen" -c "$work/$1.cpp" -o "$work/$1.o"; } 2>&1 )" ||
      { printf '%s\n' "$spent" | head -20 >&2; die "$1 does not compile."; }
    awk '{ printf "%.2f %.0f\n", $1 + $2, $3 / 1024 }' <<<"${spent##*$'\n'}"
  else
    spent="$( { time "$compiler" -std=c++20 $2 -I include -isystem "$eigen" -c "$work/$1.cpp" -o "$work/$1.o" >/dev/null; } 2>&1 )" ||
      { printf '%s\n' "$spent" | head -20 >&2; die "$1 does not compile."; }
    awk '{ printf "%.2f -\n", $1 + $2 }' <<<"${spent##*$'\n'}"
  fi
}
for ((round = 1; round <= rounds; ++round)); do
  while IFS='|' read -r name what arguments bar; do
    if [ -t 2 ]; then printf '\rround %d of %d: %-60s' "$round" "$rounds" "$name" >&2; fi
    seconds "$name" "$arguments" >>"$work/$name.times"
  done <<<"$rows"
done
if [ -t 2 ]; then printf '\r%-80s\r' '' >&2; fi

median() { sort -n "$work/$1.times" | awk '{ a[NR] = $1; m[NR] = $2 } END { k = int((NR + 1) / 2); print a[k], m[k] }'; }
printf '%s, medians of %d\n\n| work | seconds | ratio | bar | memory (MiB) |\n|---|---|---|---|---|\n' "$("$compiler" --version | head -1)" "$rounds"
while IFS='|' read -r name what arguments bar; do
  case "$arguments" in -O2) base=eigen_O2 ;; *) base=eigen ;; esac
  read -r own memory <<<"$(median "$name")"
  read -r of_base _ <<<"$(median "$base")"
  printf '| %s | %.2f | %s | %s | %s |\n' "$what" "$own" "$(awk -v a="$own" -v b="$of_base" 'BEGIN { printf "%.1f", a / b }')" "${bar:--}" "$memory"
done <<<"$rows"
