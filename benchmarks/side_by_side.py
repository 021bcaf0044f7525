#!/usr/bin/env python3
"""What explaining a Mamba of 130 million parameters takes in PyTorch, the way people do it today.

The same model as in benchmarks/models.cpp: 24 layers, 768 wide, 1536 channels, state 16, random weights, a vocabulary of 4,096. Prints
seconds, and multiples of P, the forward pass's own projections by PyTorch's own product in the same run. docs/side-by-side.md says how the
library compares. Needs PyTorch with a fast matrix product (Debian: python3-torch and libopenblas0).

    python3 benchmarks/side_by_side.py --tokens 512
"""

import argparse
import statistics
import time

import torch
import torch.nn.functional as F

WIDTH, CHANNELS, STATE, RANK, TAPS, VOCABULARY = 768, 1536, 16, 48, 4, 4096


def linear_weight(outputs, inputs):
    return torch.randn(outputs, inputs) / inputs**0.5


class Layer:
    """One Mamba layer, by equations (2) and (3) of arXiv 2312.00752."""

    def __init__(self):
        self.norm = torch.ones(WIDTH)
        self.in_proj = linear_weight(2 * CHANNELS, WIDTH)
        self.taps = torch.randn(CHANNELS, 1, TAPS) / TAPS**0.5
        self.tap_bias = torch.zeros(CHANNELS)
        self.x_proj = linear_weight(RANK + 2 * STATE, CHANNELS)
        self.dt_proj = linear_weight(CHANNELS, RANK)
        self.dt_bias = torch.linspace(-6.9, -2.3, CHANNELS)
        self.rates = -torch.arange(1, STATE + 1).float().repeat(CHANNELS, 1)
        self.skip = torch.ones(CHANNELS)
        self.out_proj = linear_weight(WIDTH, CHANNELS)

    def projections(self):
        return [self.in_proj, self.x_proj, self.dt_proj, self.out_proj]

    def gates(self, u, held):
        """x behind convolution and activation, gate, time steps, B and C; where `held`, as relevance holds them."""
        x, z = F.linear(u, self.in_proj).chunk(2, dim=-1)
        c = F.conv1d(x.t().unsqueeze(0), self.taps, self.tap_bias, padding=TAPS - 1, groups=CHANNELS)[0, :, : u.shape[0]].t()
        hold = (lambda number: number.detach()) if held else (lambda number: number)
        x = c * hold(torch.sigmoid(c))
        dt, B, C = F.linear(x, self.x_proj).split([RANK, STATE, STATE], dim=-1)
        dt = F.softplus(F.linear(dt, self.dt_proj) + self.dt_bias)
        gate = F.silu(z)
        return x, gate, hold(dt), hold(B), hold(C), hold

    def forward(self, residual, scan, held=False):
        scale = torch.rsqrt(residual.pow(2).mean(-1, keepdim=True) + 1e-5)
        u = residual * (scale.detach() if held else scale) * self.norm
        x, gate, dt, B, C, hold = self.gates(u, held)
        y = scan(x, dt, B, C, self.rates) + self.skip * x
        y = 0.5 * y * hold(gate) + 0.5 * hold(y) * gate if held else y * gate
        return residual + F.linear(y, self.out_proj)


def sequential(x, dt, B, C, rates):
    """Token by token, as transformers does it without a GPU's kernel."""
    decay = torch.exp(dt.unsqueeze(-1) * rates)
    write = (dt * x).unsqueeze(-1) * B.unsqueeze(1)
    state, rows = torch.zeros(CHANNELS, STATE), []
    for t in range(x.shape[0]):
        state = decay[t] * state + write[t]
        rows.append(state @ C[t])
    return torch.stack(rows)


def parallel(x, dt, B, C, rates):
    """The scan by doubling: log2(tokens) rounds over the whole sequence."""
    decay = torch.exp(dt.unsqueeze(-1) * rates)
    state = (dt * x).unsqueeze(-1) * B.unsqueeze(1)
    reach = 1
    while reach < x.shape[0]:
        state = torch.cat([state[:reach], state[reach:] + decay[reach:] * state[:-reach]])
        decay = torch.cat([decay[:reach], decay[reach:] * decay[:-reach]])
        reach *= 2
    return torch.einsum("lcn,ln->lc", state, C)


def matrices(layer, residual):
    """Every channel's matrix of the recurrence in one layer, without convolution, gate and activation: 64 channels at a time."""
    scale = torch.rsqrt(residual.pow(2).mean(-1, keepdim=True) + 1e-5)
    _, _, dt, B, C, _ = layer.gates(residual * scale, False)
    tokens = residual.shape[0]
    reach = torch.cumsum(dt, 0).t()  # (channels, tokens)
    causal = torch.ones(tokens, tokens).tril().bool()
    result = torch.zeros(CHANNELS, tokens, tokens)
    for first in range(0, CHANNELS, 64):
        some = slice(first, first + 64)
        span = (reach[some].unsqueeze(-1) - reach[some].unsqueeze(-2)).masked_fill(~causal, float("inf"))
        for n in range(STATE):
            result[some] += torch.exp(layer.rates[some, n, None, None] * span) * (C[:, None, n] * B[None, :, n])
        result[some] *= dt.t()[some].unsqueeze(-2)
    return result


class Model:
    def __init__(self, layers):
        self.embedding = torch.randn(VOCABULARY, WIDTH)
        self.layers = [Layer() for _ in range(layers)]

    def logit(self, embeddings, scan, held=False):
        residual = embeddings
        for layer in self.layers:
            residual = layer.forward(residual, scan, held)
        last = residual[-1]
        scale = torch.rsqrt(last.pow(2).mean() + 1e-5)
        return last * (scale.detach() if held else scale) @ self.embedding[7]

    def explain(self, ids, scan, held):
        """gradient x input, or with `held` relevance by detached autograd."""
        embeddings = self.embedding[ids].clone().requires_grad_(True)
        self.logit(embeddings, scan, held).backward()
        return (embeddings * embeddings.grad).sum(-1)

    def project(self, tokens):
        for layer in self.layers:
            for weight in layer.projections():
                F.linear(torch.ones(tokens, weight.shape[1]), weight)


def seconds(work, rounds):
    times = []
    for _ in range(rounds):
        begin = time.perf_counter()
        work()
        times.append(time.perf_counter() - begin)
    return statistics.median(times)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, default=512, help="tokens of the text (512)")
    parser.add_argument("--layers", type=int, default=24, help="layers of the model (24)")
    parser.add_argument("--threads", type=int, default=1, help="threads of PyTorch (1)")
    parser.add_argument("--rounds", type=int, default=3, help="medians over so many rounds (3)")
    options = parser.parse_args()
    if min(options.tokens, options.layers, options.threads, options.rounds) < 1:
        parser.error("every number must be at least 1")
    torch.set_num_threads(options.threads)
    torch.manual_seed(1)
    model = Model(options.layers)
    ids = torch.randint(VOCABULARY, (options.tokens,))

    with torch.no_grad():
        short = model.embedding[ids[:32]]
        apart = (model.logit(short, sequential) - model.logit(short, parallel)).abs().item()
        assert apart < 1e-3 * max(1.0, model.logit(short, sequential).abs().item()), f"the two scans differ by {apart}"
        projections = seconds(lambda: model.project(options.tokens), options.rounds)
    print(f"P, the projections of a forward pass over {options.tokens} tokens: {projections:.2f} s, {options.threads} thread(s), PyTorch {torch.__version__}\n")
    print("| work | scan | seconds | P |\n|---|---|---:|---:|")

    def line(name, scan, work):
        taken = seconds(work, options.rounds)
        print(f"| {name} | {scan} | {taken:.2f} | {taken / projections:.1f} |", flush=True)

    def forward(scan):
        with torch.no_grad():
            return model.logit(model.embedding[ids], scan)

    for name, scan in (("token by token", sequential), ("by doubling", parallel)):
        line("forward", name, lambda: forward(scan))
        line("forward + gradient x input", name, lambda: model.explain(ids, scan, False))
        line("forward + relevance (detached autograd)", name, lambda: model.explain(ids, scan, True))
    with torch.no_grad():
        line("every matrix of one layer, the recurrence alone", "-", lambda: matrices(model.layers[0], model.embedding[ids]))


if __name__ == "__main__":
    main()
