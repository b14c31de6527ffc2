"""A state in a file: back as it was, or refused."""

from __future__ import annotations

import json
from pathlib import Path

import msgspec
import numpy as np
import pytest

from tests.random_models import write_safetensors
from wingbeat.engine import snapshot as snapshot_module
from wingbeat.engine.snapshot import Continuation, Reasoned, StateArray, StateSnapshot
from wingbeat.formats.safetensors import open_safetensors, save_safetensors

ARRAYS = {
    "shift": np.array([1.5, -0.0, np.inf], np.float32),
    "wkv": np.arange(8, dtype=np.float32).reshape(2, 2, 2).swapaxes(0, 2),
}
OURS = ("state", "position", "continuation", "checksum")
EXTRA = {"title": "a chat", "世界": "é"}


@pytest.fixture
def snapshot() -> StateSnapshot:
    return StateSnapshot.from_arrays("abc", 7, ARRAYS)


def rewrite(path: Path, arrays: dict[str, np.ndarray] | None = None, **metadata: str) -> Path:
    """The same file with other contents, well formed."""
    file = open_safetensors(path)
    kept = {name: tensor.read().copy() for name, tensor in file.items()}
    changed = {("wingbeat." + name if name in OURS else name): text for name, text in metadata.items()}
    save_safetensors(path, {**kept, **(arrays or {})}, {**file.metadata, **changed})
    return path


def test_arrays_go_in_and_out(snapshot: StateSnapshot) -> None:
    back = snapshot.to_arrays()
    assert list(back) == list(ARRAYS)
    for name, array in ARRAYS.items():
        np.testing.assert_array_equal(back[name], array)
    assert np.signbit(back["shift"][1])


def test_a_snapshot_is_a_copy() -> None:
    array = np.zeros(3, np.float32)
    taken = StateSnapshot.from_arrays("abc", 0, {"x": array})
    array[:] = 9
    assert not taken.to_arrays()["x"].any()


def test_it_travels_in_a_frame(snapshot: StateSnapshot) -> None:
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(snapshot), type=StateSnapshot) == snapshot


@pytest.mark.parametrize(("shape", "size"), [([2], 4), ([-1], 4), ([2, 2], 12), ([], 0)])
def test_a_field_whose_shape_is_not_its_own_is_refused(shape: list[int], size: int) -> None:
    with pytest.raises(ValueError, match="cannot have the shape"):
        StateSnapshot("abc", 0, {"x": StateArray(shape, bytes(size))}).to_arrays()


def test_a_file_gives_back_what_was_saved(snapshot: StateSnapshot, tmp_path: Path) -> None:
    snapshot.save(tmp_path / "chat", EXTRA)
    assert StateSnapshot.load(tmp_path / "chat") == (snapshot, EXTRA)
    snapshot.save(str(tmp_path / "chat"))
    assert StateSnapshot.load(str(tmp_path / "chat")) == (snapshot, {})
    assert [path.name for path in tmp_path.iterdir()] == ["chat"]


def test_its_own_names_are_taken(snapshot: StateSnapshot, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"choose another for 'wingbeat.title'"):
        snapshot.save(tmp_path / "chat", {"wingbeat.title": "x"})
    assert not list(tmp_path.iterdir())


def test_a_file_cut_short_anywhere_is_refused(snapshot: StateSnapshot, tmp_path: Path) -> None:
    snapshot.save(tmp_path / "whole", EXTRA)
    whole = (tmp_path / "whole").read_bytes()
    for length in range(len(whole)):
        (tmp_path / "cut").write_bytes(whole[:length])
        with pytest.raises(ValueError, match=str(tmp_path / "cut")):
            StateSnapshot.load(tmp_path / "cut")


def test_a_changed_byte_is_found(snapshot: StateSnapshot, tmp_path: Path) -> None:
    snapshot.save(tmp_path / "whole", EXTRA)
    whole = (tmp_path / "whole").read_bytes()
    harmless = 0
    for place in range(len(whole)):
        (tmp_path / "changed").write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        try:
            assert StateSnapshot.load(tmp_path / "changed") == (snapshot, EXTRA)
            harmless += 1
        except ValueError as error:
            assert str(tmp_path / "changed") in str(error)  # noqa: PT017
    assert harmless == 0


@pytest.mark.parametrize(
    "change", [{"position": "8"}, {"position": "-7"}, {"position": "9" * 5000}, {"title": "other"}]
)
def test_a_changed_remark_is_found(snapshot: StateSnapshot, tmp_path: Path, change: dict[str, str]) -> None:
    snapshot.save(tmp_path / "chat", EXTRA)
    with pytest.raises(ValueError, match="altered or damaged"):
        StateSnapshot.load(rewrite(tmp_path / "chat", **change))


@pytest.mark.parametrize(
    "arrays",
    [{"shift": np.zeros(3, np.float32)}, {"more": np.zeros(1, np.float32)}, {"shift": np.zeros(3, np.float16)}],
)
def test_changed_values_are_found(snapshot: StateSnapshot, tmp_path: Path, arrays: dict[str, np.ndarray]) -> None:
    snapshot.save(tmp_path / "chat", EXTRA)
    with pytest.raises(ValueError, match="altered or damaged"):
        StateSnapshot.load(rewrite(tmp_path / "chat", arrays))


def test_all_that_going_on_needs_is_kept(snapshot: StateSnapshot, tmp_path: Path) -> None:
    continuation = Continuation(
        *(2**62, 3, {7: 2, 1: 1}, [5, 9], b"\xe4\xbd"),
        last=7,
        weights={7: (0.1, 3), 1: (1 / 3, 0)},
        mu=0.7 - 0.1,
        reasoned=Reasoned(used=12, closed=1, tail=b"</th"),
    )
    logits = np.array([0.5, -1.0, 3.0], np.float32)
    whole = StateSnapshot.from_arrays("fp", 12, snapshot.to_arrays(), logits, continuation)
    whole.save(tmp_path / "state")
    assert StateSnapshot.load(tmp_path / "state") == (whole, {})
    for change in ({"continuation": '{"seed":1,"choice":3}'}, {"continuation": "[]"}):
        with pytest.raises(ValueError, match="altered or damaged"):
            StateSnapshot.load(rewrite(tmp_path / "state", **change))


def test_files_of_the_first_version_are_read(snapshot: StateSnapshot, tmp_path: Path) -> None:
    snapshot.save(tmp_path / "new", EXTRA)
    checksum = snapshot_module._checksum(snapshot, EXTRA, "1", None)
    assert StateSnapshot.load(rewrite(tmp_path / "new", state="1", checksum=checksum)) == (snapshot, EXTRA)


def test_files_of_the_second_version_are_read(snapshot: StateSnapshot, tmp_path: Path) -> None:
    said = '{"seed":1,"choice":0,"generated":{"3":2},"read":[5],"undecoded":""}'
    whole = StateSnapshot.from_arrays("fp", 12, snapshot.to_arrays(), None, Continuation(1, 0, {3: 2}, [5]))
    whole.save(tmp_path / "new", EXTRA)
    checksum = snapshot_module._checksum(whole, EXTRA, "2", said)
    old = rewrite(tmp_path / "new", state="2", checksum=checksum, continuation=said)
    assert StateSnapshot.load(old) == (whole, EXTRA)


def test_files_of_the_third_version_are_read(snapshot: StateSnapshot, tmp_path: Path) -> None:
    said = (
        '{"seed":1,"choice":0,"generated":{"3":2},"read":[5],"undecoded":"","last":3,"weights":{"3":[0.5,1]},"mu":2.5}'
    )
    continued = Continuation(1, 0, {3: 2}, [5], last=3, weights={3: (0.5, 1)}, mu=2.5)
    whole = StateSnapshot.from_arrays("fp", 12, snapshot.to_arrays(), None, continued)
    whole.save(tmp_path / "new", EXTRA)
    checksum = snapshot_module._checksum(whole, EXTRA, "3", said)
    assert StateSnapshot.load(rewrite(tmp_path / "new", state="3", checksum=checksum, continuation=said)) == (
        whole,
        EXTRA,
    )


@pytest.mark.parametrize(
    "reasoned", [Reasoned(used=-1), Reasoned(closed=-1), Reasoned(tail=b"x" * 8), Reasoned(used=2**40)]
)
def test_reasoning_that_cannot_be(reasoned: Reasoned) -> None:
    assert Continuation(1, 0, reasoned=Reasoned(used=5, tail=b"</think")).possible(300)
    assert not Continuation(1, 0, reasoned=reasoned).possible(300)


def test_another_version_is_named(snapshot: StateSnapshot, tmp_path: Path) -> None:
    snapshot.save(tmp_path / "chat")
    with pytest.raises(ValueError, match=r"version '5' .* reads up to '4'"):
        StateSnapshot.load(rewrite(tmp_path / "chat", state="5"))


def test_other_files_are_no_states(tmp_path: Path) -> None:
    write_safetensors(tmp_path / "model", ARRAYS)
    with pytest.raises(ValueError, match="is not a saved state"):
        StateSnapshot.load(tmp_path / "model")
    (tmp_path / "text").write_text(json.dumps({"no": "state"}))
    for name in ("text", "nothing"):
        with pytest.raises(ValueError, match=name):
            StateSnapshot.load(tmp_path / name)
