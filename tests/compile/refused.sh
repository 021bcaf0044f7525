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
# libstdc++ takes a macro of the command line away; one between its headers and ours stays.
printf '#include <algorithm>\n#define max(a, b) ((a) > (b) ? (a) : (b))\n' >"$scratch/late.hpp"
refused "a macro named min or max is defined" -include "$scratch/late.hpp"
refused "add -fno-finite-math-only" -ffast-math
refused "implicit_attention needs C++20" -std=c++17
"$CXX" "${flags[@]}" -std=c++17 -fsyntax-only "$scratch/host.cpp" >"$scratch/output" 2>&1 && fail "compiles as C++17"
[ "$(grep -c 'error:' "$scratch/output")" -le 2 ] || fail "C++17: $(grep -c 'error:' "$scratch/output") errors, expected the one that says it and an end"
refused "EIGEN_DEFAULT_DENSE_INDEX_TYPE must be std::ptrdiff_t" -DEIGEN_DEFAULT_DENSE_INDEX_TYPE=int
"$CXX" "${flags[@]}" -ffast-math -fno-finite-math-only -fsyntax-only "$scratch/host.cpp" >"$scratch/output" 2>&1 ||
  fail "does not compile with -ffast-math -fno-finite-math-only"

# Macros that hosts have: of windows.h, X11, Qt, complex.h and curses, and names of their own, before all of us and Eigen. What they stood for
# they stand for behind us.
cat >"$scratch/macros.cpp" <<'SOURCE'
#include <complex.h>
#include <algorithm>
#include <filesystem>
#include <random>
#include <thread>
#define check(x) ((x) ? 0 : 1)
#define near
#define far
#define small char
#define ERROR 0
#define IN
#define OUT
#define interface struct
#define None 0L
#define Bool int
#define Status int
#define True 1
#define False 0
#define Success 0
#define emit
#define slots
#define signals public
#define foreach for
#define stdscr 0
#define timeout(x) (x)
SOURCE
number=1
for name in A B C D E F G H J K L M N O P Q R S T U V W X Y Z \
  F64 F32 F16 BF16 I64 I32 I16 I8 U64 U32 U16 U8 BOOL i64 i32 i16 i8 u64 u32 u16 u8 f64 f32; do
  echo "#define $name $number" >>"$scratch/macros.cpp"
  names="${names:-true} \&\& $name == $number"
  number=$((number + 1))
done
cat >>"$scratch/macros.cpp" <<'SOURCE'
#undef I
#define I _Complex_I
#include <implicit_attention/implicit_attention.hpp>
#include <implicit_attention/io/io.hpp>
#include <implicit_attention/metrics/metrics.hpp>
#ifdef IMPLICIT_ATTENTION_HOST_MACROS_OFF
#error the macros of the host are not back
#endif
#ifndef I
#error no I
#endif
Status status = 0;
static_assert(check(0) == 1 && Success == 0 && NAMES);
int main() { return 0; }
SOURCE
sed -i "s/NAMES/$names/" "$scratch/macros.cpp"
"$CXX" "${flags[@]}" -fsyntax-only "$scratch/macros.cpp" >"$scratch/output" 2>&1 || fail "does not compile behind the macros of windows.h, X11, Qt, complex.h, curses and a host's own"
echo "compiles behind the macros of windows.h, X11, Qt, complex.h, curses and a host's own"
