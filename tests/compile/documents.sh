# The documents agree with the code: README.md shows the examples as they are, its table of architectures is that of models/families.hpp,
# every section that a header cites is in docs/formulation.md, and no link leads nowhere. Nothing is compiled.
#
#   bash tests/compile/documents.sh            checks
#   bash tests/compile/documents.sh --write    rewrites the table of architectures in README.md, then checks
set -u
REPOSITORY="${REPOSITORY:-$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)}"
cd "$REPOSITORY" || exit 1
readme=README.md families=include/implicit_attention/models/families.hpp
[ -f "$readme" ] || { echo "skipped: there is no README.md"; exit 77; }
failures=0
failed() {
  echo "FAILED: $1"
  failures=$((failures + 1))
}

# --- Programs: the first two blocks of C++ with a main ------------------------------------------------------------------
program() { # the N-th program of the README
  awk -v wanted="$1" '
    /^```cpp[ \t]*$/ { inside = 1; text = ""; next }
    /^```/ && inside { inside = 0; if (text ~ /int main/ && ++count == wanted) printf "%s", text; next }
    inside { text = text $0 "\n" }
  ' "$readme"
}
diff <(program 1) examples/minimal.cpp || failed "the first program of README.md is not examples/minimal.cpp (the lines above)"
diff <(program 2) examples/own_layer.cpp || failed "the second program of README.md is not examples/own_layer.cpp (the lines above)"
lines="$(wc -l <examples/own_layer.cpp)"
[ "$lines" -le 60 ] || failed "examples/own_layer.cpp has $lines lines, expected at most 60"

# --- The table of architectures -----------------------------------------------------------------------------------------
# A family begins with {"name", "title", "header.hpp" (a layer) or {"name", "title", "PublicClass", "header.hpp" (a model).
table() {
  awk -F'"' '
    /^ *\{"/ && $6 ~ /\.hpp$/ { layers = layers "| " $4 " | `" $2 "` | [" $6 "](include/implicit_attention/layers/" $6 ") |\n" }
    /^ *\{"/ && $8 ~ /\.hpp$/ { models = models "| " $4 " | `" $2 "` | `" $6 "` | [" $8 "](include/implicit_attention/models/" $8 ") |\n" }
    END {
      printf "| layer | `--arch` | header |\n|---|---|---|\n%s\n", layers
      printf "| model | `model_type` | public class | loader |\n|---|---|---|---|\n%s", models
    }
  ' "$families"
}
shown() { awk '/^<!-- families -->$/ { inside = 1; next } /^<!-- \/families -->$/ { inside = 0 } inside' "$readme" | grep '^|'; }
if [ "${1:-}" = --write ]; then
  written="$(mktemp)"
  awk -v text="$(table)" '
    /^<!-- families -->$/ { print; print ""; print text; print ""; inside = 1; next }
    /^<!-- \/families -->$/ { inside = 0 }
    !inside
  ' "$readme" >"$written" && cat "$written" >"$readme"
  rm -f "$written"
fi
diff <(shown | sort) <(table | grep '^|' | sort) ||
  failed "README.md's table of architectures is not that of $families (<: only in the README, >: only in the list); --write rewrites it"

# --- Sections that comments cite ----------------------------------------------------------------------------------------
headings() { sed -n 's/^##* //p' docs/formulation.md | tr '[:upper:]' '[:lower:]'; }
while IFS=: read -r file line rest; do
  section="$(sed 's/.*formulation[a-z-]*: *"\{0,1\}\([^").;]*\).*/\1/' <<<"$rest" | tr '[:upper:]' '[:lower:]')"
  headings | awk -v section="$section" 'index($0, section) == 1 { found = 1 } END { exit !found }' || failed "$file:$line cites section \"$section\", which docs/formulation.md does not have"
done < <(grep -rnE '\(formulation[a-z-]*: ' include --include='*.hpp')
if grep -rnE 'formulation-[a-z]+' include --include='*.hpp'; then failed "the lines above cite a document that is not here, expected (formulation: SECTION)"; fi

# --- Links --------------------------------------------------------------------------------------------------------------
for document in *.md docs/*.md examples/models/README.md; do
  while read -r link; do
    case "$link" in http* | '#'* | '') continue ;; esac
    [ -e "$(dirname "$document")/${link%%#*}" ] || failed "$document links to $link, which is not there"
  done < <(grep -oE '\]\([^) ]+\)' "$document" | sed 's/^](//; s/)$//')
done

[ "$failures" -eq 0 ] && echo "programs, table of architectures, citations and links of the documents agree with the code"
exit $((failures > 0))
