"""RWKV-7 in PyTorch for training: official parameter names, whole sequences, chunked recurrence in float32.

Per head the state S is (value, key) and one token does, with a = -kk, b = kk * rate,

    S <- S diag(w) + (S a) b^T + v k^T,     y = S r.

Inside a chunk of C tokens this is a unit lower-triangular system; between chunks it is S <- S M + K with one N x N
matrix M and K a chunk, so the only sequential part of the forward pass is one batched product a chunk.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

HEAD = 64
DECAY_LIMIT = math.exp(-0.5)  # log w lies in (-DECAY_LIMIT, 0)
GROUP_NORM_EPS = 64e-5


@dataclass(frozen=True)
class Shape:
    """Sizes of a model. `ranks` are the low-rank widths of decay, rate, value residual and gate."""

    vocab: int
    width: int = 256
    layers: int = 4
    ranks: tuple[int, int, int, int] = (32, 32, 16, 48)

    def as_dict(self) -> dict[str, object]:
        return asdict(self)


class TimeMix(nn.Module):
    """The recurrent half of a layer."""

    def __init__(self, shape: Shape, layer: int) -> None:
        super().__init__()
        self.layer = layer
        width, (rank_w, rank_a, rank_v, rank_g) = shape.width, shape.ranks
        depth = layer / max(1, shape.layers - 1)  # 0 at the first layer, 1 at the last
        fade = 1 - layer / shape.layers
        ramp = torch.arange(width) / width
        line = torch.linspace(-0.5, 0.5, width)
        inside = torch.linspace(-1, 1, HEAD).repeat(width // HEAD)  # spread within every head

        def mix(power: float) -> nn.Parameter:
            return _row(1 - ramp ** (power * fade))

        self.x_r, self.x_w, self.x_k = mix(0.2), mix(0.9), mix(0.7)
        self.x_v, self.x_a, self.x_g = mix(0.7), mix(0.9), mix(0.2)
        speed = -6.5 + 5 * torch.linspace(0, 1, width) ** (0.85 + depth**0.5)
        self.w0 = _row(speed + 1.5 * inside * inside.abs())
        self.w1, self.w2 = _low_rank(width, rank_w, 0.1)
        self.a0 = _row(-0.19 + 0.3 * inside * inside.abs() + 0.4 * line)
        self.a1, self.a2 = _low_rank(width, rank_a, 0.1)
        if layer > 0:
            self.v0 = _row(0.73 - 0.4 * line)
            self.v1, self.v2 = _low_rank(width, rank_v, 0.1)
        self.g1, self.g2 = _low_rank(width, rank_g, 1.0)
        self.k_k, self.k_a = _row(0.71 - 0.1 * line), _row(torch.full((width,), 1.02))
        self.r_k = nn.Parameter(torch.full((width // HEAD, HEAD), -0.04))
        bound = width**-0.5
        self.receptance = _linear(width, width, 0.5 * bound)
        self.key = _linear(width, width, 0.05 * bound)
        self.value = _linear(width, width, 0.5 * bound)
        self.output = _linear(width, width, 0.0)
        self.ln_x = nn.GroupNorm(width // HEAD, width, eps=GROUP_NORM_EPS)
        nn.init.constant_(self.ln_x.weight, ((1 + layer) / shape.layers) ** 0.7)

    def forward(self, z: Tensor, v_first: Tensor | None, chunk: int) -> tuple[Tensor, Tensor]:
        """z: the layer's normalised input, float32 [B, T, D]. Returns the layer's output and layer 0's values."""
        batch, length, width = z.shape
        heads = (batch, length, width // HEAD, HEAD)
        dz = functional.pad(z, (0, 0, 1, -1)) - z
        r = self.receptance(torch.addcmul(z, dz, self.x_r))
        k = self.key(torch.addcmul(z, dz, self.x_k))
        in_v = torch.addcmul(z, dz, self.x_v)
        v = self.value(in_v)
        log_w = -DECAY_LIMIT * torch.sigmoid(self.w0 + torch.tanh(torch.addcmul(z, dz, self.x_w) @ self.w1) @ self.w2)
        rate = torch.sigmoid(self.a0 + (torch.addcmul(z, dz, self.x_a) @ self.a1) @ self.a2)
        gate = torch.sigmoid(torch.addcmul(z, dz, self.x_g) @ self.g1) @ self.g2
        kk = functional.normalize((k * self.k_k).view(heads), dim=-1, eps=1e-12)
        k = k * (1 + (rate - 1) * self.k_a)
        if v_first is None:
            v_first = v
        else:
            v = v + (v_first - v) * torch.sigmoid(self.v0 + (in_v @ self.v1) @ self.v2)
        r, k, v_heads = r.view(heads), k.view(heads), v.view(heads)
        y = wkv_chunked(r, log_w.view(heads), k, v_heads, -kk, kk * rate.view(heads), chunk)
        y = self.ln_x(y.reshape(batch * length, width)).view(batch, length, width)
        bonus = (r * k * self.r_k).sum(-1, keepdim=True) * v_heads
        return self.output((y + bonus.reshape(batch, length, width)) * gate), v_first


class ChannelMix(nn.Module):
    """The feed-forward half of a layer."""

    def __init__(self, shape: Shape, layer: int) -> None:
        super().__init__()
        width = shape.width
        self.x_k = _row(1 - (torch.arange(width) / width) ** ((1 - layer / shape.layers) ** 4))
        self.key = _linear(width, 4 * width, 0.5 * width**-0.5)
        self.value = _linear(4 * width, width, 0.0)

    def forward(self, z: Tensor) -> Tensor:
        dz = functional.pad(z, (0, 0, 1, -1)) - z
        return self.value(torch.relu(self.key(torch.addcmul(z, dz, self.x_k))) ** 2)


class Block(nn.Module):
    def __init__(self, shape: Shape, layer: int) -> None:
        super().__init__()
        if layer == 0:
            self.ln0 = nn.LayerNorm(shape.width)
        self.ln1, self.ln2 = nn.LayerNorm(shape.width), nn.LayerNorm(shape.width)
        self.att, self.ffn = TimeMix(shape, layer), ChannelMix(shape, layer)


class RWKV7(nn.Module):
    """A language model over whole sequences that start from the empty state."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.shape = shape
        self.emb = nn.Embedding(shape.vocab, shape.width)
        nn.init.uniform_(self.emb.weight, -1e-4, 1e-4)
        self.blocks = nn.ModuleList(Block(shape, layer) for layer in range(shape.layers))
        self.ln_out = nn.LayerNorm(shape.width)
        self.head = nn.Linear(shape.width, shape.vocab, bias=False)
        nn.init.orthogonal_(self.head.weight, gain=0.5 * math.sqrt(shape.vocab / shape.width))

    def forward(self, tokens: Tensor, chunk: int = 16) -> Tensor:
        """tokens: int64 [B, T], T a multiple of chunk (at most 64). Returns logits float32 [B, T, V]."""
        x = self.blocks[0].ln0(self.emb(tokens))
        v_first: Tensor | None = None
        for block in self.blocks:
            out, v_first = block.att(block.ln1(x), v_first, chunk)
            x = x + out
            x = x + block.ffn(block.ln2(x))
        return self.head(self.ln_out(x))

    @torch.no_grad()
    def next_logits(self, tokens: list[int]) -> Tensor:
        """Logits float32 [V] after a prompt; recomputes the whole prompt (for samples, not for serving)."""
        padded = tokens + [0] * (-len(tokens) % 16)
        return self(torch.tensor([padded]))[0, len(tokens) - 1]


def wkv_chunked(r: Tensor, log_w: Tensor, k: Tensor, v: Tensor, a: Tensor, b: Tensor, chunk: int) -> Tensor:
    """The recurrence of this file's head over float32 [B, T, H, N] arrays, in chunks. Returns y [B, T, H, N]."""
    batch, length, heads, size = r.shape

    def split(x: Tensor) -> Tensor:
        return x.view(batch, length // chunk, chunk, heads, size).permute(1, 0, 3, 2, 4).reshape(-1, chunk, size)

    r, log_w, k, v, a, b = (split(x) for x in (r, log_w, k, v, a, b))  # [chunks * B * H, C, N]
    decay = log_w.cumsum(1)
    grow = torch.exp(-decay)
    total = torch.exp(decay[:, -1:])
    rt, kt, bt = r / grow, k * grow, b * grow
    at = a * torch.exp(decay - log_w)
    tail = torch.cat((bt, kt), 1).transpose(1, 2)  # [., N, 2C]
    lower = torch.ones(chunk, chunk, device=r.device).tril()
    a_b, a_k = (at @ tail * (lower - torch.eye(chunk, device=r.device)).repeat(1, 2)).split(chunk, 2)
    r_b, r_k = (rt @ tail * lower.repeat(1, 2)).split(chunk, 2)
    solved = _unit_lower_inverse(a_b) @ torch.cat((at, a_k @ v), 2)
    from_state, own = solved.split(size, 2)  # U = from_state S^T + own
    move = (torch.eye(size, device=r.device) + from_state.transpose(1, 2) @ bt) * total
    add = (own.transpose(1, 2) @ bt + v.transpose(1, 2) @ kt) * total
    rows = batch * heads
    state = torch.zeros(rows, size, size, device=r.device)
    before = []
    for move_c, add_c in zip(move.split(rows), add.split(rows), strict=True):
        before.append(state)
        state = torch.baddbmm(add_c, state, move_c)
    read = (rt + r_b @ from_state) @ torch.cat(before).transpose(1, 2)
    y = read + r_b @ own + r_k @ v
    return y.view(-1, batch, heads, chunk, size).permute(1, 0, 3, 2, 4).reshape(batch, length, heads, size)


def wkv_sequential(r: Tensor, log_w: Tensor, k: Tensor, v: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """The same, token by token: the truth that `wkv_chunked` is checked against."""
    batch, length, heads, size = r.shape
    state = torch.zeros(batch, heads, size, size)
    out = []
    for t in range(length):
        removed = (state @ a[:, t, :, :, None]) @ b[:, t, :, None, :]
        state = state * torch.exp(log_w[:, t, :, None, :]) + removed + v[:, t, :, :, None] @ k[:, t, :, None, :]
        out.append((state @ r[:, t, :, :, None]).squeeze(-1))
    return torch.stack(out, 1)


def _unit_lower_inverse(strict: Tensor) -> Tensor:
    """(I - A)^-1 for strictly lower-triangular A [., C, C]: (I + A)(I + A^2)(I + A^4)... ends since A^C = 0."""
    eye = torch.eye(strict.shape[-1], device=strict.device)
    inverse, power = eye + strict, strict
    for _ in range(math.ceil(math.log2(strict.shape[-1])) - 1):
        power = power @ power
        inverse = inverse + inverse @ power
    return inverse


def _row(values: Tensor) -> nn.Parameter:
    return nn.Parameter(values.view(1, 1, -1).clone())


def _low_rank(width: int, rank: int, gain: float) -> tuple[nn.Parameter, nn.Parameter]:
    return nn.Parameter(torch.zeros(width, rank)), nn.Parameter(nn.init.orthogonal_(torch.empty(rank, width), gain))


def _linear(inputs: int, outputs: int, bound: float) -> nn.Linear:
    layer = nn.Linear(inputs, outputs, bias=False)
    nn.init.uniform_(layer.weight, -bound, bound)
    return layer
