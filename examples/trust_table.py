#!/usr/bin/env python3
"""One table a model of what `evaluate` measured, and one of all models together: which method to trust, and how far.

    python3 examples/trust_table.py FOLDER [--models mamba,rwkv4,griffin] > trust.md

FOLDER holds, for every model, MODEL.json (evaluate --data) and MODEL-causes.json (evaluate --causes), both with
--permutations for the ceilings. Every number in the tables stands in these files, with its interval; nothing is computed
here.
"""
import argparse
import json
from pathlib import Path

TITLES = {"mamba": "Mamba", "rwkv4": "RWKV-4", "griffin": "Griffin"}
BESIDE_CEILINGS = ("relevance", "vector-rollout", "relevance-attention", "leave-one-out")
WITHOUT_TARGET = ("raw", "rollout", "contribution-norms", "contribution-rollout", "random")


def cell(interval, decimals):
    """`0.41 ±0.02`: half of the interval's width; nothing where it is not defined."""
    if not interval or interval["mean"] is None:
        return ""
    return f"{interval['mean']:.{decimals}f} ±{(interval['high'] - interval['low']) / 2:.{decimals}f}"


def sign(interval):
    """Whether an interval holds no 0."""
    if not interval or interval["mean"] is None:
        return ""
    return " +" if interval["low"] > 0 else " -" if interval["high"] < 0 else ""


class Model:
    """What was measured of one model, by (method, terms)."""

    def __init__(self, folder, name):
        self.name, self.title = name, TITLES.get(name, name)
        self.data = json.loads((folder / f"{name}.json").read_text(encoding="utf-8"))
        self.causes = json.loads((folder / f"{name}-causes.json").read_text(encoding="utf-8"))
        self.texts = {(row["method"], row.get("terms", "")): row for row in self.data["results"]}
        self.outputs = {(row["method"], row.get("terms", "")): row for row in self.causes["results"]}
        # What runs of the model on many sets of tokens reach: rows of their own, below the methods.
        self.ceilings = list(dict.fromkeys((row["method"], row["samples"]) for file in (self.data, self.causes)
                                           for row in file.get("ceilings", [])))
        self.texts.update({(row["method"], row["samples"]): row for row in self.data.get("ceilings", [])})
        self.outputs.update({(row["method"], row["samples"]): row for row in self.causes.get("ceilings", [])})
        self.maps = {(row["map"], row.get("terms", "")): row for row in self.data.get("layer_maps", [])}

    def auc(self, row, comparison, paired=""):
        found = self.outputs.get(row, {})
        found = found.get(paired, {}) if paired else found.get("comparisons", {})
        return found.get(comparison, {}).get("auc")

    def metric(self, row, name, paired=""):
        found = self.texts.get(row, {}).get("metrics", {}).get(name, {})
        return found.get(paired) if paired else found

    def edges(self, row, name="edges_correlation"):
        return self.maps.get(row, {}).get("metrics", {}).get(name)

    def rows(self):
        return [row for row in dict.fromkeys(list(self.texts) + list(self.maps)) if row not in self.ceilings] + self.ceilings

    def same(self, row, other):
        """Whether two rows have the same numbers, as `published` and `all` have where they are the same matrix."""
        def numbers(one):
            return [found.get(one, {}).get(what) for found, what in
                    ((self.texts, "metrics"), (self.outputs, "comparisons"), (self.maps, "metrics"))]
        return json.dumps(strip(numbers(row))) == json.dumps(strip(numbers(other)))


def strip(numbers):
    """The means and intervals, without what is paired with other rows."""
    if isinstance(numbers, dict):
        return {name: strip(value) for name, value in numbers.items() if not name.startswith("less_")}
    return [strip(value) for value in numbers] if isinstance(numbers, (list, tuple)) else numbers


def model_table(model):
    lines = ["| method | terms | source AUC | address AUC | edges | unexplained | ΔA^F | less relevance | pruning |",
             "|---|---|---:|---:|---:|---:|---:|---:|---:|"]
    for row in model.rows():
        method, terms = row
        ceiling = row in model.ceilings
        if terms == "published" and model.same(row, (method, "all")):
            continue  # the same matrix
        shown = "published, all" if terms == "all" and model.same(row, (method, "published")) else terms
        paired = model.metric(row, "flipping_difference", "less_relevance")
        lines.append(f"| {f'*{method}*' if ceiling else f'`{method}`'} | {f'*{shown}*' if ceiling else shown} | "
                     f"{cell(model.auc(row, 'source_against_negatives'), 3)} | "
                     f"{cell(model.auc(row, 'address_against_negatives'), 3)} | {cell(model.edges(row), 2)} | "
                     f"{cell(model.edges(row, 'edges_unexplained'), 2)} | {cell(model.metric(row, 'flipping_difference'), 2)} | "
                     f"{cell(paired, 2)}{sign(paired)} | "
                     f"{cell(model.metric(row, 'pruning'), 2) if ceiling or method in WITHOUT_TARGET else ''} |")
    return lines


def formulation_table(model):
    """All terms less the two published sets, paired: by text or by output."""
    lines = ["| method | all less | source AUC | address AUC | edges | ΔA^F | pruning |", "|---|---|---:|---:|---:|---:|---:|"]
    causes = {(pair["method"], pair["less"]): pair["comparisons"] for pair in model.causes.get("formulations", [])}
    for pair in model.data.get("formulations", []):
        key = (pair["method"], pair["less"])
        source, address = (causes.get(key, {}).get(f"{what}_against_negatives", {}).get("auc") for what in ("source", "address"))
        edges = (model.edges((pair["method"], "all")) or {}).get("less_" + pair["less"])
        flipping = pair["metrics"]["flipping_difference"]
        pruning = pair["metrics"]["pruning"] if pair["method"] in WITHOUT_TARGET else None
        if all(not one or not one["mean"] for one in (source, address, edges, flipping)):
            continue  # the same matrix
        lines.append(f"| `{pair['method']}` | {pair['less']} | {cell(source, 3)}{sign(source)} | {cell(address, 3)}{sign(address)} | "
                     f"{cell(edges, 2)}{sign(edges)} | {cell(flipping, 2)}{sign(flipping)} | {cell(pruning, 2)}{sign(pruning)} |")
    return lines


def small_table(models):
    """A row a method, with all terms: the first table to look at."""
    heads = [f"{model.title}: source" if n == 0 else what for model in models
             for n, what in enumerate(("source", "address", "edges", "ΔA^F"))]
    lines = ["| method | " + " | ".join(heads) + " |", "|---|" + "---:|" * len(heads)]
    for method, terms in dict.fromkeys(row for model in models for row in model.rows()):
        ceiling = any((method, terms) in model.ceilings for model in models)
        if not ceiling and terms not in ("", "all"):
            continue
        cells = []
        for model in models:
            row = (method, terms)
            for interval, decimals in ((model.auc(row, "source_against_negatives"), 3), (model.auc(row, "address_against_negatives"), 2),
                                       (model.edges(row), 2), (model.metric(row, "flipping_difference"), 2)):
                cells.append(f"{interval['mean']:.{decimals}f}" if interval and interval["mean"] is not None else "")
        lines.append(f"| {f'*{method}, {terms}*' if ceiling else f'`{method}`'} | " + " | ".join(cells) + " |")
    return lines


def ceiling_table(models):
    """What is left: the methods that follow vectors, leave-one-out, and the ceilings."""
    lines = ["| ΔA^F (pruning) | " + " | ".join(f"{model.title}" for model in models) + " |", "|---|" + "---:|" * len(models)]
    for method, terms in dict.fromkeys(row for model in models for row in model.rows()):
        ceiling = any((method, terms) in model.ceilings for model in models)
        if not ceiling and (method not in BESIDE_CEILINGS or terms not in ("", "all")):
            continue
        cells = []
        for model in models:
            row = (method, terms)
            flipping, pruning, paired = (model.metric(row, *what) for what in (
                ("flipping_difference",), ("pruning",), ("flipping_difference", "less_relevance")))
            text = f"{cell(flipping, 2)} ({pruning['mean']:.2f})" if flipping else ""
            cells.append(text + (f"; less relevance {cell(paired, 2)}{sign(paired)}" if paired else ""))
        lines.append(f"| {f'*{method}, {terms}*' if ceiling else f'`{method}`'} | " + " | ".join(cells) + " |")
    return lines


def main():
    parser = argparse.ArgumentParser(description="Tables in Markdown of what evaluate measured.")
    parser.add_argument("folder", type=Path, help="with MODEL.json and MODEL-causes.json of every model")
    parser.add_argument("--models", default="mamba,rwkv4,griffin", help="commas between (mamba,rwkv4,griffin)")
    arguments = parser.parse_args()
    models = [Model(arguments.folder, name) for name in arguments.models.split(",")]
    print("# Which explanation to trust\n")
    print("Every number is a mean, ± half of its 95 % bootstrap interval. *source*, *address* (higher is better, random 0.5): area under ROC of "
          "the token that an answer copies, and of the one that says where it stands, against tokens that were each replaced and changed "
          "nothing, in a recall model of the same family. The widths of two recall models (Mamba, Griffin) were chosen, on other prompts, so "
          "that the walks find the source. *edges* (higher is better, random 0): Spearman's correlation of a layer's map with what is lost when single edges are taken out of the layer and the model is run without them; *unexplained* (lower is better): "
          "the share of those changes' squares that the map does not predict. ΔA^F (higher is better, random 0): tokens replaced, the "
          "most relevant first against the least relevant first. *less relevance*: that, paired by text; + above, - below, by an interval "
          "without 0. *pruning* (lower is better): for methods without a target, and for ceilings. In italics what running the model on many sets of "
          "tokens reaches.\n")
    for model in models:
        print(f"- {model.title}: {model.data['texts']} texts of {model.data['data']}, {model.causes['outputs']} outputs of "
              f"{model.causes['prompts']} prompts; at most {model.data['edges_a_layer']} edges a layer of every text; Shapley "
              f"values by {model.data['permutations']} permutations a text.")
    print("\n## All terms, all models\n")
    print("\n".join(small_table(models)))
    print("\n## How much is left\n")
    print("No map has to reach the greedy search: its two orders are each "
          "searched by itself, running the model for every step. Shapley values are what scores of single tokens can know of all sets of "
          "tokens.\n")
    print("\n".join(ceiling_table(models)))
    for model in models:
        print(f"\n## {model.title}\n")
        print("\n".join(model_table(model)))
        print("\nAll terms less the other formulations, paired by text and by output (+ and - where the interval holds no 0; edges and AUC: + "
              "is better; pruning: - is better):\n")
        print("\n".join(formulation_table(model)))


if __name__ == "__main__":
    main()
