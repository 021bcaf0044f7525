# Every header compiles as the only one, without a warning; all but io/ also without exceptions and without run-time type information.
. "$(dirname "$0")/common.sh"
bare=(-fno-exceptions -fno-rtti)
precompile with_exceptions "$eigen"
precompile without_exceptions "$eigen" "${bare[@]}"
# What the umbrella reaches, a header a line.
reached="$("$CXX" "${flags[@]}" -MM "$REPOSITORY/include/implicit_attention/implicit_attention.hpp" 2>/dev/null | tr -d '\\' | tr -s ' ' '\n')"

compiles() { # name of the work files, further arguments
  "$CXX" "${flags[@]}" "${strict[@]}" "${@:2}" -fsyntax-only "$scratch/$1.cpp" >"$scratch/$1.output" 2>&1
}
check() { # a header as it is included; says what is wrong with it, and nothing else
  local header="$1" name="${1//\//-}" variant=("${bare[@]}") precompiled=without_exceptions
  case "$header" in
    implicit_attention/io/*) variant=() precompiled=with_exceptions ;;
    implicit_attention/implicit_attention.hpp | implicit_attention/instantiations* | implicit_attention/config.hpp) ;;
    *) grep -q "/$header\$" <<<"$reached" || echo "FAILED: implicit_attention.hpp leaves out $header" ;;
  esac
  # Expensive to parse, not for headers, or internal to Eigen.
  if grep -nE '#include <(iostream|ranges|format|expected|Eigen/Dense)>|Eigen::internal' "$REPOSITORY/include/$header"; then
    echo "FAILED: $header uses what the lines above show"
  fi
  # Twice, for the include guard. A header without config.hpp, and so without Eigen, is compiled without the precompiled header.
  printf '#include <%s>\n#include <%s>\n#if NEEDS_ABI && !defined(IMPLICIT_ATTENTION_ABI)\n#error without Eigen\n#endif\n' \
    "$header" "$header" >"$scratch/$name.cpp"
  compiles "$name" "${variant[@]}" -DNEEDS_ABI=1 -include "$scratch/$precompiled.hpp" && return
  if ! grep -q 'without Eigen' "$scratch/$name.output" || ! compiles "$name" "${variant[@]}" -DNEEDS_ABI=0; then
    echo "FAILED: $header does not compile alone ${variant[*]}"
    head -c 3000 "$scratch/$name.output"
  fi
}

# One worker per core; worker k takes headers k, k + workers, ...
mapfile -t headers < <(cd "$REPOSITORY/include" && find implicit_attention -name '*.hpp' | sort)
[ "${#headers[@]}" -gt 0 ] || fail "no headers found below $REPOSITORY/include"
workers="$(nproc 2>/dev/null || sysctl -n hw.ncpu 2>/dev/null || echo 2)"
for ((worker = 0; worker < workers; ++worker)); do
  for ((next = worker; next < ${#headers[@]}; next += workers)); do check "${headers[next]}"; done >"$scratch/said-$worker" &
done
wait
cat "$scratch"/said-*
checked="$(find "$scratch" -name '*.output' | wc -l)"
[ "$checked" -eq "${#headers[@]}" ] || fail "$checked headers of ${#headers[@]} were compiled"
echo "${#headers[@]} headers, each alone"
! grep -q FAILED "$scratch"/said-*
