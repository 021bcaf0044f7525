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
