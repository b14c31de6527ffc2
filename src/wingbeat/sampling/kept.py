"""Which tokens each sampler keeps, and how likely it makes them. Ties are always won by the lower id.

Logits here are float32 [N] with a finite largest one and without NaN; weights are float64 [N], what a token is drawn in
proportion to. docs/sampling.md has the formulae and where they come from.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from wingbeat.sampling.masses import depths, exp2_f32, masses, round_to_grain
from wingbeat.sampling.params import SamplingParams

Logits = NDArray[np.float32]
Weights = NDArray[np.float64]


def descending(logits: Logits) -> NDArray[np.intp]:
    """Token ids from the most to the least likely."""
    return np.argsort(-logits, kind="stable")


def tempered(logits: Logits, kept: NDArray[np.bool_], temperature: float) -> Weights:
    """Weights of the kept tokens: `p^(1 / temperature)`."""
    return masses(np.where(kept, logits, np.float32(-np.inf)), temperature)


def standard(logits: Logits, params: SamplingParams) -> Weights:
    """Nucleus: temperature, top_k, top_p of what that left, min_p."""
    mass = masses(logits, params.temperature)
    if params.top_k > 0 or params.top_p < 1.0:
        order = descending(logits)
        if params.top_k > 0:
            mass[order[params.top_k :]] = 0.0
        if params.top_p < 1.0:
            cumulative = np.cumsum(mass[order])
            mass[order[_reached(cumulative, params.top_p * cumulative[-1]) :]] = 0.0
    mass[mass < params.min_p] = 0.0
    return mass


def truncated(logits: Logits, params: SamplingParams) -> Weights:
    """Nucleus in the orders rwkv and ai00: top_p and top_k of the untempered probabilities, min_p, then temperature."""
    mass = masses(logits, 1.0)
    order = descending(logits)
    count = len(logits) if params.top_k <= 0 else params.top_k
    if params.top_p < 1.0:
        cumulative = np.cumsum(mass[order])
        target = params.top_p * cumulative[-1]
        if params.order == "ai00":  # the mass of those before must exceed top_p
            count = min(count, _reached(cumulative, _above(target, cumulative[-1])))
        else:  # those as likely as the last one stay
            last = order[_reached(cumulative, target) - 1]
            count = min(count, int((logits >= logits[last]).sum()))
    kept = np.zeros(len(logits), bool)
    kept[order[:count]] = True
    return tempered(logits, kept & (mass >= params.min_p), params.temperature)


def draw_joint(logits: Logits, params: SamplingParams, random: float) -> int:
    """Nucleus in the order joint, drawn with a `random` number from [0, 1).

    top_k and top_p look at the same tempered probabilities. Of the tokens at the border, all that are as likely as each
    other, only so much is kept that the count is exactly top_k or the mass exactly top_p.
    """
    if params.top_p == 0:
        return int(logits.argmax())
    mass = masses(logits, params.temperature)
    order = descending(logits)
    cumulative = np.cumsum(mass[order])
    target = params.top_p * cumulative[-1] if params.top_p < 1.0 else math.inf
    most = params.top_k if 0 < params.top_k < len(logits) else math.inf
    place = min(_reached(cumulative, target), most) - 1
    if place >= len(logits):  # no border at all
        mass[mass < params.min_p] = 0.0
        return draw(mass, random)
    border = logits[order[int(place)]]
    certain, edge = np.where(logits > border, mass, 0.0), np.flatnonzero(logits == border)
    one = float(mass[edge[0]])
    part = min(len(edge) * one, target - certain.sum(), one * (most - int((logits > border).sum())))
    if one < params.min_p:
        part = 0.0
    certain[certain < params.min_p] = 0.0
    above = float(certain.sum())
    drawn = random * (above + part)
    if drawn < above:
        return int(np.searchsorted(np.cumsum(certain), drawn, side="right"))
    return int(edge[min(len(edge) - 1, int((drawn - above) / part * len(edge)))])


def typical(logits: Logits, params: SamplingParams, tau: float) -> Weights:
    """The tokens whose surprise is nearest to the entropy: at most top_k, until their mass exceeds tau; then
    temperature.

    With a surprise of `log2(total) - depth` the entropy is `log2(total) - mean(depth)`, so the distance of both is that
    of the depth from its mean.
    """
    depth, mass = depths(logits), masses(logits, 1.0)
    total = mass.sum()
    mean = np.float32(round_to_grain(exp2_f32(depth) * depth)[mass > 0].sum() / total)
    order = descending(np.where(mass > 0, -np.abs(depth - mean), np.float32(-np.inf)))
    count = int((mass > 0).sum())
    if params.top_k > 0:
        count = min(count, params.top_k)
    if tau < 1.0:
        count = min(count, _reached(np.cumsum(mass[order]), _above(tau * total, total)))
    kept = np.zeros(len(logits), bool)
    kept[order[:count]] = True
    return tempered(logits, kept, params.temperature)


def mirostat(logits: Logits, mu: float) -> Weights:
    """The tokens up to and with the first whose surprise, in bits, exceeds mu."""
    depth, mass = depths(logits), masses(logits, 1.0)
    count = int((depth >= math.log2(mass.sum()) - mu).sum())
    mass[descending(logits)[count + 1 :]] = 0.0
    return mass


def mirostat_full(logits: Logits, params: SamplingParams, mu: float) -> Weights:
    """The tokens up to the first whose surprise exceeds mu, at least one; of those min_p; then temperature."""
    depth, mass = depths(logits), masses(logits, 1.0)
    count = max(1, int((depth >= math.log2(mass.sum()) - mu).sum()))
    kept = mass > 0
    kept[descending(logits)[count:]] = False
    if params.min_p < 1.0:
        kept &= mass >= params.min_p
    return tempered(logits, kept, params.temperature)


def draw(weights: Weights, random: float) -> int:
    """The token at which the cumulative weights exceed `random` of their sum."""
    cumulative = np.cumsum(weights)
    return int(np.searchsorted(cumulative, random * cumulative[-1], side="right"))


def _reached(cumulative: Weights, target: float) -> int:
    """How many tokens it takes to reach `target`."""
    return int(np.searchsorted(cumulative, target, side="left")) + 1


def _above(target: float, total: float) -> float:
    """What sums reach that exceed `target`, as far as there is more."""
    return min(math.nextafter(target, math.inf), total)
