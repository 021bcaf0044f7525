# Shared by tests/run.sh, examples/run.sh, benchmarks/run.sh and .ci/run: finding and installing what is missing, building by preset.
# Sourced; sets `root` and moves there.
set -euo pipefail
root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
cd "$root"

if [ -t 1 ] && [ -z "${NO_COLOR:-}" ]; then bold=$'\e[1m' plain=$'\e[0m'; else bold='' plain=''; fi
say() { printf '%s==> %s%s\n' "$bold" "$*" "$plain"; }
die() {
  printf '%s\n' "$*" >&2
  exit 1
}
# has_value OPTION VALUE...: whether something stands behind an option that takes a value.
has_value() { if [ $# -lt 2 ]; then die "$1 needs a value; --help says which."; fi; }
# Seconds for people: 42 s, 3 min 05 s.
took() {
  if [ "$1" -lt 60 ]; then printf '%d s' "$1"; else printf '%d min %02d s' $(($1 / 60)) $(($1 % 60)); fi
}

# --- What is needed ----------------------------------------------------------------------------------------------------
have() { command -v "$1" >/dev/null 2>&1; }
have_header() { # one of several spellings, wherever headers usually are
  local spelling place
  for spelling in "$@"; do
    for place in ${CMAKE_PREFIX_PATH:+${CMAKE_PREFIX_PATH//[:;]/ }} /usr /usr/local /opt/homebrew /opt/local; do
      if [ -e "$place/include/$spelling" ]; then return 0; fi
    done
    if [ -e "/usr/include/$(uname -m)-linux-gnu/$spelling" ]; then return 0; fi
  done
  return 1
}
have_font() { # DejaVu Sans, or the one the user names: the same places as examples/support/canvas.cpp
  [ -z "${IMPLICIT_ATTENTION_FONT:-}" ] || return 0
  local folder
  for folder in /usr/share/fonts/truetype/dejavu /usr/share/fonts/dejavu /usr/share/fonts/dejavu-sans-fonts /usr/share/fonts/TTF \
    /usr/local/share/fonts/dejavu /opt/homebrew/share/fonts /usr/local/share/fonts /Library/Fonts; do
    if [ -e "$folder/DejaVuSans.ttf" ]; then return 0; fi
  done
  return 1
}
llvm_14_tool() { # by either name: another clang-format breaks lines elsewhere, another clang-tidy warns of other things
  local name
  for name in "$1-14" "$1"; do
    if have "$name" && "$name" --version | grep -q 'version 14\.'; then
      echo "$name"
      return 0
    fi
  done
  return 1
}
have_cmake() { # 3.23 or newer
  have cmake || return 1
  local version
  version="$(cmake --version | sed -n '1s/[^0-9]*\([0-9]*\)\.\([0-9]*\).*/\1 \2/p')"
  [ "${version% *}" -gt 3 ] || { [ "${version% *}" -eq 3 ] && [ "${version#* }" -ge 23 ]; }
}

llvm_tool() { # as clang++'s version has it, else whichever there is
  local version name
  version="$(clang++ -dumpversion 2>/dev/null | cut -d. -f1)"
  for name in "$1-$version" "$1"; do
    if have "$name"; then
      echo "$name"
      return 0
    fi
  done
  return 1
}
# report_coverage LLVM-COV PROFILE UNDER yes|no PROGRAMS...: lines and branches that ran, and with yes every line that did not.
report_coverage() {
  local cov="$1" profile="$2" under="$3" lines="$4" programs=() each
  shift 4
  for each in "$@"; do
    if [ -f "$each" ] && [ -x "$each" ]; then programs+=(${programs[0]+-object} "$each"); fi
  done
  if [ "$lines" = yes ]; then
    "$cov" show "${programs[@]}" -instr-profile="$profile" -show-instantiations=false "$root/$under" |
      awk '/^\/.*:$/ { file = $0 } /^ *[0-9]+\| +0\|/ { print file $0 }' | sed "s#^$root/##"
  fi
  "$cov" report "${programs[@]}" -instr-profile="$profile" -show-region-summary=false -show-functions=false "$root/$under" | sed "s#$root/##"
}

# missing_packages PARTS...: the Debian names of what is not installed, for any of: build sentencepiece mpi tests examples benchmarks clang
# coverage format tidy.
missing_packages() {
  local part
  for part in "$@"; do
    case "$part" in
      build)
        have "${CXX:-c++}" || have g++ || have clang++ || echo g++
        have_cmake || echo cmake
        have ninja || have make || echo ninja-build
        have_header eigen3/Eigen/Core Eigen/Core || echo libeigen3-dev
        have_header nlohmann/json.hpp || echo nlohmann-json3-dev
        have_header pcre2.h || echo libpcre2-dev
        have_header utf8proc.h || echo libutf8proc-dev
        ;;
      sentencepiece) have_header sentencepiece_processor.h || echo libsentencepiece-dev ;;
      mpi)
        have mpirun || echo openmpi-bin
        have mpicxx || echo libopenmpi-dev
        ;;
      tests) have_header catch2/catch.hpp catch2/catch_all.hpp || echo catch2 ;;
      examples)
        have_header CLI/CLI.hpp || echo libcli11-dev
        have_header png.h || echo libpng-dev
        have_header freetype2/ft2build.h ft2build.h || echo libfreetype-dev
        have_font || echo fonts-dejavu-core
        ;;
      benchmarks) have_header benchmark/benchmark.h || echo libbenchmark-dev ;;
      clang) have clang++ || echo clang ;;
      coverage) llvm_tool llvm-cov >/dev/null && llvm_tool llvm-profdata >/dev/null || echo llvm ;;
      format) llvm_14_tool clang-format >/dev/null || echo clang-format-14 ;;
      tidy) llvm_14_tool clang-tidy >/dev/null || echo clang-tidy-14 ;;
      *) die "setup.sh: there is no part $part" ;;
    esac
  done
}

# install_packages PARTS...: installs what is missing by apt-get; without apt-get prints the names and exits.
install_packages() {
  local missing log as_root=()
  missing="$(missing_packages "$@" | sort -u | tr '\n' ' ')"
  missing="${missing% }"
  if [ -z "$missing" ]; then return 0; fi
  local by_hand="Please install, under the names your system has for them (these are Debian's): $missing"
  have apt-get || die "Missing: $missing. This is not Debian or Ubuntu, so nothing was installed. $by_hand
(If they are here where this script does not look, set CMAKE_PREFIX_PATH, or pass --no-install.)"
  if [ "$(id -u)" -ne 0 ]; then
    have sudo || die "Missing: $missing. Installing needs root or sudo, so nothing was installed. $by_hand"
    if [ -t 0 ]; then as_root=(sudo); else as_root=(sudo -n); fi
  fi
  say "Installing $missing"
  log="$(mktemp)"
  local begin=$SECONDS
  local apt=("${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get -y -o Dpkg::Use-Pty=0)
  # Package lists may be old or partly unreachable and still suffice: only the installation decides.
  "${apt[@]}" update </dev/null >"$log" 2>&1 || true
  # shellcheck disable=SC2086
  if ! "${apt[@]}" install --no-install-recommends $missing </dev/null >>"$log" 2>&1; then
    tail -n 15 "$log" >&2
    rm -f "$log"
    die "apt-get could not install them. $by_hand"
  fi
  rm -f "$log"
  say "Installed, $(took $((SECONDS - begin)))"
  missing="$(missing_packages "$@" | sort -u | tr '\n' ' ')"
  missing="${missing% }"
  case " $missing " in
    *" cmake "*) die "The cmake of this system is too old: 3.23 or newer is needed (Debian 12 and Ubuntu 24.04 have it; pip install cmake does too)." ;;
  esac
}

# What is built without where it cannot be had: nothing fails for it.
install_optional_packages() {
  local part
  for part in sentencepiece mpi; do
    (install_packages "$part") || say "Going on without it: what needs it is left out, and its tests say so"
  done
}

# --- Building ----------------------------------------------------------------------------------------------------------
# As many jobs as cores, as far as memory allows: compiling one file takes up to 1.5 GiB.
job_count() {
  local cores memory
  cores="$(nproc 2>/dev/null || sysctl -n hw.ncpu 2>/dev/null || echo 2)"
  memory="$(awk '/^MemAvailable/ { print int($2 / 1572864) }' /proc/meminfo 2>/dev/null || true)"
  if [ -n "$memory" ] && [ "$memory" -lt "$cores" ]; then cores=$((memory > 1 ? memory : 1)); fi
  echo "$cores"
}

# run_preset NAME: the workflow of that name in CMakePresets.json; step by step where CMake (< 3.25) knows no workflows.
run_preset() {
  local preset="$1" generator
  generator="$(sed -n 's/^CMAKE_GENERATOR:INTERNAL=//p' "build/$preset/CMakeCache.txt" 2>/dev/null || true)"
  if [ -z "$generator" ]; then generator="${CMAKE_GENERATOR:-$(if have ninja; then echo Ninja; else echo 'Unix Makefiles'; fi)}"; fi
  export CMAKE_GENERATOR="$generator"
  export CMAKE_BUILD_PARALLEL_LEVEL="${CMAKE_BUILD_PARALLEL_LEVEL:-$(job_count)}"
  export CTEST_PARALLEL_LEVEL="${CTEST_PARALLEL_LEVEL:-$CMAKE_BUILD_PARALLEL_LEVEL}"
  if have ccache && [ -z "${CMAKE_CXX_COMPILER_LAUNCHER:-}" ]; then
    export CMAKE_CXX_COMPILER_LAUNCHER=ccache CCACHE_SLOPPINESS="${CCACHE_SLOPPINESS:-pch_defines,time_macros}"
  fi
  say "Building in build/$preset ($generator, $CMAKE_BUILD_PARALLEL_LEVEL jobs)"
  if cmake --workflow --help >/dev/null 2>&1 && cmake --workflow --list-presets >/dev/null 2>&1; then
    cmake --workflow --preset "$preset"
    return
  fi
  local arguments
  arguments="$(cmake -D "FILE=$root/CMakePresets.json" -D "PRESET=$preset" -P "$root/tests/preset_arguments.cmake" 2>&1)" || return 1
  local -a list
  mapfile -t list <<<"$arguments"
  cmake -S "$root" -B "build/$preset" "${list[@]}" && cmake --build "build/$preset" || return 1
  case "$arguments" in
    *IMPLICIT_ATTENTION_BUILD_TESTS=ON*)
      (cd "build/$preset" && ctest --output-on-failure --no-tests=error)
      ;;
  esac
}
