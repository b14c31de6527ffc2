from __future__ import annotations

import hashlib
import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

from wingbeat.text.vocab import VocabError, default_vocab_path, find_vocab, read_vocab

from .vocabs import SINGLE_BYTES, with_bytes, write_vocab

AWKWARD = [b"\n\n", b"\r\n", b"'", b'"', b"'\"", b" a b ", b"\\", b"\\n", b"\xff\xfe", b"\xe4\xbd", "你好".encode()]
AWKWARD += ["\u2028".encode(), "\x85".encode(), "🚀".encode(), b"1 2 3", b"#"]


@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_reads_what_was_written(tmp_path: Path, newline: str) -> None:
    tokens = with_bytes([token for token in AWKWARD if len(token) > 1], first_id=300, step=7)
    assert read_vocab(write_vocab(tmp_path / "v.txt", tokens, newline=newline)) == tokens


def test_the_world_vocabulary_is_the_published_one() -> None:
    path = default_vocab_path()
    digest = hashlib.sha256(path.read_bytes().replace(b"\r\n", b"\n")).hexdigest()
    assert digest == "e6dee3d4e31b4d5c40ac99508ac6c701ceef4bed681bf2167ce9a908552bca89"
    tokens = read_vocab(path)
    assert list(tokens) == list(range(1, 65530))
    assert max(map(len, tokens.values())) == 128
    assert {i: tokens[i] for i in SINGLE_BYTES} == SINGLE_BYTES


def test_literals_that_hold_line_separators_stay_whole(tmp_path: Path) -> None:
    path = write_vocab(tmp_path / "v.txt", SINGLE_BYTES)
    path.write_bytes(path.read_bytes() + "300 'a\u2028\x85b' 7\n\n".encode())
    assert read_vocab(path)[300] == "a\u2028\x85b".encode()


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        (b"300 'ab' 3", "has 2 bytes, but the line says 3"),
        (b"300 'ab'", "expected '<id>"),
        (b"'ab' 2", "expected '<id>"),
        (b"-1 'ab' 2", "expected '<id>"),
        (b"0 'ab' 2", "id 0 is outside"),
        (b"99999999 'ab' 2", "id 99999999 is outside"),
        (b"1 'ab' 2", "id 1 is used twice"),
        (b"300 'a' 1", "the token b'a' is already on line 98"),
        (b"300 ab 2", "is not a Python string"),
        (b"300 'ab 2", "is not a Python string"),
        (b"300 ['ab'] 2", "is not a Python string"),
        (b"300 12 2", "is not a Python string"),
        (b"300 __import__('os') 2", "is not a Python string"),
        (b"300 '' 0", "an empty token"),
        (b"300 '\\ud800' 3", "surrogates not allowed"),
        (b"300 '\xff\xfe' 2", "can't decode"),
        (b"PK\x03\x04" + b"\x00" * 200, "expected '<id>"),
    ],
)
def test_a_malformed_line_is_named(tmp_path: Path, line: bytes, complaint: str) -> None:
    path = write_vocab(tmp_path / "v.txt", SINGLE_BYTES)
    path.write_bytes(path.read_bytes() + line + b"\n")
    with pytest.raises(VocabError) as caught:
        read_vocab(path)
    assert f"{path}, line 257: " in str(caught.value)
    assert complaint in str(caught.value)


def test_a_vocabulary_without_every_byte_is_refused(tmp_path: Path) -> None:
    tokens = {i: token for i, token in SINGLE_BYTES.items() if token != b"\x80"}
    with pytest.raises(VocabError, match=r"1 of the 256 single bytes have no token \(the first is 0x80\)"):
        read_vocab(write_vocab(tmp_path / "v.txt", tokens))
    with pytest.raises(VocabError, match="256 of the 256"):
        read_vocab(write_vocab(tmp_path / "empty.txt", {}))


def test_the_default_vocabulary_needs_no_import_of_its_package() -> None:
    code = (
        "import sys; from wingbeat.text import default_vocab_path; print(default_vocab_path().name); "
        "print(sorted({'rwkv', 'torch', 'numpy'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split("\n")[:2] == ["rwkv_vocab_v20230424.txt", "[]"]


def test_an_absent_package_is_explained(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(FileNotFoundError, match="pip install rwkv"):
        default_vocab_path()


def touch(path: Path) -> Path:
    path.write_bytes(b"")
    return path


def test_the_models_own_vocabulary_comes_first(tmp_path: Path) -> None:
    model = touch(tmp_path / "rwkv7-0.1b-ctx4096.pth")
    assert find_vocab(model) is None
    any_other = write_vocab(tmp_path / "shared.vocab.txt", SINGLE_BYTES)
    assert find_vocab(model) == any_other
    world = write_vocab(tmp_path / "rwkv_vocab_v1.txt", SINGLE_BYTES)
    assert find_vocab(model) == world
    plain = write_vocab(tmp_path / "vocab.txt", SINGLE_BYTES)
    assert find_vocab(model) == find_vocab(tmp_path) == plain
    own = write_vocab(tmp_path / "rwkv7-0.1b-ctx4096.vocab.txt", SINGLE_BYTES)
    assert find_vocab(model) == own


def test_other_formats_and_other_models_vocabularies_are_passed_over(tmp_path: Path) -> None:
    (tmp_path / "vocab.txt").write_text("[PAD]\n[UNK]\nthe\n")
    write_vocab(tmp_path / "demo.vocab.txt", SINGLE_BYTES)
    touch(tmp_path / "demo.safetensors")
    assert find_vocab(touch(tmp_path / "other.pth")) is None
