# A host adds our folder to its own CMake project, at another C++ standard, with its own warnings as errors, and gets only the target.
. "$(dirname "$0")/common.sh"
configure "$scratch/build" "$here/subdirectory" "-DREPOSITORY=$REPOSITORY" || fail "the host does not configure"
must "the host does not build" "$CMAKE" --build "$scratch/build"
must "the host's program fails" "$scratch/build/host"
cat "$scratch/output"
