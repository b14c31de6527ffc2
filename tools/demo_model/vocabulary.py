"""Cut the World vocabulary down to the tokens that the demo model's corpus uses most."""

from __future__ import annotations

import random
from collections import Counter
from pathlib import Path

import corpus as corpora

from wingbeat.text.vocab import default_vocab_path, read_vocab
from wingbeat.text.world import WorldTokenizer

FIXED = {*range(1, 257), 261}  # World's single bytes and the blank line keep their ids; 0 is the end of text
_LABELS = (b"User", b"Assistant", b"System", b"English", b"Chinese")


def cut(corpus: corpora.Corpus, rows: int, out: Path, *, draws: int = 40_000) -> None:
    """Write a World-format vocabulary with ids below `rows`, chosen by how many tokens each entry saves."""
    world = read_vocab(default_vocab_path())
    fixed = {token: token_id for token_id, token in world.items() if token_id in FIXED}
    candidates = {token for token in world.values() if token not in fixed and _usable(token)}
    texts = _texts(corpus, draws)
    for size in (16_000, 9_000, 6_000, rows - 1 - len(fixed), rows - 1 - len(fixed)):
        tokenizer = _tokenizer(fixed, sorted(candidates), out)
        counts = Counter(token for text in texts for token in tokenizer.encode(text))
        scores = {token: counts[i] for i, token in enumerate(tokenizer._bytes) if token and token not in fixed}
        shorter = _tokenizer(fixed, [token for token in candidates if len(token) <= 3 or scores[token] > 20], out)
        for token in scores:
            pieces = _pieces(token, shorter)
            scores[token] = scores[token] * (pieces - 1) if token not in _LABELS else 1 << 60
        best = sorted(scores, key=lambda token: (-scores[token], token))[:size]
        candidates = {token for token in best if scores[token] > 0}
    _tokenizer(fixed, sorted(candidates), out)


def _usable(token: bytes) -> bool:
    # No token may join a label's colon or a blank line to its neighbours.
    if b"\n" in token or b":" in token:
        return False
    try:
        text = token.decode()
    except UnicodeDecodeError:
        return False
    return all(char.isascii() or "\u3000" <= char <= "\u9fff" or char in "“”‘’…—·，。！？：；（）" for char in text)


def _texts(corpus: corpora.Corpus, draws: int) -> list[str]:
    rng = random.Random(7)
    weights = {kind: share / 80 for kind, share in corpora.SHARES.items()}
    source = corpora.documents(corpus, weights, rng)
    return [segment for _ in range(draws) for segment in next(source)]


def _pieces(token: bytes, tokenizer: WorldTokenizer) -> int:
    """Into how many tokens the text would fall without this one: greedy from its longest proper prefix on."""
    best = len(token)
    for head in range(len(token) - 1, 0, -1):
        if len(tokenizer.encode_bytes(token[:head])) == 1:
            best = 1 + len(tokenizer.encode_bytes(token[head:]))
            break
    return best


def _tokenizer(fixed: dict[bytes, int], others: list[bytes], path: Path) -> WorldTokenizer:
    """Write fixed tokens at their ids and the others at the free ids in order, and read the file back."""
    free = (i for i in range(257, 1 << 20) if i not in FIXED)
    ids = fixed | dict(zip(others, free, strict=False))
    lines = [
        f"{token_id} {_literal(token)} {len(token)}\n" for token, token_id in sorted(ids.items(), key=lambda x: x[1])
    ]
    path.write_text("".join(lines), "utf-8", newline="\n")
    return WorldTokenizer(path)


def _literal(token: bytes) -> str:
    try:
        return repr(token.decode())
    except UnicodeDecodeError:
        return repr(token)
