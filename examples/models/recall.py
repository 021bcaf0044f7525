#!/usr/bin/env python3
"""Trains the three small recall models in recall/, and writes down what causes each of their answers.

A prompt is `name colour name colour ... ? name name ...`, with noise words between the pairs; behind every name after
`?` the next token is that name's colour. The answer can only be copied from one token, so the cause of every output is
known, and it is tested: `causes.safetensors` holds fresh prompts, the token that each answer copies (source), the one
before it that says where it stands (address), and those that were each replaced and changed no answer (negatives).
"""
import json
import random
import time

import numpy as np
import torch
import torch.nn.functional as F

import train
from train import HERE, load_safetensors, save_json, save_safetensors

SPECIAL = ["<pad>", "<unk>", "?"]
NAMES = ["anna", "ben", "carla", "david", "emma", "felix", "greta", "hugo"]
COLOURS = ["red", "blue", "green", "yellow", "black", "white", "pink", "grey"]
NOISE = ["and", "then", "so", "also"]
VOCABULARY = {token: index for index, token in enumerate(SPECIAL + NAMES + COLOURS + NOISE)}
PAD, UNK, ASK = range(3)
KINDS = [[VOCABULARY[word] for word in kind] for kind in (NAMES, COLOURS, NOISE)]
KIND_OF = {token: kind for kind in KINDS for token in kind}
FEWEST, MOST, MOST_NOISE, MOST_QUERIES = 4, 6, 3, 4
TOKENS = 2 * MOST + MOST_NOISE + 1 + MOST_QUERIES  # of the longest prompt

SMALL = {"vocab_size": len(VOCABULARY), "pad_token_id": PAD, "torch_dtype": "float16", "num_hidden_layers": 2}
CONFIGS = {"mamba": {**train.MAMBA, **SMALL, "hidden_size": 48, "intermediate_size": 96, "state_size": 8, "time_step_rank": 2},
           "rwkv4": {**train.RWKV4, **SMALL, "hidden_size": 64, "attention_hidden_size": 64, "intermediate_size": 128},
           "griffin": {**train.GRIFFIN, **SMALL, "hidden_size": 64, "lru_width": 64, "intermediate_size": 256, "num_attention_heads": 4,
                       "_block_types": ["recurrent", "recurrent"]}}
SETTINGS = {"seed": 1, "steps": 2000, "batch": 64, "learning_rate": 5e-3, "weight_decay": 0.01, "word_dropout": 0.2}
HELP = {"seed": "of the initial weights and the prompts", "steps": "of the optimiser", "batch": "prompts a step", "learning_rate": "its peak",
        "weight_decay": "of the matrices", "word_dropout": "the largest share of a prompt's tokens that become <unk>"}
TEST_SEED = 20_000  # prompts that no training run sees: its seeds are below


def draw_prompt(dice):
    """(ids, [(position, answer, source, address)]) of one prompt."""
    names, colours = dice.sample(KINDS[0], MOST), dice.sample(KINDS[1], MOST)
    pairs = dice.randint(FEWEST, MOST)
    pieces = [[name, colour] for name, colour in zip(names[:pairs], colours)]
    pieces += [[dice.choice(KINDS[2])] for _ in range(dice.randint(0, MOST_NOISE))]
    dice.shuffle(pieces)
    ids = [token for piece in pieces for token in piece] + [ASK]
    outputs = []
    for name in dice.sample(names[:pairs], dice.randint(2, MOST_QUERIES)):
        address = ids.index(name)
        outputs.append((len(ids), ids[address + 1], address + 1, address))
        ids.append(name)
    return ids, outputs


def draw_batch(dice, size, word_dropout=0.0):
    """ids (size, TOKENS), and of every output that can be known its row, position and answer."""
    ids, asked = torch.full((size, TOKENS), PAD), []
    for row in range(size):
        prompt, outputs = draw_prompt(dice)
        share = dice.random() * word_dropout
        gone = [dice.random() < share for _ in prompt]
        ids[row, :len(prompt)] = torch.tensor([UNK if lost else token for token, lost in zip(prompt, gone)])
        asked += [(row, position, answer) for position, answer, source, address in outputs
                  if not (gone[position] or gone[source] or gone[address])]
    return ids, torch.tensor(asked).T


def errors(forward, weights, config, dice, prompts):
    """(wrong answers, answers): the likeliest token of the whole vocabulary is compared."""
    with torch.no_grad():
        ids, (rows, positions, answers) = draw_batch(dice, prompts)
        return int((forward(weights, config, ids)[rows, positions].argmax(-1) != answers).sum()), len(answers)


def fit(name, config, settings):
    _, initial, forward = train.MODELS[name]
    torch.manual_seed(settings["seed"])
    dice, started = random.Random(settings["seed"]), time.time()
    weights = {key: value.requires_grad_() for key, value in initial(config).items()}
    optimizer, schedule = train.optimiser(weights, settings, settings["steps"])
    total = 0.0
    for step in range(1, settings["steps"] + 1):
        ids, (rows, positions, answers) = draw_batch(dice, settings["batch"], settings["word_dropout"])
        loss = F.cross_entropy(forward(weights, config, ids)[rows, positions], answers)
        total += train.descend(loss, weights, optimizer, schedule)
        if step % 500 == 0:
            wrong, asked = errors(forward, weights, config, random.Random(settings["seed"] + 1), 200)
            print(f"{name}: step {step}/{settings['steps']}  loss {total / 500:.4f}  wrong {wrong}/{asked}  "
                  f"{time.time() - started:.0f} s", flush=True)
            total = 0.0
    return {key: value.detach() for key, value in weights.items()}


# --- what causes an answer -------------------------------------------------------------------------------------------

def replacements(ids, token):
    """Other tokens of the same kind that are not in the prompt; for `?`, noise words and <unk>."""
    kind = KIND_OF.get(ids[token], KINDS[2] + [UNK])
    return [other for other in kind if other not in ids]


def answers_of(forward, weights, config, prompts, positions):
    with torch.no_grad():
        return forward(weights, config, torch.tensor(prompts))[:, positions].argmax(-1).tolist()


def find_causes(forward, weights, config, prompts):
    """The arrays of causes.safetensors, from fresh prompts and runs with one token replaced; and what was counted."""
    dice = random.Random(TEST_SEED)
    arrays = {name: [] for name in ("input_ids", "length", "prompt", "position", "target", "source", "address", "negatives")}
    counted = {"outputs": 0, "source_trials": 0, "source_answers_that_follow": 0, "address_trials": 0, "address_answers_that_change": 0,
               "other_trials": 0, "other_answers_that_change": 0}
    for prompt in range(prompts):
        ids, outputs = draw_prompt(dice)
        positions = [output[0] for output in outputs]
        said = answers_of(forward, weights, config, [ids], positions)[0]
        changed = {}  # (token, replacement): the answers
        tries = [(token, other) for token in range(len(ids)) for other in replacements(ids, token)]
        runs = answers_of(forward, weights, config, [ids[:token] + [other] + ids[token + 1:] for token, other in tries], positions)
        changed = dict(zip(tries, runs))
        padding = [0] * (TOKENS - len(ids))
        arrays["input_ids"].append(ids + padding)
        arrays["length"].append(len(ids))
        for place, (position, answer, source, address) in enumerate(outputs):
            if said[place] != answer:
                continue  # of an error no cause is known
            counted["outputs"] += 1
            trials = {token: [(other, changed[token, other][place]) for other in replacements(ids, token)] for token in range(position)}
            counted["source_trials"] += len(trials[source])
            counted["source_answers_that_follow"] += sum(other == now for other, now in trials[source])
            counted["address_trials"] += len(trials[address])
            counted["address_answers_that_change"] += sum(now != answer for _, now in trials[address])
            negatives = [0] * TOKENS
            for token in range(position):
                if token in (source, address):
                    continue
                counted["other_trials"] += len(trials[token])
                moved = sum(now != answer for _, now in trials[token])
                counted["other_answers_that_change"] += moved
                negatives[token] = int(moved == 0 and len(trials[token]) > 0)
            for name, value in (("prompt", prompt), ("position", position), ("target", answer), ("source", source), ("address", address),
                                ("negatives", negatives)):
                arrays[name].append(value)
    return {name: ("U8" if name == "negatives" else "I32", np.array(rows)) for name, rows in arrays.items()}, counted


def record(name, folder, settings, prompts):
    """causes.safetensors and expected.json, of the weights as they are stored, computed in float64."""
    forward, config = train.MODELS[name][2], json.loads((folder / "config.json").read_text(encoding="utf-8"))
    weights = load_safetensors(folder / "model.safetensors")
    wrong, asked = errors(forward, weights, config, random.Random(TEST_SEED + 1), 2000)
    arrays, counted = find_causes(forward, weights, config, prompts)
    save_safetensors(folder / "causes.safetensors", arrays)
    ids, outputs = draw_prompt(random.Random(TEST_SEED))
    words = list(VOCABULARY)
    with torch.no_grad():
        logits = forward(weights, config, torch.tensor([ids]))[0, outputs[0][0]]
    save_json(folder / "expected.json", {
        "note": "logits are those behind the token `position` of input_ids, one for each entry of the vocabulary, in float64 from the "
                "stored float16 weights. wrong_answers are of 2,000 prompts that neither training nor causes.safetensors have; causes "
                "counts the runs with one token replaced that causes.safetensors rests on.",
        "wrong_answers": wrong, "answers": asked, "causes": counted, "training": settings,
        "prompt": " ".join(words[token] for token in ids), "input_ids": ids, "position": outputs[0][0], "answer": words[outputs[0][1]],
        "logits": [round(value, 12) for value in logits.tolist()]})
    print(f"{name}: stored model has {wrong} of {asked} answers wrong; {counted}", flush=True)


def main():
    parser = train.command_line("Trains small recall models in public formats, minutes each on one core, and records causes.", CONFIGS,
                                HERE / "recall", "causes and expected.json again for the stored models", SETTINGS, HELP)
    parser.add_argument("--prompts", type=int, default=60, help="in causes.safetensors")
    arguments, asked = train.parse(parser, CONFIGS, SETTINGS)
    torch.set_num_threads(1)
    for name in arguments.models:
        folder = arguments.out / name
        if arguments.record_only:
            settings = train.settings_of(folder)
        else:
            settings = asked
            train.save_model(folder, CONFIGS[name], VOCABULARY, fit(name, CONFIGS[name], settings))
        record(name, folder, settings, arguments.prompts)


if __name__ == "__main__":
    main()
