# A program that only runs a layer compiles no gradient and no transposed map: ways back are compiled where a record is walked, A^T g where
# it is asked for.
. "$(dirname "$0")/common.sh"
command -v nm >/dev/null || { echo "there is no nm"; exit 77; }

cat >"$scratch/layer.cpp" <<'SOURCE'
#include <implicit_attention/layers/mamba.hpp>
using namespace implicit_attention;
float entry(const Mamba<float>& layer, const Matrix<float>& u) { return layer.materialize_attention(u).attention(0, 1, 0); }
SOURCE
cat >"$scratch/gradient.cpp" <<'SOURCE'
#include <implicit_attention/layers/layer_gradient.hpp>
#include <implicit_attention/layers/mamba.hpp>
using namespace implicit_attention;
float slope(const Mamba<float>& layer, const Matrix<float>& u) { return backward(layer, u, Matrix<float>(u)).grad_u(0, 0); }
SOURCE
gradients() { # sets `found`: functions of gradients and transposed maps in an object
  "$CXX" "${flags[@]}" -c "$scratch/$1.cpp" -o "$scratch/$1.o" >"$scratch/output" 2>&1 || fail "$1 does not compile"
  nm -C --defined-only "$scratch/$1.o" | grep -oE 'scan_transposed|scan_gradient|ScanGradient|convolve_transposed|Norm<[a-z]+>::backward' | sort -u >"$scratch/output"
  found="$(wc -l <"$scratch/output")"
}
gradients gradient
[ "$found" -eq 5 ] || fail "a program that asks for a gradient lacks some of it, or these functions have other names now"
gradients layer
[ "$found" -eq 0 ] || fail "a program that only runs a layer compiles gradients or a transposed map"
echo "a layer that only runs compiles no gradient and no transposed map"
