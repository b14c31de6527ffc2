"""Files of fine-tuning, merged into a model while it is loaded: LoRA, DoRA, PiSSA, DiSHA (Bone).

Tensors are those of RWKV-PEFT, `NAME.lora_A` (r, in), `NAME.lora_B` (out, r), `NAME.lora_M`, `NAME.disha`, `NAME.bone`,
or of web-rwkv's converter, `NAME.lora.0` (in, r), `NAME.lora.1` (out, r); NAME is a matrix without its `.weight`.
Other tensors of such a file take the place of the model's; in web-rwkv's files whole matrices are added instead, and
the embedding and the head stay as they are. All sums are float32.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from wingbeat.adapter import Adapter
from wingbeat.formats.checkpoint import FormatError, LazyTensor, open_checkpoint
from wingbeat.models.detect import official_name

PISSA_INIT = "init_pissa.pth"
"""Where RWKV-PEFT puts what PiSSA began from: beside the adapter."""

DORA_EPS = 1e-6
KINDS = ("lora_A", "lora_B", "lora_M", "lora.0", "lora.1", "init_lora_A", "init_lora_B", "disha", "bone")
WEB_RWKV_NAMES = ((".time_mix_", ".time_maa_"), (".time_first", ".time_faaaa"))
WEB_RWKV_ENTRY = ("emb.weight", "head.weight")

Tensors = Mapping[str, LazyTensor]
Change = Callable[[NDArray], NDArray]


def merge_adapters(tensors: Tensors, adapters: Sequence[Adapter]) -> dict[str, LazyTensor]:
    """The model's tensors with the adapters in them, one after the other. They are read, and merged, when asked for.

    ``tensors``: of a model, by official names. Raises FormatError, naming the file and the tensor, for an adapter that
    cannot be read or does not fit the model.
    """
    merged = dict(tensors)
    for adapter in adapters:
        try:
            merged.update(_merged(merged, adapter))
        except FormatError as error:
            text = str(error)
            raise FormatError(text if adapter.path in text else f"{adapter.path}: {text}") from error
    return merged


def read_adapter(adapter: Adapter) -> dict[str, LazyTensor]:
    """The tensors of an adapter's files, those that PiSSA began from included. Raises FormatError."""
    path = Path(adapter.path)
    tensors = _named(path)
    init = Path(adapter.init) if adapter.init else path.with_name(PISSA_INIT)
    if adapter.init is None and (init == path or not init.is_file()):
        return tensors
    began = _named(init)
    if not any(name.endswith(".init_lora_A") for name in began):
        raise FormatError(f"{init} does not hold what a PiSSA adapter began from (NAME.init_lora_A)")
    return tensors | began


def _named(path: Path) -> dict[str, LazyTensor]:
    named = {}
    for name, tensor in open_checkpoint(path).items():
        official = official_name(name)
        named[official.removeprefix("model.")] = tensor  # RWKV-PEFT's, at times
    return named


def _merged(model: Tensors, adapter: Adapter) -> Iterator[tuple[str, LazyTensor]]:
    tensors = read_adapter(adapter)
    parts, whole = _sorted(tensors)
    if not parts and not any(name in model for name in whole):
        raise FormatError("this is not an adapter for this model: none of its tensors has a place in it")
    web_rwkv = any("lora.0" in kinds for kinds in parts.values())
    for name, tensor in whole.items():
        if web_rwkv and name in WEB_RWKV_ENTRY:
            continue
        target = _target(model, name, web_rwkv)
        if web_rwkv and name.endswith(".weight") and len(model[target].shape) == 2:
            yield target, _changed(model[target], _added(tensor, target, model[target], adapter.alpha))
        else:
            yield target, _replaced(tensor, target, model[target])
    for name, kinds in parts.items():
        target = name + ".weight"
        if target not in model:
            raise FormatError(f"it has {name}.{next(iter(kinds))!s}, but the model has no matrix {target!r}")
        yield target, _changed(model[target], _change(name, kinds, model[target].shape, adapter))


def _sorted(tensors: Tensors) -> tuple[dict[str, dict[str, LazyTensor]], dict[str, LazyTensor]]:
    """The parts of each matrix's adapter by kind, and the tensors that are whole."""
    parts: dict[str, dict[str, LazyTensor]] = {}
    whole: dict[str, LazyTensor] = {}
    for name, tensor in tensors.items():
        kind = next((kind for kind in KINDS if name.endswith("." + kind)), None)
        if kind is None:
            whole[name] = tensor
        else:
            parts.setdefault(name.removesuffix("." + kind), {})[kind] = tensor
    return parts, whole


def _target(model: Tensors, name: str, web_rwkv: bool) -> str:
    if name in model:
        return name
    for theirs, official in WEB_RWKV_NAMES:
        if web_rwkv and name.replace(theirs, official) in model:
            return name.replace(theirs, official)
    raise FormatError(f"the model has no tensor {name!r}: the adapter was made for another one")


def _changed(base: LazyTensor, change: Change) -> LazyTensor:
    def read() -> NDArray:
        return change(np.array(base.read(), np.float32))

    return LazyTensor(base.shape, np.dtype(np.float32), read, base.place)


def _replaced(tensor: LazyTensor, name: str, base: LazyTensor) -> LazyTensor:
    def read() -> NDArray:
        return np.asarray(tensor.read()).reshape(base.shape)

    if _vector_of(tensor.shape) == _vector_of(base.shape):
        return LazyTensor(base.shape, tensor.dtype, read, tensor.place)
    if tensor.shape == base.shape[::-1] and len(base.shape) == 2:  # web-rwkv's converter swaps low-rank factors
        return LazyTensor(base.shape, tensor.dtype, lambda: tensor.read().T, tensor.place)
    raise _misfit(name, tensor.shape, base.shape)


def _added(tensor: LazyTensor, name: str, base: LazyTensor, alpha: float | None) -> Change:
    if tensor.shape != base.shape:
        raise _misfit(name, tensor.shape, base.shape)
    factor = np.float32(1.0 if alpha is None else alpha)
    return lambda w: w + factor * _floats(tensor)


def _vector_of(shape: tuple[int, ...]) -> tuple[int, ...]:
    """(1, 1, D) as (D,)."""
    while len(shape) > 1 and shape[0] == 1:
        shape = shape[1:]
    return shape


def _change(name: str, kinds: Mapping[str, LazyTensor], shape: tuple[int, ...], adapter: Adapter) -> Change:
    if "disha" in kinds or "bone" in kinds:
        return _disha(name, kinds.get("disha") or kinds["bone"], shape)
    first, second = ("lora.0", "lora.1") if "lora.0" in kinds or "lora.1" in kinds else ("lora_A", "lora_B")
    for kind in (first, second):
        if kind not in kinds:
            raise FormatError(f"{name}.{kind} is missing: the file is incomplete")
    down, up = kinds[first], kinds[second]
    swapped = first == "lora.0"
    rank = _rank(name, down.shape[::-1] if swapped else down.shape, up.shape, shape)
    scale = np.float32((rank if adapter.alpha is None else adapter.alpha) / rank)

    def product(a: LazyTensor, b: LazyTensor) -> NDArray:
        return _floats(b) @ (_floats(a).T if swapped else _floats(a))

    if "init_lora_A" in kinds:
        if "init_lora_B" not in kinds:
            raise FormatError(f"{name}.init_lora_B is missing: the file of what PiSSA began from is incomplete")
        began_a, began_b = kinds["init_lora_A"], kinds["init_lora_B"]
        _rank(name, began_a.shape, began_b.shape, shape)
        return lambda w: w - product(began_a, began_b) + product(down, up)
    if "lora_M" in kinds:
        magnitude = kinds["lora_M"]
        if magnitude.size != shape[1]:
            raise _misfit(f"{name}.lora_M", magnitude.shape, (shape[1],))

        def dora(w: NDArray) -> NDArray:
            w = w + scale * product(down, up)
            return w * (_floats(magnitude).reshape(-1) / (np.sqrt((w * w).sum(axis=0)) + np.float32(DORA_EPS)))

        return dora
    return lambda w: w + scale * product(down, up)


def _rank(name: str, down: tuple[int, ...], up: tuple[int, ...], shape: tuple[int, ...]) -> int:
    """The rank of factors (rank, in) and (out, rank) of a matrix. Raises FormatError when they do not fit it."""
    if len(down) != 2 or len(up) != 2 or down[0] != up[1] or down[0] == 0 or (up[0], down[1]) != shape:
        raise FormatError(
            f"the factors of {name!r} are {list(down)} and {list(up)} [rank, in] and [out, rank], which do not fit the "
            f"model's matrix of {list(shape)}: the adapter was made for another model"
        )
    return down[0]


def _disha(name: str, table: LazyTensor, shape: tuple[int, ...]) -> Change:
    rows, columns = shape
    if len(table.shape) == 2:  # (r, out): one block for all blocks of r columns, the last of which may be cut short
        rank = table.shape[0]
        if table.shape != (rank, rows) or rank == 0:
            raise _misfit(name, table.shape, (rank, rows))
        return lambda w: w + np.resize(_floats(table), (columns, rows)).T
    blocks, rank = table.shape[0], table.shape[-1]
    if table.shape != (blocks, rank, rank) or blocks * rank != columns or rows % rank:
        raise _misfit(name, table.shape, (columns // rank if rank else 0, rank, rank))

    def affine(w: NDArray) -> NDArray:
        parts = w.reshape(rows // rank, rank, blocks, rank).transpose(0, 2, 1, 3)  # [a over out, b over in, r, r]
        parts = parts + parts @ _floats(table) + _floats(table)
        return parts.transpose(0, 2, 1, 3).reshape(rows, columns)

    return affine


def _floats(tensor: LazyTensor) -> NDArray:
    return np.asarray(tensor.read(), np.float32)


def _misfit(name: str, found: tuple[int, ...], wanted: tuple[int, ...]) -> FormatError:
    return FormatError(
        f"{name!r} has shape {list(found)}, and the model needs {list(wanted)}: the adapter was made for another model"
    )
