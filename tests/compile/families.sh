# The two lists of models/families.hpp hold every architecture that there is: a header that is in neither would never be read.
. "$(dirname "$0")/common.sh"
cd "$REPOSITORY/include/implicit_attention" || exit 1

# Layers that no family reads alone, parts of hybrid models; and what several layers share.
inside_models=" softmax_attention.hpp latent_attention.hpp mamba3_weights.hpp recurrent_cell.hpp short_projection.hpp delta_rule_weights.hpp "
wrong=0 layers=0 models=0
for header in layers/*.hpp; do
  name="$(basename "$header")"
  grep -q 'from_tensors(const PrefixedTensors' "$header" || continue
  layers=$((layers + 1))
  case "$inside_models" in *" $name "*) continue ;; esac
  grep -q "\"$name\"" models/families.hpp || { echo "layers/$name is in no line of layer_families()"; wrong=1; }
done
for header in models/*_lm.hpp; do
  name="$(basename "$header")"
  [ "$name" != rwkv_lm.hpp ] || continue  # what the RWKV families share
  models=$((models + 1))
  grep -q "\"$name\"" models/families.hpp || { echo "models/$name is in no line of model_families()"; wrong=1; }
done
# And every header that a line names is there.
for name in $(sed -n 's/^ *{"[a-z0-9_]*", "[^"]*", \("[A-Za-z0-9_]*", \)\{0,1\}"\([a-z0-9_]*\.hpp\)".*/\2/p' models/families.hpp); do
  [ -e "layers/$name" ] || [ -e "models/$name" ] || { echo "models/families.hpp names $name, which is not there"; wrong=1; }
done
for header in layers/*.hpp; do
  lines="$(wc -l <"$header")"
  [ "$lines" -le 300 ] || { echo "$header has $lines lines, expected at most 300"; wrong=1; }
done
[ "$layers" -gt 15 ] && [ "$models" -gt 10 ] || fail "only $layers layers and $models models were looked at"
[ "$wrong" -eq 0 ] || fail "the lists and the headers differ"
echo "$layers layers and $models models are in the lists"
