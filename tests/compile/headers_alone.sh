# Every header compiles as the only one, without a warning; all but io/ also without exceptions and without run-time type information.
. "$(dirname "$0")/common.sh"
failed=0
count=0
while IFS= read -r header; do
  printf '#include <%s>\n#include <%s>\nint main() { return 0; }\n' "$header" "$header" >"$scratch/alone.cpp"
  case "$header" in
    implicit_attention/io/*) variant=() ;;
    *) variant=(-fno-exceptions -fno-rtti) ;;
  esac
  count=$((count + 1))
  if ! "$CXX" "${flags[@]}" "${strict[@]}" "${variant[@]}" -fsyntax-only "$scratch/alone.cpp" >"$scratch/output" 2>&1; then
    echo "FAILED: $header does not compile alone ${variant[*]}"
    head -c 3000 "$scratch/output"
    failed=1
  fi
done < <(cd "$REPOSITORY/include" && find implicit_attention -name '*.hpp' | sort)
[ "$count" -gt 0 ] || fail "no headers found below $REPOSITORY/include"
echo "$count headers, each alone"
exit $failed
