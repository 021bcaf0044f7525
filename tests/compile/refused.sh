# What a host's build cannot have is refused by one line that says what to do, and not by a page about our code.
. "$(dirname "$0")/common.sh"

cat >"$scratch/host.cpp" <<'SOURCE'
#include <implicit_attention/core/types.hpp>
int main() { return implicit_attention::Matrix<float>::Zero(1, 1)(0, 0) == 0.0F ? 0 : 1; }
SOURCE

refused() { # words that must be there, flags...
  local words="$1"
  shift
  # The first error must say it; what the compiler would find behind it takes it most of the time.
  if "$CXX" "${flags[@]}" "$@" -Wfatal-errors -fsyntax-only "$scratch/host.cpp" >"$scratch/output" 2>&1; then fail "compiles with: $*"; fi
  grep -qF -e "$words" "$scratch/output" || fail "with $* it is not said: $words"
  echo "refused, as it should be: $*"
}

"$CXX" "${flags[@]}" -fsyntax-only "$scratch/host.cpp" >"$scratch/output" 2>&1 || fail "does not compile"
for macro in '-Dcheck(x)=x' -Dnear= -Dfar= -DD=1; do
  refused "a macro named check, near, far or D is defined" "$macro"
done
refused "add -fno-finite-math-only" -ffast-math
refused "implicit_attention needs C++20" -std=c++17
"$CXX" "${flags[@]}" -std=c++17 -fsyntax-only "$scratch/host.cpp" >"$scratch/output" 2>&1 && fail "compiles as C++17"
[ "$(grep -c 'error:' "$scratch/output")" -le 2 ] || fail "C++17: $(grep -c 'error:' "$scratch/output") errors, expected the one that says it and an end"
refused "EIGEN_DEFAULT_DENSE_INDEX_TYPE must be std::ptrdiff_t" -DEIGEN_DEFAULT_DENSE_INDEX_TYPE=int
"$CXX" "${flags[@]}" -ffast-math -fno-finite-math-only -fsyntax-only "$scratch/host.cpp" >"$scratch/output" 2>&1 ||
  fail "does not compile with -ffast-math -fno-finite-math-only"
