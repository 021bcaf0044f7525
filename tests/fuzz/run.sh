#!/usr/bin/env bash
# Searches on from the inputs that every test run replays: one program of libFuzzer's for each target, under the address and
# undefined-behaviour sanitizers.
source "$(dirname "${BASH_SOURCE[0]}")/../setup.sh"

usage() {
  cat <<'USAGE'
Usage: bash tests/fuzz/run.sh [--seconds N] [--runs N] [--target NAME]... [--coverage] [--no-install]

Builds tests/fuzz/targets with clang++ into build/fuzz, runs each, and prints executions and coverage.

  --seconds N    for each target at most (60)
  --runs N       executions of each target at most (no limit)
  --target NAME  only this one; may be repeated
  --coverage     instead: which lines and branches of io/ all inputs found so far run, file by file
  --no-install   look for no packages and install none

Inputs that reach something new stay in build/fuzz/found/NAME and are where the next run begins. One that breaks a rule is written to
build/fuzz/faults/NAME: mend the fault, and keep the input in tests/fuzz/corpus/NAME. Exit status 1 where there was one.
USAGE
}

seconds=60 runs=-1 install=yes coverage=no names=()
while [ $# -gt 0 ]; do
  case "$1" in
    --seconds) seconds="${2:?}"; shift ;;
    --runs) runs="${2:?}"; shift ;;
    --target) names+=("${2:?}"); shift ;;
    --coverage) coverage=yes ;;
    --no-install) install=no ;;
    -h | --help) usage; exit 0 ;;
    *) usage >&2; die "There is no option $1." ;;
  esac
  shift
done
if [ "$install" = yes ]; then install_packages build tests examples clang $([ "$coverage" = no ] || echo coverage); fi
if [ ${#names[@]} -eq 0 ]; then
  for source in tests/fuzz/targets/*.cpp; do names+=("$(basename "$source" .cpp)"); done
fi

clang="${FUZZ_CXX:-clang++}" out="$root/build/fuzz" eigen=/usr/include/eigen3
have "$clang" || die "There is no $clang; FUZZ_CXX names another."
for place in ${CMAKE_PREFIX_PATH:+${CMAKE_PREFIX_PATH//[:;]/ }}; do
  if [ -e "$place/include/eigen3/Eigen/Core" ]; then eigen="$place/include/eigen3"; fi
done
mkdir -p "$out"
launcher=()
if have ccache; then launcher=(ccache) && export CCACHE_SLOPPINESS=pch_defines,time_macros; fi
# Every number that is converted must fit; a rule that is broken ends the program. -O1: the sanitizers' own advice.
flags=(-std=c++20 -O1 -g1 -fno-omit-frame-pointer -fsanitize=fuzzer-no-link,address,undefined,float-cast-overflow -fno-sanitize-recover=all
  -DIMPLICIT_ATTENTION_LIBFUZZER -DIMPLICIT_ATTENTION_SOURCE_DIR="\"$root\"" -I include -I tests -I examples -isystem "$eigen")
# What the targets of the programs call. What else stands in these files (pictures, draws of texts) may stay without what it calls itself: it
# is not run, and would end the program at once.
supported=(command_line model_files nearest_name terminal colour_scale colour numbers text text_lines labelled_text evaluated_methods evaluation
  evaluation_shares resumable_lines shard)
partly=(-no-pie -Wl,--unresolved-symbols=ignore-in-object-files)
libraries=(-lpcre2-8 -lutf8proc -lpthread)
if have_header zlib.h; then flags+=(-DIMPLICIT_ATTENTION_IO_ZLIB=1) && libraries+=(-lz); fi

compile() { # object source flags...: where it is older than what it is made of
  local object="$out/$1" source="$2"
  shift 2
  if [ -e "$object" ] && [ -z "$(find "$source" include examples/support tests/fuzz/*.hpp tests/io/*.hpp -newer "$object" -print -quit)" ]; then return; fi
  "${launcher[@]}" "$clang" "${flags[@]}" "$@" -c "$source" -o "$object"
}

if [ "$coverage" = yes ]; then
  profdata="$(llvm_tool llvm-profdata)" && cov="$(llvm_tool llvm-cov)" || die "There is no llvm-cov or no llvm-profdata (Debian: llvm)."
  say "Building with counters in build/fuzz"
  for source in tests/fuzz/targets/*.cpp tests/fuzz/test_replay.cpp; do printf '#include "%s/%s"\n' "$root" "$source"; done >"$out/replay.cpp"
  counted=(-std=c++20 -O0 -fprofile-instr-generate -fcoverage-mapping -DIMPLICIT_ATTENTION_SOURCE_DIR="\"$root\""
    -DIMPLICIT_ATTENTION_BINARY_DIR="\"$out\"" -I include -I tests -I examples -isystem "$eigen")
  if have_header zlib.h; then counted+=(-DIMPLICIT_ATTENTION_IO_ZLIB=1); fi
  "$clang" "${counted[@]}" "$out/replay.cpp" tests/main.cpp "${partly[@]}" \
    $(printf 'examples/support/%s.cpp ' "${supported[@]}") "${libraries[@]}" \
    $(if have_header catch2/catch_all.hpp; then echo -lCatch2; fi) -o "$out/replay"
  LLVM_PROFILE_FILE="$out/replay.profraw" IMPLICIT_ATTENTION_FUZZ=0 IMPLICIT_ATTENTION_FUZZ_CORPUS="$out/found" "$out/replay"
  "$profdata" merge -sparse "$out/replay.profraw" -o "$out/replay.profdata"
  report_coverage "$cov" "$out/replay.profdata" include/implicit_attention/io no "$out/replay"
  exit
fi

say "Building in build/fuzz"
begin=$SECONDS
# The parser and the readers once, each target without them.
printf '#include <implicit_attention/io/instantiations.hpp>\n' >"$out/io.cpp.new"
if cmp -s "$out/io.cpp.new" "$out/io.cpp"; then rm "$out/io.cpp.new"; else mv "$out/io.cpp.new" "$out/io.cpp"; fi
compile io.o "$out/io.cpp" -DIMPLICIT_ATTENTION_INSTANTIATE_IO
support=()
for one in "${supported[@]}"; do
  compile "support_$one.o" "examples/support/$one.cpp"
  support+=("$out/support_$one.o")
done
for name in "${names[@]}"; do
  [ -e "tests/fuzz/targets/$name.cpp" ] || die "There is no target $name."
  compile "$name.o" "tests/fuzz/targets/$name.cpp" -include implicit_attention/io/instantiations.hpp
  more=()
  if grep -q '<support/' "tests/fuzz/targets/$name.cpp"; then more=("${support[@]}"); fi
  "$clang" -fsanitize=fuzzer,address,undefined "${partly[@]}" "$out/$name.o" "${more[@]}" "$out/io.o" "${libraries[@]}" -o "$out/$name"
done
say "Built, $(took $((SECONDS - begin)))"

# What a header merely claims must not be allocated; what takes longer than ten seconds hangs.
export ASAN_OPTIONS="allocator_may_return_null=0:malloc_context_size=3:quarantine_size_mb=32:${ASAN_OPTIONS:-}" UBSAN_OPTIONS="print_stacktrace=1:${UBSAN_OPTIONS:-}"
printf '%-20s %12s %10s %8s %8s\n' target executions 'a second' edges inputs
failed=0
for name in "${names[@]}"; do
  mkdir -p "$out/seeds/$name" "$out/found/$name" "$out/faults/$name"
  IMPLICIT_ATTENTION_FUZZ_SEEDS="$out/seeds/$name" "$out/$name" >/dev/null 2>&1
  folders=("$out/found/$name" "$out/seeds/$name")
  if [ -d "tests/fuzz/corpus/$name" ]; then folders+=("tests/fuzz/corpus/$name"); fi
  log="$out/$name.log" status=0
  "$out/$name" -max_total_time="$seconds" -runs="$runs" -max_len=4096 -timeout=10 -malloc_limit_mb=256 -rss_limit_mb=2048 -close_fd_mask=3 \
    -print_final_stats=1 -artifact_prefix="$out/faults/$name/" "${folders[@]}" >"$log" 2>&1 || status=$?
  value() { sed -n "s/^stat::$1: *//p" "$log" | tail -n 1; }
  edges="$(grep -ao 'cov: [0-9]*' "$log" | tail -n 1 | cut -d' ' -f2)" || true  # none where the first input ends the program
  printf '%-20s %12s %10s %8s %8s\n' "$name" "$(value number_of_executed_units)" "$(value average_exec_per_sec)" "${edges:-?}" \
    "$(find "$out/found/$name" -type f | wc -l)"
  if [ "$status" -ne 0 ]; then
    failed=1
    grep -aE -m 3 'ERROR: |runtime error|what\(\)|SUMMARY' "$log" || tail -n 5 "$log"
    echo "  the input is in build/fuzz/faults/$name, all of it in build/fuzz/$name.log"
  fi
done
exit "$failed"
