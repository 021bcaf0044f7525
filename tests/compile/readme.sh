# The first C++ program of README.md compiles as it stands, without a warning, and runs.
. "$(dirname "$0")/common.sh"
[ -f "$REPOSITORY/README.md" ] || skip "there is no README.md"
awk '
  /^```cpp[ \t]*$/ { inside = 1; text = ""; next }
  /^```/ && inside { inside = 0; if (text ~ /int main/) { printf "%s", text; exit } next }
  inside { text = text $0 "\n" }
' "$REPOSITORY/README.md" >"$scratch/readme.cpp"
[ -s "$scratch/readme.cpp" ] || skip "README.md holds no C++ program (a cpp block with int main)"
# Without optimisation: twelve tokens take no time, compiling with -O1 takes a minute.
"$CXX" "${flags[@]}" "${strict[@]}" -O0 "$scratch/readme.cpp" -o "$scratch/readme" >"$scratch/output" 2>&1 || fail "README.md's program does not compile"
(cd "$REPOSITORY" && "$scratch/readme") >"$scratch/output" 2>&1 || fail "README.md's program does not run"
cat "$scratch/output"
