# Two translation units that agree on the macros of config.hpp and on Eigen's alignment link and run; two that disagree do not link.
. "$(dirname "$0")/common.sh"
here="$(dirname "$0")/abi"

compile() { # object source flags...
  local object="$1" source="$2"
  shift 2
  "$CXX" "${flags[@]}" "$@" -c "$source" -o "$scratch/$object" >"$scratch/output" 2>&1 || fail "$source does not compile with: $*"
}
link() { "$CXX" "$scratch/caller.o" "$scratch/callee.o" -o "$scratch/program" >"$scratch/output" 2>&1; }

compile caller.o "$here/caller.cpp"
compile callee.o "$here/callee.cpp"
link || fail "two units with the same macros do not link"
"$scratch/program" || fail "two units with the same macros do not run"

for difference in -DIMPLICIT_ATTENTION_EXCEPTIONS=0 -fno-exceptions -DIMPLICIT_ATTENTION_BLOCK_TOKENS=16 -DIMPLICIT_ATTENTION_TILE_CHANNELS=16 \
  -DEIGEN_MAX_STATIC_ALIGN_BYTES=0 -D_GLIBCXX_DEBUG -DIMPLICIT_ATTENTION_ABI_TAG=_mine -DEIGEN_DONT_VECTORIZE -DEIGEN_MAX_ALIGN_BYTES=64; do
  compile callee.o "$here/callee.cpp" "$difference"
  if link; then fail "a unit with $difference links with one without"; fi
  grep -q sum_of "$scratch/output" || fail "a unit with $difference is refused, but not over the name of the function"
  echo "does not link, as it should be: one unit with $difference"
done

# Vector instructions, where the compiler is for a machine that has them.
if echo '' | "$CXX" -mavx -mfma -x c++ -fsyntax-only - >/dev/null 2>&1; then
  for pair in "-mavx|-mavx -mfma" "-mavx|-mavx2" "-mavx2|-mavx2 -mfma" "-mavx2 -mfma|-mavx512f -mavx2 -mfma" "-msse3|-msse4.1" "-mno-sse3|-msse4.2"; do
    # shellcheck disable=SC2086
    compile caller.o "$here/caller.cpp" ${pair%|*}
    # shellcheck disable=SC2086
    compile callee.o "$here/callee.cpp" ${pair#*|}
    if link; then fail "a unit with ${pair%|*} links with one with ${pair#*|}"; fi
    echo "does not link, as it should be: ${pair%|*} and ${pair#*|}"
  done
fi

# The same difference on both sides is no difference.
compile callee.o "$here/callee.cpp" "$difference"
compile caller.o "$here/caller.cpp" "$difference"
link || fail "two units with $difference do not link"

# Settings that change neither code nor layout are not part of the name.
compile callee.o "$here/callee.cpp" "$difference" -DIMPLICIT_ATTENTION_DEFAULT_BYTE_LIMIT=1000
link || fail "a unit with another byte limit does not link"
