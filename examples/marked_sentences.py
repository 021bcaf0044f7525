#!/usr/bin/env python3
"""Sentences in which people marked the words that give the label, in the form that `evaluate` reads.

    python3 examples/marked_sentences.py movie_reviews.zip movies_human_rationale_spans.jsonl > marked.tsv
    evaluate --model examples/models/mamba --data marked.tsv

movie_reviews.zip is NLTK's corpus of movie reviews (Pang & Lee 2004); the spans are the human rationales of ERASER's movie reviews
(Zaidan & Eisner 2008; DeYoung et al. 2020), a JSON object a line: nltk_file, label, rationale_token_spans ([begin, end) over the
review's words between white space). Reviews are cut into sentences; those of 5 to 40 words are kept in which some words are marked, and no
more than half: where nearly all are, marks say nothing. A sentence's label is its review's. Words are written as in SST-2 (it 's, do n't).
On stderr: what a guess gets that knows no model, the average precision of the words by their place, last first.
"""
import json
import sys
import zipfile


def pieces(word):
    """One word of the corpus as the words of SST-2."""
    if word.endswith("n't") and len(word) > 3:
        return [word[:-3], "n't"]
    for ending in ("'s", "'re", "'ve", "'ll", "'d", "'m"):
        if word.endswith(ending) and len(word) > len(ending):
            return [word[: -len(ending)], ending]
    return [word]


def last_first(length, marks):
    """The average precision of a sentence's words by their place, last first."""
    places = sorted(length - mark for mark in marks)  # 1 is the last
    return sum((found + 1) / place for found, place in enumerate(places)) / len(marks)


def main():
    if len(sys.argv) != 3:
        sys.exit(__doc__.strip())
    guesses = []
    with zipfile.ZipFile(sys.argv[1]) as corpus, open(sys.argv[2], encoding="utf-8") as spans:
        for line in spans:
            review = json.loads(line)
            words = corpus.read(review["nltk_file"]).decode("latin-1").split()
            marked = [False] * len(words)
            for begin, end in review["rationale_token_spans"]:
                marked[begin:end] = [True] * (end - begin)
            sentence = []
            for word, mark in zip(words, marked):
                sentence += [(piece, mark) for piece in pieces(word)]
                if word not in (".", "!", "?"):
                    continue
                marks = [place for place, (_, is_marked) in enumerate(sentence) if is_marked]
                if 5 <= len(sentence) <= 40 and 0 < 2 * len(marks) <= len(sentence):
                    print(review["label"], " ".join(piece for piece, _ in sentence), ",".join(map(str, marks)), sep="\t")
                    guesses.append(last_first(len(sentence), marks))
                sentence = []
    average = sum(guesses) / max(len(guesses), 1)
    print(f"{len(guesses)} sentences; the words by their place, last first: average precision {average:.3f}", file=sys.stderr)


if __name__ == "__main__":
    main()
