# A host without exceptions and without run-time type information: errors go to its handler.
. "$(dirname "$0")/common.sh"
must "the program does not build" "$CXX" "${flags[@]}" "${strict[@]}" -fno-exceptions -fno-rtti "$here/source/main.cpp" \
  "$here/source/other.cpp" -o "$scratch/host"
must "the program fails" "$scratch/host"
cat "$scratch/output"

# A quantised engine, beside it: its example is the program.
must "the example of a quantised engine does not build" "$CXX" "${flags[@]}" "${strict[@]}" -fno-exceptions -fno-rtti \
  "$REPOSITORY/examples/quantised_engine.cpp" -o "$scratch/quantised_engine"
must "the example of a quantised engine fails" "$scratch/quantised_engine"
cat "$scratch/output"

# A host's own layer, in a model and explained. Without optimisation: what it computes takes no time, compiling does.
must "the example of an own layer does not build" "$CXX" "${flags[@]}" "${strict[@]}" -O0 -fno-exceptions -fno-rtti \
  "$REPOSITORY/examples/own_layer.cpp" -o "$scratch/own_layer"
must "the example of an own layer fails" "$scratch/own_layer"
cat "$scratch/output"

# How its handler leaves: one that returns is followed by the message and an abort; one may exit out of a pool's loop.
must "the program of handlers does not build" "$CXX" "${flags[@]}" "${strict[@]}" -fno-exceptions -fno-rtti "$here/source/leaving.cpp" \
  -o "$scratch/leaving" -pthread
leaves() { # status, words of the output, arguments
  timeout 60 "$scratch/leaving" "${@:3}" >"$scratch/output" 2>&1
  local status=$?
  [ "$status" = "$1" ] || fail "${*:3}: status $status, expected $1"
  grep -q -e "$2" "$scratch/output" || fail "${*:3}: nothing of: $2"
}
leaves 134 "^the message$" returns 1
leaves 134 "^the message$" returns 3
leaves 3 "told: the message" exits 1
leaves 3 "told: the message" exits 3
leaves 134 "^the message$" none 3
echo "handlers leave as they say"
