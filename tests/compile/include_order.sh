# The structure of the house, read from its lines. No include points back up: models, layers, trace, operator, kernels, core. Streaming stands
# beside trace and layers, attribution and metrics stand beside models, and know none of them; the umbrella and the instantiations stand
# above all. Layers and models know no kernel and hold no derivative; one header includes Eigen; other libraries and threads have their rooms.
. "$(dirname "$0")/common.sh"
cd "$REPOSITORY/include/implicit_attention" || exit 1

# room: the rooms that it may include
allowed() {
  case "$1" in
    core) echo core ;;
    kernels) echo core kernels ;;
    operator) echo core kernels operator ;;
    streaming) echo core kernels operator streaming ;;
    trace) echo core kernels operator trace ;;
    layers) echo core operator trace layers ;;
    attribution) echo core operator attribution ;;
    metrics) echo core metrics ;;
    models) echo core operator trace layers attribution models ;;
    io) echo core io ;;
  esac
}

wrong=0 seen=0
for room in core kernels operator streaming trace layers attribution metrics models io; do
  mapfile -t of_room < <(find "$room" -name '*.hpp' | sort)
  seen=$((seen + ${#of_room[@]}))
  # One process for all headers of a room: a process for each took ten times as long as what it read.
  awk -v rooms=" $(allowed "$room") instantiations " '
    match($0, /^#include <implicit_attention\/[a-z_]*\//) {
      included = substr($0, RSTART + 29, RLENGTH - 30)
      if (index(rooms, " " included " ") == 0) { print FILENAME " includes " included "/, which stands above or beside it"; wrong = 1 }
    }
    END { exit wrong }' "${of_room[@]}" </dev/null || wrong=1
done
# law WHAT PATTERN FILE...: prints what matches, and what the law is
law() {
  local what="$1" pattern="$2"
  shift 2
  if grep -nE "$pattern" "$@"; then echo "the lines above: $what"; wrong=1; fi
}
mapfile -t headers < <(find . -name '*.hpp' | sort)
others() { printf '%s\n' "${headers[@]}" | grep -vE "$1"; }
# What a layer or a model gives back is written in trace/ alone: an operation records its two ways back, a layer none.
law "only trace/ records ways back, layers and models are written from its operations" '[.>]record(_all)?\(|Back<|cannot_treat' layers/*.hpp models/*.hpp
law "layers and models assemble recurrences, and call no kernel" \
  '\b(scan|scan_transposed|scan_gradient|head_scan[a-z_]*|matrix_apply[a-z_]*|matrix_rows|attention_rows|reduced_rows|softmax_(carry|gradient)|plain_[a-z_]+)(<[A-Za-z]+>)?\(' \
  layers/*.hpp models/*.hpp
law "config.hpp is the one header that includes Eigen" '#include [<"]Eigen' $(others '^./config\.hpp$')
law "other libraries are used in io/ alone" '#include <(nlohmann|pcre2|utf8proc|sentencepiece|zlib)' $(others '^./io/')
law "threads are started by the executors in core/ alone" '#include <(thread|future|condition_variable|omp\.h)>' $(others '^./core/(thread|openmp)_executor\.hpp$')
law "locks are held by them and by what a tokenizer's calls hand to each other" '#include <mutex>' $(others '^./(core/(thread|openmp)_executor|io/tokenizers/spares)\.hpp$')
law "attribution, metrics and streaming call no layer by its name" 'LayerDescriptor|TracedLayer' attribution/*.hpp metrics/*.hpp streaming/*.hpp
awk 'FNR > 400 && FILENAME != long { long = FILENAME; print long " has more than 400 lines, expected at most 400: there is a second room in it" }
  END { exit long != "" }' "${headers[@]}" || wrong=1
# A host may have a macro of any name in there: each namespace is opened behind host_macros_off.hpp and closed before host_macros_on.hpp, and
# nothing is included between the two but what is not ours.
grep -L '^#pragma once' "${headers[@]}" | grep -v '^./core/host_macros_o' && { echo "the headers above have no include guard"; wrong=1; }
mapfile -t opened < <(grep -l '^IMPLICIT_ATTENTION_NAMESPACE' "${headers[@]}")
awk '
  function finish() { if (off || before ~ /^IMPLICIT_ATTENTION_NAMESPACE_END$/) { print header ": the host\047s macros are not back at its end"; wrong = 1 } }
  FNR == 1 { finish(); header = FILENAME; off = 0; before = "" }
  /^IMPLICIT_ATTENTION_NAMESPACE_BEGIN$/ && before !~ /host_macros_off\.hpp>$/ { print header ": no host_macros_off.hpp before line " FNR; wrong = 1 }
  before ~ /^IMPLICIT_ATTENTION_NAMESPACE_END$/ && !/host_macros_on\.hpp>$/ { print header ": no host_macros_on.hpp in line " FNR; wrong = 1 }
  /host_macros_on\.hpp>$/ { off = 0 }
  off && /^#include <implicit_attention/ { print header ": includes between host_macros_off.hpp and host_macros_on.hpp, line " FNR; wrong = 1 }
  /host_macros_off\.hpp>$/ { off = 1 }
  { before = $0 }
  END { finish(); exit wrong }' "${opened[@]}" || wrong=1
[ "$seen" -gt 50 ] || fail "only $seen headers were looked at"
[ "$wrong" -eq 0 ] || fail "the structure is broken"
echo "$seen headers include only what stands below them, and keep the laws of their rooms"
