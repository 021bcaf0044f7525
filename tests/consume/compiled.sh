# A host links the installed library of what takes long to compile, from a program and from a shared library; without it, the component is
# said to be missing. ctest sets BUILD, the folder of a build with IMPLICIT_ATTENTION_COMPILED.
. "$(dirname "$0")/common.sh"
[ -n "${BUILD:-}" ] || skip "BUILD names no build with IMPLICIT_ATTENTION_COMPILED"
must "the library does not install" "$CMAKE" --install "$BUILD" --prefix "$scratch/prefix"
[ -d "$scratch/prefix/share/cmake" ] || fail "the package has no share/cmake"
# Others have their libraries elsewhere: the package looks for them.
if grep -rnE '^ *(INTERFACE|IMPORTED)_.*[";:]/' "$scratch/prefix/share/cmake" >"$scratch/output"; then fail "the package names places of this machine"; fi
configure "$scratch/host" "$here/compiled" "-DCMAKE_PREFIX_PATH=$scratch/prefix" || fail "the host does not configure"
must "the host does not build" "$CMAKE" --build "$scratch/host"
must "the host's program fails" "$scratch/host/host"
# It must be the library that has the kernels, not the host's own objects.
if nm -C "$scratch/host/CMakeFiles/host.dir/main.cpp.o" | grep -E ' [TWVu] .*detail::(ChannelTile|HeadRows)<' >"$scratch/output"; then
  fail "the host compiles kernels of its own"
fi
rm "$(find "$scratch/prefix" -name implicit_attention_compiled-targets.cmake)"
if configure "$scratch/refused" "$here/compiled" "-DCMAKE_PREFIX_PATH=$scratch/prefix"; then fail "configuring succeeds without the component"; fi
tr -s ' \n' ' ' <"$scratch/output" | grep -qF -- "the component compiled was not installed" || fail "configuring fails, but not for the component"
