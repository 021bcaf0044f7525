#!/usr/bin/env python3
"""A Mamba of 130 million parameters explained by `explain` and by PyTorch, the way people do it there, on the same weights.

Writes a random checkpoint (24 layers, 768 wide, 1536 channels, state 16, a vocabulary of 4,096), runs both in turn, holds the scores of
both against each other, and prints a table of seconds, medians. PyTorch works in memory; `explain` is timed as a whole program, with
reading the file and writing its answer. docs/side-by-side.md has the table and what it means.

With --mamba-py also mamba.py's parallel scan and its autograd (github.com/alxndrTL/mamba.py), from a checkout of it.

Needs PyTorch with a fast matrix product (Debian: python3-torch and libopenblas0) and an optimised build of the programs:

    bash examples/run.sh
    python3 benchmarks/side_by_side.py --tokens 512
"""

import argparse
import json
import os
import pathlib
import statistics
import struct
import subprocess
import sys
import tempfile
import time

import torch
import torch.nn.functional as F

WIDTH, CHANNELS, STATE, RANK, TAPS, VOCABULARY, TARGET = 768, 1536, 16, 48, 4, 4096, 7


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

    def tensors(self):
        return {
            "norm.weight": self.norm,
            "mixer.in_proj.weight": self.in_proj,
            "mixer.conv1d.weight": self.taps,
            "mixer.conv1d.bias": self.tap_bias,
            "mixer.x_proj.weight": self.x_proj,
            "mixer.dt_proj.weight": self.dt_proj,
            "mixer.dt_proj.bias": self.dt_bias,
            "mixer.A_log": torch.log(-self.rates),
            "mixer.D": self.skip,
            "mixer.out_proj.weight": self.out_proj,
        }

    def gates(self, u, held):
        """x behind convolution and activation, gate, time steps, B and C; where `held`, as relevance holds them."""
        x, z = F.linear(u, self.in_proj).chunk(2, dim=-1)
        c = F.conv1d(x.t().unsqueeze(0), self.taps, self.tap_bias, padding=TAPS - 1, groups=CHANNELS)[0, :, : u.shape[0]].t()
        hold = (lambda number: number.detach()) if held else (lambda number: number)
        x = c * hold(torch.sigmoid(c))
        dt, B, C = F.linear(x, self.x_proj).split([RANK, STATE, STATE], dim=-1)
        dt = F.softplus(F.linear(dt, self.dt_proj) + self.dt_bias)
        gate = z * hold(torch.sigmoid(z))
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
    for now, written, read in zip(decay.unbind(0), write.unbind(0), C.unbind(0)):  # not by index: its gradient is as large as the whole
        state = now * state + written
        rows.append(state @ read)
    return torch.stack(rows)


class Model:
    def __init__(self, layers):
        self.embedding = torch.randn(VOCABULARY, WIDTH)
        self.layers = [Layer() for _ in range(layers)]

    def logit(self, embeddings, scan, held=False):
        """`scan` runs a recurrence; of mamba.py all layers."""
        residual = embeddings
        if isinstance(scan, torch.nn.Module):
            residual = scan(residual.unsqueeze(0)).squeeze(0)
        else:
            for layer in self.layers:
                residual = layer.forward(residual, scan, held)
        last = residual[-1]
        scale = torch.rsqrt(last.pow(2).mean() + 1e-5)
        return last * (scale.detach() if held else scale) @ self.embedding[TARGET]

    def explain(self, ids, scan, held):
        """gradient x input, or with `held` relevance by detached autograd."""
        embeddings = self.embedding[ids].clone().requires_grad_(True)
        self.logit(embeddings, scan, held).backward()
        return (embeddings * embeddings.grad).sum(-1)

    def as_mamba_py(self, checkout):
        """The same layers, of the same weights, by mamba.py."""
        sys.path.insert(0, str(checkout))
        from mambapy.mamba import Mamba, MambaConfig
        layers = Mamba(MambaConfig(d_model=WIDTH, n_layers=len(self.layers), dt_rank=RANK, d_state=STATE, d_conv=TAPS))
        layers.load_state_dict({f"layers.{number}.{name}": tensor for number, layer in enumerate(self.layers)
                                for name, tensor in layer.tensors().items()})
        return layers.requires_grad_(False)

    def project(self, tokens):
        for layer in self.layers:
            for weight in (layer.in_proj, layer.x_proj, layer.dt_proj, layer.out_proj):
                F.linear(torch.ones(tokens, weight.shape[1]), weight)

    def save(self, folder):
        """As Hugging Face writes it: config.json and model.safetensors (8 bytes of header length, the header in JSON, the numbers)."""
        tensors = {"backbone.embeddings.weight": self.embedding, "backbone.norm_f.weight": torch.ones(WIDTH)}
        for number, layer in enumerate(self.layers):
            tensors.update({f"backbone.layers.{number}.{name}": tensor for name, tensor in layer.tensors().items()})
        header, end = {}, 0
        for name, tensor in tensors.items():
            begin, end = end, end + 4 * tensor.numel()
            header[name] = {"dtype": "F32", "shape": list(tensor.shape), "data_offsets": [begin, end]}
        text = json.dumps(header).encode()
        with open(folder / "model.safetensors", "wb") as file:
            file.write(struct.pack("<Q", len(text)) + text)
            for tensor in tensors.values():
                file.write(tensor.contiguous().numpy().tobytes())
        (folder / "config.json").write_text(json.dumps({
            "model_type": "mamba", "architectures": ["MambaForCausalLM"], "vocab_size": VOCABULARY, "hidden_size": WIDTH,
            "intermediate_size": CHANNELS, "state_size": STATE, "time_step_rank": RANK, "conv_kernel": TAPS, "layer_norm_epsilon": 1e-5,
            "num_hidden_layers": len(self.layers), "tie_word_embeddings": True, "use_bias": False, "use_conv_bias": True}))


def run_program(options, folder, ids, method):
    """Seconds and scores of `explain` for the logit of TARGET at the last token."""
    out = folder / "why.json"
    command = [options.program, "--model", folder, "--tokens", f"@{folder}/ids.txt", "--method", method, "--target", str(TARGET),
               "--threads", str(options.threads), "--out", out]
    begin = time.perf_counter()
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True)
    taken = time.perf_counter() - begin
    if done.returncode != 0:
        raise SystemExit(f"{options.program} --method {method}: {done.stderr.strip()}")
    return taken, torch.tensor(json.loads(out.read_text())["scores"])


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, default=512, help="tokens of the text (512)")
    parser.add_argument("--layers", type=int, default=24, help="layers of the model (24)")
    parser.add_argument("--threads", type=int, default=1, help="threads of both (1)")
    parser.add_argument("--rounds", type=int, default=3, help="medians over so many rounds (3)")
    parser.add_argument("--mamba-py", type=pathlib.Path, metavar="DIR", help="a checkout of mamba.py, to be run as well")
    parser.add_argument("--program", default="build/examples/examples/explain", help="an optimised build of explain (%(default)s)")
    options = parser.parse_args()
    if min(options.tokens, options.layers, options.threads, options.rounds) < 1:
        parser.error("every number must be at least 1")
    if not pathlib.Path(options.program).exists():
        parser.error(f"there is no {options.program}: bash examples/run.sh builds it, --program names another")
    threads = str(options.threads)
    if os.environ.get("OPENBLAS_NUM_THREADS") != threads:  # read when the library is loaded, and it knows nothing of PyTorch's own number
        os.environ["OPENBLAS_NUM_THREADS"] = os.environ["OMP_NUM_THREADS"] = threads
        os.execv(sys.executable, [sys.executable, *sys.argv])
    torch.set_num_threads(options.threads)
    torch.manual_seed(1)
    model = Model(options.layers)
    ids = torch.randint(VOCABULARY, (options.tokens,))

    def forward(scan):
        with torch.no_grad():
            model.logit(model.embedding[ids], scan)

    times = []
    for _ in range(options.rounds + 1):
        begin = time.perf_counter()
        model.project(options.tokens)
        times.append(time.perf_counter() - begin)
    projections = statistics.median(times[1:])

    # work, the method of `explain` that does it (random scores cost nothing beside the forward pass), the same in PyTorch
    rows = [("forward, one token's logit", "random", forward),
            ("forward + gradient x input", "gradient-x-input", lambda scan: model.explain(ids, scan, False)),
            ("forward + relevance (in PyTorch by autograd with detached gates)", "relevance", lambda scan: model.explain(ids, scan, True))]
    scans = {"PyTorch, token by token": sequential}
    if options.mamba_py:
        scans["mamba.py, parallel scan"] = model.as_mamba_py(options.mamba_py)
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        model.save(folder)
        (folder / "ids.txt").write_text(" ".join(str(token) for token in ids.tolist()))
        print(f"{options.tokens} tokens, {options.layers} layers, {options.threads} thread(s) each, PyTorch {torch.__version__}; its projections "
              f"alone {projections:.2f} s. Seconds, and how many times those of `explain`:\n")
        print("| work | `explain` | " + " | ".join(scans) + " | scores differ by |\n|---|" + "---:|" * (len(scans) + 2))
        for work, method, in_torch in rows:
            ours, theirs, apart = [], {scan: [] for scan in scans}, None
            for _ in range(options.rounds):
                taken, scores = run_program(options, folder, ids, method)
                ours.append(taken)
                for scan, function in scans.items():
                    if method == "relevance" and isinstance(function, torch.nn.Module):
                        continue  # its gates cannot be held from outside
                    begin = time.perf_counter()
                    result = in_torch(function)
                    theirs[scan].append(time.perf_counter() - begin)
                    if result is not None:
                        differs = ((result.detach() - scores).abs().max() / scores.abs().max()).item()
                        if not differs < 1e-3:
                            raise SystemExit(f"{work}, {scan}: scores differ by {differs:.0e} of the largest, expected less than 1e-3")
                        apart = max(apart or 0.0, differs)
            taken = statistics.median(ours)
            cells = [f"{statistics.median(times):.2f} ({statistics.median(times) / taken:.1f} x)" if times else "-" for times in theirs.values()]
            print(f"| {work} | {taken:.2f} | " + " | ".join(cells) + (f" | {apart:.0e} |" if apart is not None else " | - |"), flush=True)


if __name__ == "__main__":
    main()
