"""Which tokenizer a model has: told by the user, by files beside the model, by its metadata or by its rows."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from wingbeat.text.bpe import BpeTokenizer
from wingbeat.text.codes import CodeTokenizer
from wingbeat.text.midi import MidiTokenizer
from wingbeat.text.tokenizer import Tokenizer
from wingbeat.text.vocab import VocabError, default_vocab_path, find_vocab, own_vocab, packaged_file
from wingbeat.text.world import WorldTokenizer

METADATA_KEY = "wingbeat.tokenizer"
PILE_NAME = "20B_tokenizer.json"
NAMES = ("world", "20b", "midi", "piano", "abc", "bytes")
"""Tokenizers that can be asked for without a file."""

_NAME_IT = "name its tokenizer (--tokenizer FILE, in Python LLM(..., tokenizer=...))"
_FETCH = (
    f"`wingbeat pull {PILE_NAME}` fetches it; or put {PILE_NAME} beside the model, which is tokenizer.json of "
    "EleutherAI/gpt-neox-20b on Hugging Face"
)
_MAX_PADDING = 512  # rows that a model may have beyond its vocabulary, when the two are matched by guess
_ROWS: Mapping[str, range] = {
    "world": range(65530, 65537),  # ids go up to 65529; checkpoints pad to 65536
    "20b": range(50277, 50305),  # the Pile models have 50277 rows; some tools pad to 50304
    "midi": range(20096, 20097),
    "piano": range(2176, 2177),
    "bytes": range(256, 257),
    "abc": range(128, 130),
}


def kind_of(rows: int) -> str | None:
    """The kind of tokenizer that a model with so many rows was trained with, as far as they tell."""
    return next((kind for kind, sizes in _ROWS.items() if rows in sizes), None)


def tokenizer_for(
    model_path: str | Path,
    rows: int,
    override: str | Path | None = None,
    metadata: Mapping[str, str] | None = None,
    carried: Callable[[], Mapping[int, bytes]] | None = None,
    models_folder: str | Path | None = None,
) -> Tokenizer | None:
    """The tokenizer of a model whose logits have `rows` rows, or None when no vocabulary fits.

    In this order: `override`, one of `NAMES` or a file; the file that carries the model's own name; what the model's
    metadata names under "wingbeat.tokenizer"; `carried`, the World tokens by id that the model's file holds; a
    vocabulary beside the model that fits its rows; what the rows tell. The 20B tokenizer of the Pile models is also
    looked for in `models_folder`.
    Raises VocabError when what was named, or carries the model's own name, is of no use or has ids beyond the model's
    rows, and OSError for a file that cannot be read.
    """
    path = Path(model_path)
    shared = None if models_folder is None else Path(models_folder)
    if named := override or _own_file(path):
        return _fitting(_opened(named, path, shared), rows, named)
    if told := (metadata or {}).get(METADATA_KEY):  # by strangers: it chooses a tokenizer, and opens no file
        known = _by_name(told, path, shared)
        if known is None:
            raise VocabError(f"the model's metadata name an unknown tokenizer, {told!r:.60}: {_NAME_IT}")
        return _fitting(known, rows, told)
    if carried is not None and (tokens := carried()):
        return _fitting(WorldTokenizer(path, tokens), rows, f"the vocabulary in {path}")
    for make in _guesses(path, shared, rows):
        tokenizer = make()
        if tokenizer is not None and tokenizer.vocab_size <= rows <= tokenizer.vocab_size + _MAX_PADDING:
            return tokenizer
    return None


def advice(rows: int) -> str:
    """What to do about a model with so many rows for which there is no tokenizer."""
    if kind_of(rows) == "20b":
        return f"it is one of the Pile models, and its tokenizer is not here: {_FETCH}"
    return f"none fits its {rows} rows; {_NAME_IT}, or pass token ids"


def _opened(named: str | Path, model_path: Path, shared: Path | None) -> Tokenizer:
    if (known := _by_name(str(named), model_path, shared)) is not None:
        return known
    path = Path(named).expanduser()
    if not path.is_file():
        raise VocabError(f"there is no tokenizer {str(named)!r}: name a file, or one of {', '.join(NAMES)}")
    with path.open("rb") as file:
        is_json = file.read(64).lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"{")
    return BpeTokenizer(path) if is_json else WorldTokenizer(path)


def _by_name(name: str, model_path: Path, shared: Path | None) -> Tokenizer | None:
    match name.lower():
        case "world":
            return WorldTokenizer(default_vocab_path())
        case "20b":
            return BpeTokenizer(_pile_file(model_path, shared))
        case "midi" | "piano" as kind:
            return MidiTokenizer(kind)
        case "abc" | "bytes" as kind:
            return CodeTokenizer(kind)
    return None


def _fitting(tokenizer: Tokenizer, rows: int, named: str | Path) -> Tokenizer:
    if tokenizer.vocab_size > rows:
        raise VocabError(
            f"{named} has token ids up to {tokenizer.vocab_size - 1}, but the model has only {rows} rows: "
            "it belongs to another model"
        )
    return tokenizer


def _guesses(model_path: Path, shared: Path | None, rows: int) -> Iterator[Callable[[], Tokenizer | None]]:
    """Ways to a tokenizer, the likeliest first."""
    beside = find_vocab(model_path)
    if beside is not None:
        yield lambda: WorldTokenizer(beside)
    kind = kind_of(rows)
    if kind == "20b" and (pile := _find_pile_file(model_path, shared)):
        yield lambda: BpeTokenizer(pile)
    general = _folder(model_path) / "tokenizer.json"
    if general.is_file():
        yield lambda: _usable(general)
    if kind is not None and kind != "20b":
        yield lambda: _by_name(kind, model_path, shared)


def _usable(path: Path) -> Tokenizer | None:
    try:
        return BpeTokenizer(path)
    except (VocabError, OSError):  # nobody named it, and it may be of another model
        return None


def _own_file(model_path: Path) -> Path | None:
    """`<model stem>.vocab.txt` or `<model stem>.tokenizer.json` beside the model file, or None."""
    path = model_path.with_name(f"{model_path.stem}.tokenizer.json")
    return own_vocab(model_path) or (path if not model_path.is_dir() and path.is_file() else None)


def _pile_file(model_path: Path, shared: Path | None) -> Path:
    path = _find_pile_file(model_path, shared)
    if path is None:
        raise VocabError(f"{PILE_NAME} was not found: {_FETCH}")
    return path


def _find_pile_file(model_path: Path, shared: Path | None) -> Path | None:
    """Beside the model, in the folder of all models, or in an installed package."""
    folders = (_folder(model_path), *(() if shared is None else (shared,)))
    return next((path for each in folders if (path := each / PILE_NAME).is_file()), packaged_file(PILE_NAME))


def _folder(model_path: Path) -> Path:
    return model_path if model_path.is_dir() else model_path.parent
