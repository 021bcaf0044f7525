# A host without CMake: the compiler and -I, two translation units.
. "$(dirname "$0")/common.sh"
must "the program does not build" "$CXX" "${flags[@]}" "${strict[@]}" "$here/source/main.cpp" "$here/source/other.cpp" -o "$scratch/host"
must "the program fails" "$scratch/host"
cat "$scratch/output"

# Optimised for a processor with wide vectors, where it need not run: compilers then see more, and some warn of their own intrinsics.
cat >"$scratch/wide.cpp" <<'SOURCE'
#include <implicit_attention/kernels/transpose.hpp>
#include <implicit_attention/trace/functions.hpp>
using namespace implicit_attention;
void turn(const float* from, float* to) {
  detail::transpose<16>(from, 64, 64, [&](int k) { return to + k * 64; });
}
void apply(float* numbers) { detail::take_values<float>(Function::exp, detail::Numbers<float>(numbers, 64)); }
SOURCE
if "$CXX" -march=x86-64-v4 -fsyntax-only -x c++ /dev/null 2>/dev/null; then
  must "wide vectors: there are warnings" "$CXX" "${flags[@]}" "${strict[@]}" -O3 -march=x86-64-v4 -c "$scratch/wide.cpp" -o "$scratch/wide.o"
  echo "no warnings with -O3 -march=x86-64-v4"
fi
