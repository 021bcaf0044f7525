# Translation units that disagree on the macros of config.hpp, on Eigen's alignment or on vector instructions do not link: the name of the ABI
# namespace, which is part of every symbol, tells them apart. That it does is tried by linking; the names are read from the preprocessor,
# which takes a tenth of a compilation.
. "$(dirname "$0")/common.sh"
here="$(dirname "$0")/abi"

compile() { # object source flags...
  local object="$1" source="$2"
  shift 2
  "$CXX" "${flags[@]}" "$@" -c "$source" -o "$scratch/$object" >"$scratch/output" 2>&1 || fail "$source does not compile with: $*"
}
link() { "$CXX" "$scratch/caller.o" "$scratch/callee.o" -o "$scratch/program" >"$scratch/output" 2>&1; }
printf '#include <implicit_attention/config.hpp>\nname_of_the_abi=IMPLICIT_ATTENTION_ABI\n' >"$scratch/name.cpp"
name_with() { # flags...: sets `name`
  name="$("$CXX" "${flags[@]}" "$@" -E -P "$scratch/name.cpp" 2>"$scratch/output" | sed -n 's/^name_of_the_abi=//p')"
  [ -n "$name" ] || fail "no name with: $*"
}

compile caller.o "$here/caller.cpp"
compile callee.o "$here/callee.cpp"
link || fail "two units with the same macros do not link"
"$scratch/program" || fail "two units with the same macros do not run"
name_with
usual="$name"
nm "$scratch/callee.o" >"$scratch/output"
grep -qF -- "$usual" "$scratch/output" || fail "the name of the ABI namespace, $usual, is in no symbol"

compile callee.o "$here/callee.cpp" -DIMPLICIT_ATTENTION_BLOCK_TOKENS=16
if link; then fail "a unit with another block links"; fi
grep -q sum_of "$scratch/output" || fail "a unit with another block is refused, but not over the name of the function"

for difference in -DIMPLICIT_ATTENTION_EXCEPTIONS=0 -fno-exceptions -DIMPLICIT_ATTENTION_BLOCK_TOKENS=16 -DIMPLICIT_ATTENTION_TILE_CHANNELS=16 \
  -DEIGEN_MAX_STATIC_ALIGN_BYTES=0 -D_GLIBCXX_DEBUG -DIMPLICIT_ATTENTION_ABI_TAG=_mine -DEIGEN_DONT_VECTORIZE -DEIGEN_MAX_ALIGN_BYTES=64 \
  -D_GLIBCXX_USE_CXX11_ABI=0 -DEIGEN_MALLOC_ALREADY_ALIGNED=0; do
  name_with "$difference"
  [ "$name" != "$usual" ] || fail "a unit with $difference has the name of one without, $name"
  echo "does not link, as it should be: one unit with $difference"
done

# Vector instructions, where the compiler is for a machine that has them.
if echo '' | "$CXX" -mavx -mfma -x c++ -fsyntax-only - >/dev/null 2>&1; then
  for pair in "-mavx|-mavx -mfma" "-mavx|-mavx2" "-mavx2|-mavx2 -mfma" "-mavx2 -mfma|-mavx512f -mavx2 -mfma" \
    "-mavx512f -mfma|-mavx512f -mavx512dq -mfma" "-msse3|-msse4.1" "-mno-sse3|-msse4.2"; do
    # shellcheck disable=SC2086
    name_with ${pair%|*}
    first="$name"
    # shellcheck disable=SC2086
    name_with ${pair#*|}
    [ "$name" != "$first" ] || fail "a unit with ${pair%|*} has the name of one with ${pair#*|}, $name"
    echo "does not link, as it should be: ${pair%|*} and ${pair#*|}"
  done
fi

# A file that is read whole is a class of another layout.
printf '#include <implicit_attention/io/mapped_file.hpp>\nstd::size_t size_of(const implicit_attention::MappedFile& file) { return file.size(); }\n' >"$scratch/file.cpp"
compile mapped.o "$scratch/file.cpp"
compile read.o "$scratch/file.cpp" -DIMPLICIT_ATTENTION_IO_MMAP=0
[ "$(nm "$scratch/mapped.o" | grep -o '_Z.*size_of.*')" != "$(nm "$scratch/read.o" | grep -o '_Z.*size_of.*')" ] ||
  fail "a unit with IMPLICIT_ATTENTION_IO_MMAP=0 has the MappedFile of one without"

# Settings that change neither code nor layout are not part of the name.
name_with -DIMPLICIT_ATTENTION_DEFAULT_BYTE_LIMIT=1000
[ "$name" = "$usual" ] || fail "a unit with another byte limit does not link: $name, expected $usual"
