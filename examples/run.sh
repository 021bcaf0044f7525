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

text="a gripping and moving film , though the ending is a little dull" out="$root/out" install=yes
here="$OLDPWD"
while [ $# -gt 0 ]; do
  case "$1" in
    --text) text="${2:-}"; shift ;;
    --out) out="${2:-}"; shift; case "$out" in /*) ;; *) out="$here/$out" ;; esac ;;
    --no-install) install=no ;;
    -h | --help) usage; exit 0 ;;
    *) usage >&2; die "There is no option $1." ;;
  esac
  shift
done

if [ "$install" = yes ]; then install_packages build examples; fi
begin=$SECONDS
run_preset examples || die "It could not be built; the reason stands above."
say "Built, $(took $((SECONDS - begin)))"

programs="$root/build/examples/examples"
mkdir -p "$out"
for model in mamba rwkv4 griffin; do
  say "$model reads: $text"
  "$programs/explain" --model "examples/models/$model" --text "$text"
  "$programs/explain" --model "examples/models/$model" --text "$text" --out "$out/$model.png"
done
say "The pictures are in $out:"
ls -1 "$out"/*.png
