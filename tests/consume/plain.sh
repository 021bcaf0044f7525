# A host without CMake: the compiler and -I, two translation units.
. "$(dirname "$0")/common.sh"
must "the program does not build" "$CXX" "${flags[@]}" "${strict[@]}" "$here/source/main.cpp" "$here/source/other.cpp" -o "$scratch/host"
must "the program fails" "$scratch/host"
cat "$scratch/output"
