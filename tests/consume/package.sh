# A host finds the installed package: with find_package alone, which finds Eigen; with the io component, nlohmann-json, PCRE2 and utf8proc
# too. What cannot be found is named.
. "$(dirname "$0")/common.sh"
off=(-DIMPLICIT_ATTENTION_BUILD_TESTS=OFF -DIMPLICIT_ATTENTION_BUILD_EXAMPLES=OFF -DIMPLICIT_ATTENTION_BUILD_BENCHMARKS=OFF)
refused() { # what must be said, folder of the sources, further arguments
  if configure "$scratch/refused" "$2" "${@:3}"; then fail "configuring succeeds with ${*:3}, and must not"; fi
  tr -s ' \n' ' ' <"$scratch/output" | grep -qF -- "$1" || fail "configuring with ${*:3} fails, but not with: $1"
  rm "$scratch/refused/CMakeCache.txt"  # what CMake has found out about the compiler stays
  echo "said: $1"
}

configure "$scratch/ours" "$REPOSITORY" "${off[@]}" "-DCMAKE_INSTALL_PREFIX=$scratch/prefix" || fail "the library does not configure"
must "the library does not install" "$CMAKE" --install "$scratch/ours"
diff <(cd "$REPOSITORY/include" && find . -name '*.hpp' | sort) <(cd "$scratch/prefix/include" && find . -type f | sort) \
  >"$scratch/output" || fail "what is installed is not what stands in include/"

configure "$scratch/host" "$here/package" "-DCMAKE_PREFIX_PATH=$scratch/prefix" || fail "the host does not configure"
must "the host does not build" "$CMAKE" --build "$scratch/host"
must "the host's program fails" "$scratch/host/host"
must "the host's second program fails" "$scratch/host/host_io"

refused "there is no component kernels; there are io, compiled and compiled_io" "$here/package" "-DCMAKE_PREFIX_PATH=$scratch/prefix" -DCOMPONENT=kernels
refused "needs nlohmann-json" "$here/package" "-DCMAKE_PREFIX_PATH=$scratch/prefix" -DCMAKE_DISABLE_FIND_PACKAGE_nlohmann_json=ON
refused "needs pcre2-8, which cuts and measures text: install libpcre2-dev" "$here/package" "-DCMAKE_PREFIX_PATH=$scratch/prefix" \
  -DIMPLICIT_ATTENTION_PCRE2_8_LIBRARY=
refused "needs utf8proc, which cuts and measures text: install libutf8proc-dev" "$here/package" "-DCMAKE_PREFIX_PATH=$scratch/prefix" \
  -DIMPLICIT_ATTENTION_UTF8PROC_INCLUDE_DIR=
refused "needs Eigen 3.4 or newer, and there is none that CMake finds" "$here/package" "-DCMAKE_PREFIX_PATH=$scratch/prefix" \
  -DCMAKE_DISABLE_FIND_PACKAGE_Eigen3=ON
refused "needs Eigen 3.4 or newer, and there is none that CMake finds" "$REPOSITORY" "${off[@]}" -DCMAKE_DISABLE_FIND_PACKAGE_Eigen3=ON

mkdir "$scratch/old"
echo 'add_library(Eigen3::Eigen INTERFACE IMPORTED)' >"$scratch/old/Eigen3Config.cmake"
printf 'set(PACKAGE_VERSION 3.3.7)\nset(PACKAGE_VERSION_COMPATIBLE TRUE)\n' >"$scratch/old/Eigen3ConfigVersion.cmake"
refused "needs Eigen 3.4 or newer, found 3.3.7" "$REPOSITORY" "${off[@]}" "-DEigen3_DIR=$scratch/old"
