# Shared by the scripts here: how builds of other projects are tested. ctest sets CMAKE, CXX, GENERATOR, WORK and the places of Eigen and
# nlohmann-json.
. "$(dirname "${BASH_SOURCE[0]}")/../compile/common.sh"
CMAKE="${CMAKE:-cmake}"
here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
export CXX
[ -z "${GENERATOR:-}" ] || export CMAKE_GENERATOR="$GENERATOR"
# A host's build does not use our settings.
unset CMAKE_BUILD_TYPE CXXFLAGS

configure() { # folder of the build, folder of the sources, further arguments
  "$CMAKE" -B "$1" -S "$2" "${@:3}" >"$scratch/output" 2>&1
}
must() { # the message of the failure, a command
  local words="$1"
  shift
  "$@" >"$scratch/output" 2>&1 || fail "$words"
}
