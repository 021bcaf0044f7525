# Every header compiles as the only one, without a warning; all but io/ also without exceptions and without run-time type information.
. "$(dirname "$0")/common.sh"
bare=(-fno-exceptions -fno-rtti)
precompile_eigen with_exceptions
precompile_eigen without_exceptions "${bare[@]}"

alone() { # further arguments
  "$CXX" "${flags[@]}" "${strict[@]}" "$@" -fsyntax-only "$scratch/alone.cpp" >"$scratch/output" 2>&1
}
failed=0
count=0
umbrella="$REPOSITORY/include/implicit_attention/implicit_attention.hpp"
while IFS= read -r header; do
  case "$header" in
    implicit_attention/io/*) variant=() eigen="$scratch/with_exceptions.hpp" ;;
    *) variant=("${bare[@]}") eigen="$scratch/without_exceptions.hpp" ;;
  esac
  count=$((count + 1))
  case "$header" in
    implicit_attention/io/* | implicit_attention/implicit_attention.hpp | */instantiations.hpp | implicit_attention/config.hpp) ;;
    *) grep -qF "#include <$header>" "$umbrella" || { echo "FAILED: implicit_attention.hpp leaves out $header"; failed=1; } ;;
  esac
  # Costly to parse, or of no business of a header's, or someone else's inside.
  if grep -nE '#include <(iostream|ranges|format|expected|Eigen/Dense)>|Eigen::internal' "$REPOSITORY/include/$header"; then
    echo "FAILED: $header uses what the lines above name"
    failed=1
  fi
  # Twice, for the include guard. A header that does without config.hpp, and so without Eigen, must do without the precompiled one.
  printf '#include <%s>\n#include <%s>\n#if NEEDS_ABI && !defined(IMPLICIT_ATTENTION_ABI)\n#error without Eigen\n#endif\n' \
    "$header" "$header" >"$scratch/alone.cpp"
  alone "${variant[@]}" -DNEEDS_ABI=1 -include "$eigen" && continue
  if ! grep -q 'without Eigen' "$scratch/output" || ! alone "${variant[@]}" -DNEEDS_ABI=0; then
    echo "FAILED: $header does not compile alone ${variant[*]}"
    head -c 3000 "$scratch/output"
    failed=1
  fi
done < <(cd "$REPOSITORY/include" && find implicit_attention -name '*.hpp' | sort)
[ "$count" -gt 0 ] || fail "no headers found below $REPOSITORY/include"
echo "$count headers, each alone"
exit $failed
