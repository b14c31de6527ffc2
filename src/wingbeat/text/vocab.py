"""The World vocabulary file: its format, and where such files are found.

A line is `<id> <Python literal of str or bytes> <length in bytes>`, ended by LF or CRLF. Ids may have gaps; id 0 is the
end of text and has no line; every single byte has a token, so that any text can be encoded.
"""

from __future__ import annotations

import ast
import importlib.util
from pathlib import Path

WORLD_VOCAB_NAME = "rwkv_vocab_v20230424.txt"
MAX_TOKEN_ID = (1 << 20) - 1
_MODEL_SUFFIXES = (".pth", ".safetensors", ".st", ".gguf")


class VocabError(ValueError):
    """A vocabulary file that cannot be used; the message names the file and the line."""


def read_vocab(path: str | Path) -> dict[int, bytes]:
    """Read a World-format vocabulary: token id to the token's bytes, in the file's order.

    Raises VocabError with the number of the line for a malformed one, and OSError when the file cannot be read.
    """
    path = Path(path)
    tokens: dict[int, bytes] = {}
    lines_by_token: dict[bytes, int] = {}
    # Only LF ends a line: literals may hold characters that str.splitlines would break at.
    for number, line in enumerate(path.read_bytes().removeprefix(b"\xef\xbb\xbf").split(b"\n"), 1):
        line = line.removesuffix(b"\r")
        if not line.strip():
            continue
        try:
            token_id, token = _parse_line(line)
            if token_id in tokens:
                raise ValueError(f"id {token_id} is used twice")
            if token in lines_by_token:
                raise ValueError(f"the token {token!r} is already on line {lines_by_token[token]}")
        except ValueError as error:
            raise VocabError(f"{path}, line {number}: {error}") from None
        tokens[token_id] = token
        lines_by_token[token] = number
    missing = [byte for byte in range(256) if bytes([byte]) not in lines_by_token]
    if missing:
        raise VocabError(
            f"{path}: not a complete World-format vocabulary: {len(missing)} of the 256 single bytes have no token "
            f"(the first is 0x{missing[0]:02x})"
        )
    return tokens


def _parse_line(line: bytes) -> tuple[int, bytes]:
    id_text, separator, rest = line.partition(b" ")
    literal, second_separator, length_text = rest.rpartition(b" ")
    if not (separator and second_separator and id_text.isdigit() and length_text.isdigit()):
        raise ValueError(f"expected '<id> <Python string> <length in bytes>', found {_shorten(line)}")
    token_id, length = int(id_text), int(length_text)
    if not 1 <= token_id <= MAX_TOKEN_ID:
        raise ValueError(f"id {token_id} is outside 1..{MAX_TOKEN_ID} (0 is the end of text and has no line)")
    token = _parse_literal(literal)
    if len(token) != length:
        raise ValueError(f"the token {token!r} has {len(token)} bytes, but the line says {length}")
    if not token:
        raise ValueError("an empty token can never match")
    return token_id, token


def _parse_literal(literal: bytes) -> bytes:
    quote = literal[:1]
    inside = literal[1:-1]
    # Most tokens need no unescaping; parsing each of 65,529 lines as Python would triple the load time.
    plain = quote in (b"'", b'"') and len(literal) >= 2 and literal.endswith(quote)
    if plain and quote not in inside and b"\\" not in inside:
        inside.decode("utf-8")  # UnicodeDecodeError is a ValueError
        return inside
    try:
        value = ast.literal_eval(literal.decode("utf-8"))
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        raise ValueError(f"{_shorten(literal)} is not a Python string") from None
    if isinstance(value, str):
        return value.encode("utf-8")  # a lone surrogate raises UnicodeEncodeError, a ValueError
    if isinstance(value, bytes):
        return value
    raise ValueError(f"{_shorten(literal)} is not a Python string")


def _shorten(line: bytes) -> str:
    return repr(line if len(line) <= 60 else line[:57] + b"...")


def default_vocab_path() -> Path:
    """The World vocabulary that the installed `rwkv` package carries as data.

    Raises FileNotFoundError when the package or its file is absent.
    """
    if path := packaged_file(WORLD_VOCAB_NAME):
        return path
    raise FileNotFoundError(
        f"the World vocabulary ({WORLD_VOCAB_NAME}) was not found: install the 'rwkv' package, which carries it "
        "(pip install rwkv; PyTorch is not needed), or name a vocabulary file yourself"
    )


def packaged_file(name: str) -> Path | None:
    """A file that the installed `rwkv` package carries as data, or None. The package is located, never imported."""
    spec = importlib.util.find_spec("rwkv")
    folders = (spec.submodule_search_locations or ()) if spec else ()
    return next((path for folder in folders if (path := Path(folder) / name).is_file()), None)


def own_vocab(model_path: str | Path) -> Path | None:
    """`<model stem>.vocab.txt` beside the model file, or None."""
    model_path = Path(model_path)
    path = model_path.with_name(f"{model_path.stem}.vocab.txt")
    return path if not model_path.is_dir() and path.is_file() else None


def find_vocab(model_path: str | Path) -> Path | None:
    """The World-format vocabulary beside a model file (or inside a model folder), or None.

    `<model stem>.vocab.txt` is preferred, then `vocab.txt`, `rwkv_vocab*.txt` and any other `*.vocab.txt` that is not
    another model's own. Files of other formats are passed over: WordPiece vocabularies are called vocab.txt too.
    """
    model_path = Path(model_path)
    if own := own_vocab(model_path):
        return own
    folder = model_path if model_path.is_dir() else model_path.parent
    candidates = [folder / "vocab.txt", *sorted(folder.glob("rwkv_vocab*.txt"))]
    candidates += [path for path in sorted(folder.glob("*.vocab.txt")) if not _belongs_to_a_model(path)]
    return next((path for path in candidates if path.is_file() and _looks_like_vocab(path)), None)


def _belongs_to_a_model(vocab: Path) -> bool:
    stem = vocab.name.removesuffix(".vocab.txt")
    return any(vocab.with_name(stem + suffix).exists() for suffix in _MODEL_SUFFIXES)


def _looks_like_vocab(path: Path) -> bool:
    with path.open("rb") as file:
        first = file.readline(4096).removeprefix(b"\xef\xbb\xbf").rstrip(b"\r\n")
    try:
        _parse_line(first)
    except ValueError:
        return False
    return True
