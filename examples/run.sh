#!/usr/bin/env bash
# Installs what is missing, builds the example programs, explains a sentence with all three models, writes the pictures.
source "$(dirname "${BASH_SOURCE[0]}")/../tests/setup.sh"

usage() {
  cat <<'USAGE'
Usage: bash examples/run.sh [--text "a sentence"] [--out FOLDER] [--no-install]

Installs what is missing (Debian and Ubuntu; elsewhere it names the packages), builds the example programs, and explains a
sentence with the three small sentiment models in examples/models: in the terminal, and as pictures in FOLDER (out/).
USAGE
}

text="a gripping and moving film , but the ending is dull" out="$root/out" install=yes
here="$OLDPWD"
while [ $# -gt 0 ]; do
  case "$1" in
    --text) has_value "$@"; text="$2"; shift ;;
    --out) has_value "$@"; out="$2"; shift; case "$out" in /*) ;; *) out="$here/$out" ;; esac ;;
    --no-install) install=no ;;
    -h | --help) usage; exit 0 ;;
    *) usage >&2; die "There is no option $1." ;;
  esac
  shift
done

if [ "$install" = yes ]; then
  install_packages build examples
  install_optional_packages
fi
begin=$SECONDS
run_preset examples || die "Building failed; the reason is above."
say "Built, $(took $((SECONDS - begin)))"

shown=build/examples/examples
programs="$root/$shown"
mkdir -p "$out"
models=()
for model in mamba rwkv4 griffin; do models+=(--model "examples/models/$model"); done

# The label is what these models expect after <cls>. Red words speak for "positive", blue ones for "negative".
say "Three models read: $text"
"$programs/explain" "${models[@]}" --text "$text" --append "<cls>" --method contribution-norms,relevance --target positive --contrast negative

"$programs/explain" "${models[@]}" --text "$text" --append "<cls>" --method relevance --target positive --contrast negative \
  --title "Three models read a review" --out "$out/three_models.png" >/dev/null
"$programs/explain" "${models[@]}" --text "$text" --append "<cls>" --picture maps \
  --title "Their implicit attention, by what it carries" --out "$out/three_maps.png" >/dev/null
for model in mamba rwkv4 griffin; do
  "$programs/explain" --model "examples/models/$model" --text "$text" --append "<cls>" --target positive --contrast negative \
    --method raw,contribution-norms,relevance,leave-one-out --out "$out/${model}_methods.png" >/dev/null
  "$programs/materialize" --model "examples/models/$model" --layer 1 --text "$text" --append "<cls>" --channels 0-5 \
    --out "$out/${model}_channels.png"
done

printf '\n'
say "The pictures are in $out:"
cat <<PICTURES
  three_models.png      which words made each model say what it said
  three_maps.png        which word adds to which: the lengths of the vectors that their implicit attention carries, mean over layers
  MODEL_methods.png     four methods' answers to the same question (MODEL: mamba, rwkv4, griffin)
  MODEL_channels.png    the implicit attention of six channels of layer 1, one matrix each
PICTURES
printf '\n'
say "The programs are in $programs; your own sentence, or your own model:"
cat <<NEXT
  $shown/explain --model examples/models/mamba --text "never dull <cls>" --method relevance
  $shown/explain --help
NEXT
