#!/usr/bin/env python3
"""Trains the three small sentiment models that stand beside this script.

Each is a language model in a public format (Mamba, RWKV-4, Griffin / RecurrentGemma) whose next token after
`words of a sentence <cls>` is the label, `negative` or `positive`. The forward passes below take the weights as a
dictionary under their checkpoint names, so that the same few lines train in float32 and record in float64.
"""
import argparse
import json
import math
import random
import re
import struct
import time
from collections import Counter
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

HERE = Path(__file__).resolve().parent
SPECIAL = ["<pad>", "<unk>", "<cls>", "negative", "positive"]
PAD, UNK, CLS, NEGATIVE = range(4)
SENTENCES = [  # recorded with their logits
            "a gripping , funny and deeply moving film .",
             "the plot is a mess and the jokes are not funny .",
             "it 's not a bad film , but the ending is a disappointment ."]


# --- text ------------------------------------------------------------------------------------------------------------

def read_split(folder, split):
    """[(words, label)] of one split; a line is `label word word ...`."""
    lines = (folder / f"sst2.stsa.binary.{split}").read_text(encoding="utf-8").strip("\n").split("\n")
    return [(line.split(" ")[1:], int(line[0])) for line in lines]


def build_vocabulary(examples, min_count):
    counts = Counter(word for words, _ in examples for word in words)
    words = sorted((w for w, n in counts.items() if n >= min_count and w not in SPECIAL), key=lambda w: (-counts[w], w))
    return {token: index for index, token in enumerate(SPECIAL + words)}


def encode(words, vocabulary):
    return [vocabulary.get(word, UNK) for word in words] + [CLS]


def batches(examples, size, shuffle=None):
    """Batches of sentences of like length: (ids padded on the right, position of <cls>, label's token)."""
    order = sorted(range(len(examples)), key=lambda i: (len(examples[i][0]), shuffle.random() if shuffle else i))
    starts = list(range(0, len(order), size))
    if shuffle:
        shuffle.shuffle(starts)
    for start in starts:
        chosen = [examples[i] for i in order[start:start + size]]
        ids = torch.full((len(chosen), max(len(e[0]) for e in chosen)), PAD)
        for row, (tokens, _) in enumerate(chosen):
            ids[row, :len(tokens)] = torch.tensor(tokens)
        yield ids, torch.tensor([len(e[0]) - 1 for e in chosen]), torch.tensor([NEGATIVE + e[1] for e in chosen])


# --- parts the models share ------------------------------------------------------------------------------------------

def identity(x):
    return x


def under(weights, prefix):
    """The weights under a prefix, as a function of the rest of the name; None where there is no such tensor."""
    return lambda name: weights.get(prefix + name)


def pick(h, at):
    return h if isinstance(at, slice) else h[torch.arange(len(h)), at]


def softplus(x):
    return torch.logaddexp(x, torch.zeros_like(x))  # torch's own turns linear at 20, which float64 can tell


def gelu_tanh(x):
    return 0.5 * x * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x ** 3)))


def rms_norm(x, weight, eps):
    return weight * x * torch.rsqrt(x.square().mean(-1, keepdim=True) + eps)


def causal_convolution(x, weight, bias):
    """x (batch, tokens, channels), weight (channels, 1, width): the last tap meets the present token."""
    return F.conv1d(F.pad(x.transpose(1, 2), (weight.shape[2] - 1, 0)), weight, bias, groups=weight.shape[0]).transpose(1, 2)


def scan(decay, values):
    """h_t = decay_t h_{t-1} + values_t along dimension 1, from h = 0."""
    state, states = None, []
    for a, b in zip(decay.unbind(1), values.unbind(1)):
        state = b if state is None else a * state + b
        states.append(state)
    return torch.stack(states, 1)


def linear_weight(out, inner, gain=1.0):
    return torch.empty(out, inner).uniform_(-1, 1) * (gain / math.sqrt(inner))


# --- Mamba: Gu & Dao 2023, arXiv 2312.00752 --------------------------------------------------------------------------

MAMBA = {"architectures": ["MambaForCausalLM"], "model_type": "mamba", "hidden_size": 48, "num_hidden_layers": 2,
         "state_size": 16, "conv_kernel": 4, "expand": 2, "intermediate_size": 96, "time_step_rank": 3,
         "layer_norm_epsilon": 1e-5, "hidden_act": "silu", "use_bias": False, "use_conv_bias": True,
         "tie_word_embeddings": True}


def init_mamba(c):
    D, E, N, R, W = c["hidden_size"], c["intermediate_size"], c["state_size"], c["time_step_rank"], c["conv_kernel"]
    weights = {"backbone.embeddings.weight": torch.randn(c["vocab_size"], D) * 0.1, "backbone.norm_f.weight": torch.ones(D)}
    for n in range(c["num_hidden_layers"]):
        step = torch.exp(torch.empty(E).uniform_(math.log(1e-3), math.log(1e-1)))
        layer = {"norm.weight": torch.ones(D),
                 "mixer.in_proj.weight": linear_weight(2 * E, D), "mixer.out_proj.weight": linear_weight(D, E),
                 "mixer.conv1d.weight": torch.empty(E, 1, W).uniform_(-1, 1) / math.sqrt(W), "mixer.conv1d.bias": torch.zeros(E),
                 "mixer.x_proj.weight": linear_weight(R + 2 * N, E), "mixer.dt_proj.weight": linear_weight(E, R),
                 "mixer.dt_proj.bias": step + torch.log(-torch.expm1(-step)),
                 "mixer.A_log": torch.log(torch.arange(1.0, N + 1)).repeat(E, 1), "mixer.D": torch.ones(E)}
        weights.update({f"backbone.layers.{n}.{name}": value for name, value in layer.items()})
    return weights


def mamba(weights, c, ids, at=slice(None), drop=identity):
    """Logits (batch, tokens, vocabulary), or (batch, vocabulary) at one position of each sequence."""
    embeddings, eps = weights["backbone.embeddings.weight"], c["layer_norm_epsilon"]
    h = drop(embeddings[ids])
    for n in range(c["num_hidden_layers"]):
        w = under(weights, f"backbone.layers.{n}.")
        x, z = (rms_norm(h, w("norm.weight"), eps) @ w("mixer.in_proj.weight").T).chunk(2, -1)
        x = F.silu(causal_convolution(x, w("mixer.conv1d.weight"), w("mixer.conv1d.bias")))
        rank, N = w("mixer.dt_proj.weight").shape[1], w("mixer.A_log").shape[1]
        dt, B, C = (x @ w("mixer.x_proj.weight").T).split([rank, N, N], -1)
        dt = softplus(dt @ w("mixer.dt_proj.weight").T + w("mixer.dt_proj.bias"))
        A = -torch.exp(w("mixer.A_log"))
        states = scan(torch.exp(dt[..., None] * A), (dt * x)[..., None] * B[:, :, None, :])
        y = (states @ C[..., None])[..., 0] + w("mixer.D") * x
        h = h + drop((y * F.silu(z)) @ w("mixer.out_proj.weight").T)
    return rms_norm(pick(h, at), weights["backbone.norm_f.weight"], eps) @ weights.get("lm_head.weight", embeddings).T


# --- RWKV-4: Peng et al. 2023, arXiv 2305.13048 ----------------------------------------------------------------------

RWKV4 = {"architectures": ["RwkvForCausalLM"], "model_type": "rwkv", "hidden_size": 48, "attention_hidden_size": 48,
         "intermediate_size": 96, "num_hidden_layers": 2, "layer_norm_epsilon": 1e-5, "rescale_every": 0,
         "tie_word_embeddings": False}


def init_rwkv4(c):
    D, E, M, depth = c["hidden_size"], c["attention_hidden_size"], c["intermediate_size"], c["num_hidden_layers"]
    weights = {"rwkv.embeddings.weight": torch.randn(c["vocab_size"], D) * 0.1,
               "head.weight": torch.randn(c["vocab_size"], D) * 0.1}
    norms = ["rwkv.ln_out", "rwkv.blocks.0.pre_ln"]
    for n in range(depth):
        mix, ratio = torch.arange(D).view(1, 1, D) / D, n / max(depth - 1, 1)
        norms += [f"rwkv.blocks.{n}.ln1", f"rwkv.blocks.{n}.ln2"]
        block = {"attention.time_decay": -5 + 8 * (torch.arange(E) / (E - 1)) ** (0.7 + 1.3 * ratio),
                 "attention.time_first": math.log(0.3) + 0.5 * ((torch.arange(E) + 1) % 3 - 1),
                 "attention.time_mix_key": mix ** (1 - n / depth), "attention.time_mix_value": mix ** (1 - n / depth) + 0.3 * ratio,
                 "attention.time_mix_receptance": mix ** (0.5 * (1 - n / depth)),
                 "attention.key.weight": linear_weight(E, D), "attention.value.weight": linear_weight(E, D),
                 "attention.receptance.weight": linear_weight(E, D), "attention.output.weight": linear_weight(D, E),
                 "feed_forward.time_mix_key": mix ** (1 - n / depth), "feed_forward.time_mix_receptance": mix ** (1 - n / depth),
                 "feed_forward.key.weight": linear_weight(M, D), "feed_forward.value.weight": linear_weight(D, M),
                 "feed_forward.receptance.weight": linear_weight(D, D)}
        weights.update({f"rwkv.blocks.{n}.{name}": value for name, value in block.items()})
    for name in norms:
        weights.update({name + ".weight": torch.ones(D), name + ".bias": torch.zeros(D)})
    return weights


def rwkv4(weights, c, ids, at=slice(None), drop=identity):
    """Logits (batch, tokens, vocabulary), or (batch, vocabulary) at one position of each sequence."""
    def norm(x, name):
        return F.layer_norm(x, x.shape[-1:], weights[name + ".weight"], weights[name + ".bias"], c["layer_norm_epsilon"])

    def project(w, u, part):
        """Each token mixed with the one before it (zero before the first), then the projection."""
        mix, before = w(f"time_mix_{part}"), F.pad(u, (0, 0, 1, 0))[:, :-1]
        return (u * mix + before * (1 - mix)) @ w(f"{part}.weight").T

    tokens = torch.arange(ids.shape[1])
    distance = tokens[:, None] - 1 - tokens  # i - 1 - j
    h = norm(weights["rwkv.embeddings.weight"][ids], "rwkv.blocks.0.pre_ln")
    h = drop(h)
    for n in range(c["num_hidden_layers"]):
        w, u = under(weights, f"rwkv.blocks.{n}.attention."), norm(h, f"rwkv.blocks.{n}.ln1")
        key, value, receptance = (project(w, u, part) for part in ("key", "value", "receptance"))
        # log p[i, j], one matrix a channel: (batch, i, j, channels); the sentences are short enough for it
        exponent = key[:, None] - distance.clamp(min=0)[..., None] * torch.exp(w("time_decay"))
        exponent = torch.where((distance == -1)[..., None], key[:, None] + w("time_first"), exponent)
        attention = torch.softmax(exponent.masked_fill((distance < -1)[..., None], -math.inf), 2)
        h = h + drop((torch.sigmoid(receptance) * (attention * value[:, None]).sum(2)) @ w("output.weight").T)

        w, u = under(weights, f"rwkv.blocks.{n}.feed_forward."), norm(h, f"rwkv.blocks.{n}.ln2")
        inner = torch.relu(project(w, u, "key")).square() @ w("value.weight").T
        h = h + drop(torch.sigmoid(project(w, u, "receptance")) * inner)
    return norm(pick(h, at), "rwkv.ln_out") @ weights["head.weight"].T


# --- Griffin: De et al. 2024, arXiv 2402.19427, as RecurrentGemma ----------------------------------------------------

GRIFFIN = {"architectures": ["RecurrentGemmaForCausalLM"], "model_type": "recurrent_gemma", "hidden_size": 48, "lru_width": 48,
           "intermediate_size": 192, "num_hidden_layers": 3, "num_attention_heads": 3, "num_key_value_heads": 1, "head_dim": 16,
           "conv1d_width": 4, "attention_window_size": 16, "rms_norm_eps": 1e-6, "logits_soft_cap": 30.0, "rope_theta": 10000.0,
           "partial_rotary_factor": 0.5, "hidden_activation": "gelu_pytorch_tanh", "embeddings_scale_by_sqrt_dim": True,
           "attention_bias": False, "tie_word_embeddings": True, "_block_types": ["recurrent", "recurrent", "attention"]}


def init_griffin(c):
    D, E, M, H, W = c["hidden_size"], c["lru_width"], c["intermediate_size"] // 2, c["num_attention_heads"], c["conv1d_width"]
    weights = {"model.embed_tokens.weight": torch.randn(c["vocab_size"], D) * 0.1, "model.final_norm.weight": torch.zeros(D)}
    for n, kind in enumerate(c["_block_types"]):
        layer = {"temporal_pre_norm.weight": torch.zeros(D), "channel_pre_norm.weight": torch.zeros(D),
                 "mlp_block.gate_proj.weight": linear_weight(M, D), "mlp_block.gate_proj.bias": torch.zeros(M),
                 "mlp_block.up_proj.weight": linear_weight(M, D), "mlp_block.up_proj.bias": torch.zeros(M),
                 "mlp_block.down_proj.weight": linear_weight(D, M), "mlp_block.down_proj.bias": torch.zeros(D)}
        if kind == "recurrent":
            slowest = torch.empty(E).uniform_(0.9, 0.999)  # decay a token where the recurrence gate is open
            layer.update({"temporal_block.linear_y.weight": linear_weight(E, D), "temporal_block.linear_y.bias": torch.zeros(E),
                          "temporal_block.linear_x.weight": linear_weight(E, D), "temporal_block.linear_x.bias": torch.zeros(E),
                          "temporal_block.linear_out.weight": linear_weight(D, E), "temporal_block.linear_out.bias": torch.zeros(D),
                          "temporal_block.conv_1d.weight": torch.empty(E, 1, W).uniform_(-1, 1) / math.sqrt(W),
                          "temporal_block.conv_1d.bias": torch.zeros(E),
                          "temporal_block.rg_lru.recurrent_param": torch.log(torch.expm1(-torch.log(slowest) / 8))})
            for gate in ("input_gate", "recurrent_gate"):
                layer[f"temporal_block.rg_lru.{gate}_weight"] = torch.randn(H, E // H, E // H) * math.sqrt(H / E)
                layer[f"temporal_block.rg_lru.{gate}_bias"] = torch.zeros(H, E // H)
        else:
            width, shared = H * c["head_dim"], c["num_key_value_heads"] * c["head_dim"]
            layer.update({"temporal_block.q_proj.weight": linear_weight(width, D),
                          "temporal_block.k_proj.weight": linear_weight(shared, D),
                          "temporal_block.v_proj.weight": linear_weight(shared, D),
                          "temporal_block.o_proj.weight": linear_weight(D, width), "temporal_block.o_proj.bias": torch.zeros(D)})
        weights.update({f"model.layers.{n}.{name}": value for name, value in layer.items()})
    return weights


def recurrent_block(w, u):
    """RG-LRU between a convolution and a gated output; a sequence is one document."""
    x = causal_convolution(u @ w("linear_x.weight").T + w("linear_x.bias"), w("conv_1d.weight"), w("conv_1d.bias"))
    heads = x.unflatten(-1, w("rg_lru.input_gate_bias").shape)
    input_gate, recurrence_gate = (
        torch.sigmoid(torch.einsum("bthp,hpq->bthq", heads, w(f"rg_lru.{gate}_weight")) + w(f"rg_lru.{gate}_bias")).flatten(2)
        for gate in ("input_gate", "recurrent_gate"))
    log_decay = -8 * recurrence_gate * softplus(w("rg_lru.recurrent_param"))
    scale = torch.sqrt(-torch.expm1(2 * log_decay))
    scale = torch.cat([torch.ones_like(scale[:, :1]), scale[:, 1:]], 1)  # the first token enters an empty state whole
    y = scan(torch.exp(log_decay), scale * input_gate * x)
    gate = gelu_tanh(u @ w("linear_y.weight").T + w("linear_y.bias"))
    return (y * gate) @ w("linear_out.weight").T + w("linear_out.bias")


def attention_block(w, u, c):
    """Local attention, one key and value head for all; rotary positions on the first part of each head."""
    size, rotated = c["head_dim"], int(c["head_dim"] * c["partial_rotary_factor"])
    tokens = torch.arange(u.shape[1])
    frequency = c["rope_theta"] ** (-torch.arange(0, rotated, 2, dtype=u.dtype) / rotated)
    angle = (tokens[:, None] * frequency).repeat(1, 2)

    def rotate(x):
        x, rest = x[..., :rotated], x[..., rotated:]
        first, second = x.chunk(2, -1)
        return torch.cat([x * torch.cos(angle) + torch.cat([-second, first], -1) * torch.sin(angle), rest], -1)

    query = rotate((u @ w("q_proj.weight").T).unflatten(-1, (-1, size)).transpose(1, 2))
    key, value = rotate((u @ w("k_proj.weight").T)[:, None]), (u @ w("v_proj.weight").T)[:, None]
    distance = tokens[:, None] - tokens
    hidden = (distance < 0) | (distance > c["attention_window_size"])
    attention = torch.softmax((query @ key.transpose(2, 3) / math.sqrt(size)).masked_fill(hidden, -math.inf), -1)
    return (attention @ value).transpose(1, 2).flatten(2) @ w("o_proj.weight").T + w("o_proj.bias")


def griffin(weights, c, ids, at=slice(None), drop=identity):
    """Logits (batch, tokens, vocabulary), or (batch, vocabulary) at one position of each sequence."""
    def norm(x, weight):
        return rms_norm(x, 1 + weight, c["rms_norm_eps"])

    embeddings = weights["model.embed_tokens.weight"]
    h = drop(embeddings[ids] * float(torch.tensor(math.sqrt(c["hidden_size"])).bfloat16()))
    for n in range(c["num_hidden_layers"]):
        w, block = under(weights, f"model.layers.{n}."), under(weights, f"model.layers.{n}.temporal_block.")
        u = norm(h, w("temporal_pre_norm.weight"))
        h = h + drop(recurrent_block(block, u) if block("linear_x.weight") is not None else attention_block(block, u, c))
        u, mlp = norm(h, w("channel_pre_norm.weight")), under(weights, f"model.layers.{n}.mlp_block.")
        gate = gelu_tanh(u @ mlp("gate_proj.weight").T + mlp("gate_proj.bias"))
        h = h + drop((gate * (u @ mlp("up_proj.weight").T + mlp("up_proj.bias"))) @ mlp("down_proj.weight").T + mlp("down_proj.bias"))
    cap = c["logits_soft_cap"]
    return cap * torch.tanh(norm(pick(h, at), weights["model.final_norm.weight"]) @ weights.get("lm_head.weight", embeddings).T / cap)


# --- files -----------------------------------------------------------------------------------------------------------

STORED = {"F16": "<f2", "I32": "<i4", "U8": "<u1"}


def save_safetensors(path, arrays, metadata=None):
    """{name: (dtype as in STORED, numpy array)}: 8 bytes of header length, the header in JSON, then the arrays' bytes."""
    header, data = {"__metadata__": metadata} if metadata else {}, b""
    for name, (dtype, array) in arrays.items():
        raw = array.astype(STORED[dtype]).tobytes()
        header[name] = {"dtype": dtype, "shape": list(array.shape), "data_offsets": [len(data), len(data) + len(raw)]}
        data += raw
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)


def load_safetensors(path):
    """The float16 tensors of a file written above, widened to float64 without change."""
    raw = path.read_bytes()
    size, = struct.unpack("<Q", raw[:8])
    header = json.loads(raw[8:8 + size])
    header.pop("__metadata__")
    weights = {}
    for name, entry in header.items():
        begin, end = (8 + size + offset for offset in entry["data_offsets"])
        weights[name] = torch.from_numpy(np.frombuffer(raw[begin:end], "<f2").reshape(entry["shape"]).astype(np.float64))
    return weights


def save_json(path, value):
    """Indented, with lists of numbers or names on one line."""
    text = json.dumps(value, indent=1, ensure_ascii=False)
    text = re.sub(r"\[\s+([^][{}]*?)\s+\]", lambda m: "[" + re.sub(r",\s+", ", ", m[1]) + "]", text)
    path.write_text(text + "\n", encoding="utf-8")


def save_model(folder, config, vocabulary, weights):
    """What a public folder of a model holds; the weights in float16 throughout."""
    folder.mkdir(parents=True, exist_ok=True)
    save_json(folder / "config.json", config)
    save_json(folder / "vocab.json", vocabulary)
    save_safetensors(folder / "model.safetensors", {name: ("F16", value.detach().numpy()) for name, value in weights.items()},
                     {"format": "pt"})


# --- command lines ---------------------------------------------------------------------------------------------------

def command_line(description, models, out, record_only, settings, helps, **more):
    """What the scripts of this folder take alike: models, --out, --record-only, and an option for each setting."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.ArgumentDefaultsHelpFormatter, **more)
    parser.add_argument("models", nargs="*", default=list(models), metavar="MODEL", help="any of " + ", ".join(models))
    parser.add_argument("--out", type=Path, default=out, help="folder the models' folders are written to")
    parser.add_argument("--record-only", action="store_true", help="no training: " + record_only)
    for setting, value in settings.items():
        parser.add_argument("--" + setting.replace("_", "-"), type=type(value), default=value, help=helps[setting])
    return parser


def parse(parser, models, settings):
    """The arguments, and of them the settings; models that are not there are refused."""
    arguments = parser.parse_args()
    for name in arguments.models:
        if name not in models:
            parser.error(f"no model {name}: choose from {', '.join(models)}")
    return arguments, {setting: getattr(arguments, setting) for setting in settings}


def settings_of(folder):
    """Those that a stored model was trained with."""
    return json.loads((folder / "expected.json").read_text(encoding="utf-8"))["training"]


# --- training and recording ------------------------------------------------------------------------------------------

SETTINGS = {"seed": 1, "epochs": 8, "batch": 32, "learning_rate": 3e-3, "weight_decay": 0.05, "dropout": 0.3, "word_dropout": 0.4,
            "averaging": 0.99, "min_count": 2}
HELP = {"seed": "of the initial weights, the order of batches and dropout", "epochs": "the one best on dev is kept",
        "batch": "sentences a step", "learning_rate": "its peak", "weight_decay": "of the matrices",
        "dropout": "on the embeddings and on each block's output", "word_dropout": "the largest share of words that become <unk>",
        "averaging": "of the weights over steps: the average is what is kept", "min_count": "rarer words of train are <unk>"}
MODELS = {"mamba": (MAMBA, init_mamba, mamba), "rwkv4": (RWKV4, init_rwkv4, rwkv4), "griffin": (GRIFFIN, init_griffin, griffin)}


def accuracy(forward, weights, config, examples):
    """The share of sentences whose most likely next token, of the whole vocabulary, is the label."""
    with torch.no_grad():
        right = sum(int((forward(weights, config, ids, at=last).argmax(-1) == label).sum())
                    for ids, last, label in batches(examples, 64))
    return right / len(examples)


def without_some_words(ids, last, most):
    """Replaces words by <unk>, in each sentence a share of its own between none and `most`."""
    share = torch.rand(len(ids), 1) * most
    word = torch.arange(ids.shape[1]) < last[:, None]
    return torch.where(word & (torch.rand(ids.shape) < share), UNK, ids)


def optimiser(weights, settings, steps):
    """AdamW whose weight decay spares what is no matrix, and its schedule: up to the learning rate, then down to none."""
    optimizer = torch.optim.AdamW([{"params": [v for v in weights.values() if v.dim() == 2]},
                                   {"params": [v for v in weights.values() if v.dim() != 2], "weight_decay": 0.0}],
                                  lr=settings["learning_rate"], betas=(0.9, 0.98), weight_decay=settings["weight_decay"])
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, settings["learning_rate"], total_steps=steps, pct_start=0.1,
                                                   cycle_momentum=False)
    return optimizer, schedule


def descend(loss, weights, optimizer, schedule):
    optimizer.zero_grad()
    loss.backward()
    torch.nn.utils.clip_grad_norm_(weights.values(), 1.0)
    optimizer.step()
    schedule.step()
    return loss.item()


def train(name, config, examples, settings):
    """Weights of the epoch that is best on the development split, and that epoch's number."""
    _, initial, forward = MODELS[name]
    torch.manual_seed(settings["seed"])
    shuffle = random.Random(settings["seed"])
    weights = {key: value.requires_grad_() for key, value in initial(config).items()}
    steps = settings["epochs"] * math.ceil(len(examples["train"]) / settings["batch"])
    optimizer, schedule = optimiser(weights, settings, steps)
    average = {key: value.detach().clone() for key, value in weights.items()}
    best, best_accuracy, best_epoch, started = None, 0.0, 0, time.time()
    for epoch in range(1, settings["epochs"] + 1):
        total = 0.0
        for ids, last, label in batches(examples["train"], settings["batch"], shuffle):
            ids = without_some_words(ids, last, settings["word_dropout"])
            logits = forward(weights, config, ids, at=last, drop=lambda x: F.dropout(x, settings["dropout"]))
            total += descend(F.cross_entropy(logits, label), weights, optimizer, schedule) * len(ids)
            for key, value in weights.items():
                average[key].lerp_(value.detach(), 1 - settings["averaging"])
        dev = accuracy(forward, average, config, examples["dev"])
        if dev > best_accuracy:
            best, best_accuracy, best_epoch = {key: value.clone() for key, value in average.items()}, dev, epoch
        print(f"{name}: epoch {epoch:2d}/{settings['epochs']}  loss {total / len(examples['train']):.3f}  dev {dev:.2%}  "
              f"{time.time() - started:.0f} s", flush=True)
    return best, best_epoch


def record(name, folder, text, training):
    """Writes expected.json: accuracies and logits of the model as it is stored, computed in float64."""
    forward = MODELS[name][2]
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    vocabulary = json.loads((folder / "vocab.json").read_text(encoding="utf-8"))
    weights = load_safetensors(folder / "model.safetensors")
    scores = {}
    for split in ("dev", "test"):
        scores[split] = accuracy(forward, weights, config, [(encode(w, vocabulary), y) for w, y in text[split]])
    sentences = []
    for sentence in SENTENCES:
        ids = encode(sentence.split(" "), vocabulary)
        with torch.no_grad():
            logits = forward(weights, config, torch.tensor([ids]))[0, -1]
        sentences.append({"text": sentence, "input_ids": ids, "predicted": list(vocabulary)[int(logits.argmax())],
                          "logits": [round(value, 12) for value in logits.tolist()]})
    save_json(folder / "expected.json", {
        "note": "<cls> is the last token of input_ids (the words of the text, then <cls>); the token predicted after it is the "
                "label. logits are those at <cls>, one for each entry of the vocabulary, in float64 from the stored float16 "
                "weights. accuracy is of the stored weights too, the prediction being the largest of all logits.",
        "accuracy": scores, "sentences_counted": {split: len(text[split]) for split in scores}, "training": training,
        "sentences": sentences})
    print(f"{name}: stored model has dev {scores['dev']:.2%}, test {scores['test']:.2%}", flush=True)


def main():
    parser = command_line("Trains small sentiment models in public formats, minutes each on one core.", MODELS, HERE,
                          "write expected.json again for the stored models", SETTINGS, HELP,
                          epilog="example: python3 train.py rwkv4 --text ~/sst2 --out /tmp/models --epochs 4")
    parser.add_argument("--text", type=Path, default=HERE.parents[1] / ".." / "shared" / "realdata" / "text",
                        help="folder with sst2.stsa.binary.train, .dev and .test")
    arguments, settings = parse(parser, MODELS, SETTINGS)
    if not (arguments.text / "sst2.stsa.binary.train").is_file():
        parser.error(f"no sst2.stsa.binary.train in {arguments.text}: point --text to the folder with the SST-2 sentences")

    torch.set_num_threads(1)
    text = {split: read_split(arguments.text, split) for split in ("train", "dev", "test")}
    for name in arguments.models:
        folder = arguments.out / name
        if arguments.record_only:
            training = settings_of(folder)
        else:
            vocabulary = build_vocabulary(text["train"], settings["min_count"])
            examples = {split: [(encode(w, vocabulary), y) for w, y in text[split]] for split in ("train", "dev")}
            config = {**MODELS[name][0], "vocab_size": len(vocabulary), "pad_token_id": PAD, "torch_dtype": "float16"}
            weights, epoch = train(name, config, examples, settings)
            training = {**settings, "chosen_epoch": epoch}
            save_model(folder, config, vocabulary, weights)
        record(name, folder, text, training)


if __name__ == "__main__":
    main()
