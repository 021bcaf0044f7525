# Every header compiles as the only one, without a warning; all but io/ also without exceptions and without run-time type information.
. "$(dirname "$0")/common.sh"
bare=(-fno-exceptions -fno-rtti)
precompile with_exceptions "$eigen"
precompile without_exceptions "$eigen" "${bare[@]}"
# A header that includes one of these, however far down, gets all of it before its own first line: precompiling it hides nothing either.
# Each of them is compiled alone as well.
precompile io-json '#include <implicit_attention/io/json.hpp>'
shared=(models/hybrid_parts models/language_model layers/layer_descriptor operator/unified_form)
for header in "${shared[@]}"; do precompile "${header//\//-}" "#include <implicit_attention/$header.hpp>" "${bare[@]}"; done
# A header and what is precompiled for it, a line each: the first of these that it includes.
precompiled_for="$(cd "$REPOSITORY/include" && grep -ro --include='*.hpp' '^#include <implicit_attention/[^>]*>' implicit_attention |
  awk -F ':#include <|>' -v shared="io/json ${shared[*]}" '
    function visit(header, from, names, count, i) { # marks what `from` reaches through `header`
      count = split(included[header], names, " ")
      for (i = 1; i <= count; ++i) if (!((from, names[i]) in reached)) { reached[from, names[i]]; visit(names[i], from) }
    }
    { included[$1] = included[$1] " " $2 }
    END {
      count = split(shared, candidates, " ")
      for (header in included) {
        visit(header, header)
        for (k = 1; k <= count && !((header, "implicit_attention/" candidates[k] ".hpp") in reached); ++k) {}
        if (k <= count) { sub("/", "-", candidates[k]); print header, candidates[k]; sub("-", "/", candidates[k]) }
      }
    }')"
# What the umbrella reaches, a header a line.
reached="$("$CXX" "${flags[@]}" -MM "$REPOSITORY/include/implicit_attention/implicit_attention.hpp" 2>/dev/null | tr -d '\\' | tr -s ' ' '\n')"

compiles() { # name of the work files, further arguments
  "$CXX" "${flags[@]}" "${strict[@]}" "${@:2}" -fsyntax-only "$scratch/$1.cpp" >"$scratch/$1.output" 2>&1
}
check() { # a header as it is included; says what is wrong with it, and nothing else
  local header="$1" name="${1//\//-}" variant=("${bare[@]}") precompiled
  precompiled="$(awk -v header="$header" '$1 == header { print $2 }' <<<"$precompiled_for")"
  case "$header" in
    implicit_attention/io/*) variant=() && [ "$precompiled" = io-json ] || precompiled=with_exceptions ;;
    implicit_attention/implicit_attention.hpp | implicit_attention/instantiations* | implicit_attention/config.hpp) ;;
    *)  # A header that only keeps the name of another one for a release is left out.
      grep -q "/$header\$" <<<"$reached" || grep -q '^// The name that .* had in .*; for one release\.$' "$REPOSITORY/include/$header" ||
        echo "FAILED: implicit_attention.hpp leaves out $header"
      ;;
  esac
  # Expensive to parse, not for headers, or internal to Eigen.
  inside='|Eigen::internal'
  if [ "$header" = implicit_attention/core/lane_register.hpp ]; then inside=''; fi  # functions of one register have no public name
  if grep -nE "#include <(iostream|ranges|format|expected|Eigen/Dense)>$inside" "$REPOSITORY/include/$header"; then
    echo "FAILED: $header uses what the lines above show"
  fi
  # Twice, for the include guard. A header without config.hpp, and so without Eigen, is compiled without the precompiled header.
  printf '#include <%s>\n#include <%s>\n#if NEEDS_ABI && !defined(IMPLICIT_ATTENTION_ABI)\n#error without Eigen\n#endif\n' \
    "$header" "$header" >"$scratch/$name.cpp"
  compiles "$name" "${variant[@]}" -DNEEDS_ABI=1 -include "$scratch/${precompiled:-without_exceptions}.hpp" && return
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
