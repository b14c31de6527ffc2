"""Which RWKV a checkpoint is, told from the names and shapes of its tensors in any order."""

from __future__ import annotations

from collections.abc import Mapping
from math import prod

Shapes = Mapping[str, tuple[int, ...]]

PREFIXES = ("module.", "_forward_module.", "_orig_mod.")  # DistributedDataParallel, DeepSpeed, torch.compile
ADAPTER_ENDINGS = (".lora_A", ".lora_B", ".lora_M", ".lora.0", ".lora.1", ".disha", ".bone")
RESEARCH_V6 = ("att.gate_w1", "att.time_maa_rkvw_w1")
RESEARCH_V4 = ("tiny_q", "head_q", "pos_emb_x", "copy_mask")


class UnsupportedModelError(ValueError):
    """A model, or a file that belongs to one, that cannot be run yet; the message names what was found."""


def official_name(name: str) -> str:
    """The name without the prefixes that training frameworks add."""
    while True:
        for prefix in PREFIXES:
            if name.startswith(prefix):
                name = name.removeprefix(prefix)
                break
        else:
            return name


def detect_version(shapes: Shapes, metadata: Mapping[str, str]) -> str:
    """The version of a model in the official layout: "4", "5.0", "5.1", "5.2", "6", "7" or "7a".

    Raises UnsupportedModelError, naming what was found, for everything that Wingbeat does not run.
    """
    found = _not_a_model(set(shapes), metadata) or _variant(shapes)
    version = None if found else _version(shapes)
    if version is not None:
        return version
    if found is None:
        found = f"a model that is not an RWKV ({len(shapes)} tensors, such as {', '.join(sorted(shapes)[:3])})"
    raise UnsupportedModelError(f"not yet supported: found {found}. Wingbeat runs RWKV-4, 5, 6, 7 and 7a models.")


def _not_a_model(names: set[str], metadata: Mapping[str, str]) -> str | None:
    """Files that are not a model in the official layout."""
    if "_strategy" in names or "_strategy" in metadata:
        return "a model that the old rwkv package converted in place (it has the key _strategy); use the original file"
    adapters = sorted(name for name in names if name.endswith(ADAPTER_ENDINGS) or "init_lora_" in name)
    if adapters:
        return f"a LoRA, PiSSA or Bone adapter (such as {adapters[0]!r}); merge it into its model first"
    states = sorted(name for name in names if name.endswith((".time_state", ".time_offset")))
    if states and len(states) == len(names):
        return f"a tuned initial state (such as {states[0]!r}), not a model"
    return None


def _version(shapes: Shapes) -> str | None:
    def has(name: str) -> bool:
        return "blocks.0." + name in shapes

    if has("att.r_k") or has("att.k_k"):
        return "7a" if has("ffn.s_emb.weight") else "7"
    if has("att.time_maa_x"):
        return "6"
    if has("att.ln_x.weight"):
        return _version_of_5(shapes)
    return "4" if has("att.time_first") and has("att.time_decay") else None


def _version_of_5(shapes: Shapes) -> str:
    if "blocks.0.att.gate.weight" not in shapes:
        return "5.0"
    decay, key = (shapes.get(f"blocks.0.att.{name}", ()) for name in ("time_decay", "key.weight"))
    return "5.2" if key and prod(decay) == key[0] else "5.1"


def _variant(shapes: Shapes) -> str | None:
    """What looks like a version that runs but is not: research models."""

    def has(name: str) -> bool:
        return "blocks.0." + name in shapes

    if not shapes:
        return "a file without tensors"
    if has("att.r_k") or has("att.k_k"):
        return _variant_of_7(shapes)
    if has("att.time_maa_x") and any(map(has, RESEARCH_V6)):
        return "a research variant of RWKV-6"
    research = [key for key in RESEARCH_V4 if any(key in name for name in shapes)]
    if has("att.time_first") and research:
        return f"a research variant of RWKV-4 (it has {research[0]!r})"
    return None


def _variant_of_7(shapes: Shapes) -> str | None:
    if "blocks.0.qkv.qq.weight" in shapes:
        return "an RWKV-7b model (DeepEmbed and DEA), whose state grows with its length"
    if "blocks.0.ffn.enn.weight" in shapes:
        return "an RWKV-8 preview model"
    return None
