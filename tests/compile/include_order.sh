# No include points back up the house: models, layers, trace, operator, kernels, core. Streaming stands beside trace and layers, attribution
# and metrics stand beside models, and know none of them; the umbrella and the instantiations stand above all.
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
    layers) echo core kernels operator trace layers ;;
    attribution) echo core kernels operator trace layers attribution ;;
    metrics) echo core metrics ;;
    models) echo core kernels operator trace layers attribution models ;;
    io) echo core io ;;
  esac
}

wrong=0 seen=0
for room in core kernels operator streaming trace layers attribution metrics models io; do
  rooms="$(allowed "$room")"
  for header in $(find "$room" -name '*.hpp' | sort); do
    seen=$((seen + 1))
    for included in $(sed -n 's|^#include <implicit_attention/\([a-z_]*\)/.*|\1|p' "$header"); do
      case " $rooms instantiations " in
        *" $included "*) ;;
        *) echo "$header includes $included/, which stands above or beside it"; wrong=1 ;;
      esac
    done
  done
done
[ "$seen" -gt 50 ] || fail "only $seen headers were looked at"
[ "$wrong" -eq 0 ] || fail "includes point back up"
echo "$seen headers include only what stands below them"
