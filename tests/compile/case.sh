# case.sh FILE: FILE must compile as it stands, without a warning; and for each of its lines
#   // refused N: TEXT
# it must not compile with -DREFUSED=N, and the compiler must say TEXT.
. "$(dirname "$0")/common.sh"
file="$1"
precompile includes "$(grep '^#include' "$file")"
flags+=("${strict[@]}" -include "$scratch/includes.hpp")

"$CXX" "${flags[@]}" -DREFUSED=0 -fsyntax-only "$file" >"$scratch/output" 2>&1 || fail "$file does not compile as it stands"

grep -E '^// refused [0-9]+: ' "$file" >"$scratch/refusals"
while IFS= read -r line; do
  number="${line#// refused }"
  number="${number%%:*}"
  text="${line#*: }"
  if "$CXX" "${flags[@]}" -DREFUSED="$number" -fsyntax-only "$file" >"$scratch/output" 2>&1; then
    fail "$file compiles with REFUSED=$number, and must not"
  fi
  grep -qF -- "$text" "$scratch/output" || fail "$file is refused with REFUSED=$number, but not with: $text"
  echo "refused as it should be, $number: $text"
done <"$scratch/refusals"
exit 0
