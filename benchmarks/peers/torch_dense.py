"""Time RWKV-7 written in plain torch on the CPU: what its matrix products (oneDNN) reach. A line of JSON each figure.

    python benchmarks/peers/torch_dense.py 0.1B.safetensors [--dtype bf16|fp32|int8] [--threads 2]

Batches decode together; a prompt is read by the chunked form of the recurrence (32 tokens at once, as matrix products),
since torch is slow at loops. int8 is torch's dynamic quantisation of every large matrix.
"""

from __future__ import annotations

import argparse

import torch
from checkpoint import read
from common import rate, report
from torch import Tensor, nn
from torch.nn import functional

CHUNK = 32  # products of decays stay far from overflow
FLOATS = {"fp32": torch.float32, "bf16": torch.bfloat16, "int8": torch.float32}


class Matrices(nn.Module):
    """Every large matrix as a Linear, so that torch can quantise them."""

    def __init__(self, tensors: dict[str, Tensor], dtype: torch.dtype) -> None:
        super().__init__()
        self.by_name: dict[str, nn.Linear] = {}
        for name, w in tensors.items():
            if w.dim() == 2 and name.endswith(".weight") and name != "emb.weight":
                linear = nn.Linear(w.shape[1], w.shape[0], bias=False, dtype=dtype)
                linear.weight.data = w.to(dtype)
                self.add_module(name.replace(".", "_"), linear)


class Model:
    def __init__(self, path: str, dtype: str) -> None:
        tensors = {name: t.squeeze() for name, t in read(path).items()}
        self.dtype = FLOATS[dtype]
        self.heads, self.size = tensors["blocks.0.att.r_k"].shape
        self.layers = 1 + max(int(name.split(".")[1]) for name in tensors if name.startswith("blocks."))
        matrices = Matrices(tensors, self.dtype)
        if dtype == "int8":
            matrices = torch.ao.quantization.quantize_dynamic(matrices, {nn.Linear}, torch.qint8)
        self.linear = dict(matrices.named_children())
        self.z = {name: t.to(self.dtype) for name, t in tensors.items() if name.replace(".", "_") not in self.linear}
        norm = (tensors["blocks.0.ln0.weight"].float(), tensors["blocks.0.ln0.bias"].float())
        self.emb = functional.layer_norm(tensors["emb.weight"].float(), norm[0].shape, *norm).to(self.dtype)

    def state(self, batch: int) -> list[list[Tensor]]:
        width = self.heads * self.size
        return [
            [
                torch.zeros(batch, width, dtype=self.dtype),
                torch.zeros(batch, self.heads, self.size, self.size),
                torch.zeros(batch, width, dtype=self.dtype),
            ]
            for _ in range(self.layers)
        ]

    def forward(self, tokens: Tensor, state: list[list[Tensor]]) -> Tensor:
        """tokens [batch, T] to the logits [batch, V] of the last one."""
        x, first = self.emb[tokens], None
        for i in range(self.layers):
            att, first = self.time_mix(f"blocks.{i}.", self.norm(x, f"blocks.{i}.ln1"), first, state[i])
            x = x + att
            x = x + self.channel_mix(f"blocks.{i}.", self.norm(x, f"blocks.{i}.ln2"), state[i])
        return self.matrix("head", self.norm(x[:, -1], "ln_out"))

    def norm(self, x: Tensor, name: str) -> Tensor:
        return functional.layer_norm(x, x.shape[-1:], self.z[name + ".weight"], self.z[name + ".bias"])

    def matrix(self, name: str, x: Tensor) -> Tensor:
        return self.linear[(name + ".weight").replace(".", "_")](x)

    def channel_mix(self, block: str, z: Tensor, state: list[Tensor]) -> Tensor:
        shifted = torch.cat([state[2][:, None], z[:, :-1]], 1)
        state[2] = z[:, -1]
        k = torch.relu(self.matrix(block + "ffn.key", z + (shifted - z) * self.z[block + "ffn.x_k"])) ** 2
        return self.matrix(block + "ffn.value", k)

    def time_mix(self, block: str, z: Tensor, first: Tensor | None, state: list[Tensor]) -> tuple[Tensor, Tensor]:
        att, w = block + "att.", self.z
        shifted = torch.cat([state[0][:, None], z[:, :-1]], 1)
        state[0] = z[:, -1]
        xr, xw, xk, xv, xa, xg = (z + (shifted - z) * w[f"{att}x_{c}"] for c in "rwkvag")
        r, k, v = (self.matrix(att + name, x) for name, x in (("receptance", xr), ("key", xk), ("value", xv)))
        decay = w[att + "w0"] + torch.tanh(xw @ w[att + "w1"]) @ w[att + "w2"]
        log_w = -0.6065306597 * torch.sigmoid(decay.float())
        a = torch.sigmoid(w[att + "a0"] + xa @ w[att + "a1"] @ w[att + "a2"])
        g = torch.sigmoid(xg @ w[att + "g1"]) @ w[att + "g2"]
        heads = (*k.shape[:2], self.heads, self.size)
        kk = functional.normalize((k * w[att + "k_k"]).view(heads).float(), dim=-1, eps=1e-12)
        k = k * (1 + (a - 1) * w[att + "k_a"])
        if first is None:
            first = v
        else:
            v = v + (first - v) * torch.sigmoid(w[att + "v0"] + xv @ w[att + "v1"] @ w[att + "v2"])
        rows = [t.reshape(heads).float() for t in (r, log_w, k, v)] + [-kk, kk * a.view(heads).float()]
        y, state[1] = scan(*rows, state[1])
        y = functional.group_norm(y.flatten(0, 1).flatten(1), self.heads, w[att + "ln_x.weight"].float(),
                         w[att + "ln_x.bias"].float(), 64e-5).view(*k.shape)  # fmt: skip
        bonus = (r * k).view(heads) * w[att + "r_k"]
        y = y.to(self.dtype) + (bonus.sum(-1, keepdim=True) * v.view(heads)).view(k.shape)
        return self.matrix(att + "output", y * g), first


def scan(r: Tensor, log_w: Tensor, k: Tensor, v: Tensor, a: Tensor, b: Tensor, s: Tensor) -> tuple[Tensor, Tensor]:
    """[batch, T, heads, size] through the recurrence; s is [batch, heads, value, key]."""
    if r.shape[1] == 1:
        r, log_w, k, v, a, b = (t[:, 0] for t in (r, log_w, k, v, a, b))
        s = s * log_w.exp()[..., None, :] + (s @ a[..., None]) * b[..., None, :] + v[..., None] * k[..., None, :]
        return (s @ r[..., None]).squeeze(-1)[:, None], s
    out = []
    for start in range(0, r.shape[1], CHUNK):
        y, s = chunk(*(t[:, start : start + CHUNK].transpose(1, 2) for t in (r, log_w, k, v, a, b)), s)
        out.append(y.transpose(1, 2))
    return torch.cat(out, 1), s


def chunk(r: Tensor, log_w: Tensor, k: Tensor, v: Tensor, a: Tensor, b: Tensor, s: Tensor) -> tuple[Tensor, Tensor]:
    """The tokens of a chunk at once: all that they add to one another is a triangular system."""
    p = log_w.cumsum(-2)
    a, r, b, k = a * (p - log_w).exp(), r * p.exp(), b * (-p).exp(), k * (-p).exp()
    system = torch.eye(r.shape[-2]) - (a @ b.mT).tril(-1)
    u = torch.linalg.solve_triangular(system, a @ s.mT + (a @ k.mT).tril(-1) @ v, upper=False, unitriangular=True)
    y = r @ s.mT + (r @ b.mT).tril() @ u + (r @ k.mT).tril() @ v
    return y, (s + u.mT @ b + v.mT @ k) * p[..., -1:, :].exp()


class Decoding:
    """Sequences that go on from their last states."""

    def __init__(self, model: Model, batch: int) -> None:
        self.model, self.state = model, model.state(batch)

    def step(self, tokens: list[int]) -> None:
        self.model.forward(torch.tensor(tokens)[:, None], self.state)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help=".safetensors or .pth")
    parser.add_argument("--dtype", choices=FLOATS, default="bf16")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=1.5, help="time for each figure")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    engine = f"torch {args.dtype}"
    with torch.inference_mode():
        model = Model(args.model, args.dtype)
        for batch in (1, 8, 32, 128):
            report(engine, args.model, f"decode b{batch}", rate(batch, Decoding(model, batch).step, args.seconds))
        for tokens in (512, 1024):
            read_prompt = rate(tokens, lambda ids: model.forward(torch.tensor([ids]), model.state(1)), args.seconds)
            report(engine, args.model, f"prefill {tokens}", read_prompt)


if __name__ == "__main__":
    main()
