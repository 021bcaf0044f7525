# The first two C++ programs of README.md compile as they stand, without a warning, and run.
. "$(dirname "$0")/common.sh"
[ -f "$REPOSITORY/README.md" ] || skip "there is no README.md"
awk -v to="$scratch/readme-" '
  /^```cpp[ \t]*$/ { inside = 1; text = ""; next }
  /^```/ && inside { inside = 0; if (text ~ /int main/ && ++count <= 2) printf "%s", text >(to count ".cpp"); next }
  inside { text = text $0 "\n" }
' "$REPOSITORY/README.md"
[ -s "$scratch/readme-2.cpp" ] || fail "README.md holds less than two C++ programs (cpp blocks with int main)"
for number in 1 2; do
  program="$scratch/readme-$number"
  # Without optimisation: what they compute takes no time, compiling with -O1 takes a minute.
  "$CXX" "${flags[@]}" "${strict[@]}" -O0 "$program.cpp" -o "$program" >"$scratch/output" 2>&1 || fail "README.md's program $number does not compile"
  (cd "$REPOSITORY" && "$program") >"$scratch/output" 2>&1 || fail "README.md's program $number does not run"
  cat "$scratch/output"
done
