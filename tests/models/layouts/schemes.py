"""Official models in the naming schemes of others, as their converters write them: the inverse of the layouts."""

from __future__ import annotations

import re
from collections.abc import Mapping

import numpy as np

Arrays = dict[str, np.ndarray]

LOW_RANK_7 = re.compile(r"blocks\.\d+\.att\.[wavg][12]")
LOW_RANK_6 = re.compile(r"blocks\.\d+\.att\.(time_maa_w|time_decay_w)[12]")
GGUF_PARTS = {
    "ln1": "attn_norm",
    "ln2": "attn_norm_2",
    "att.ln_x": "time_mix_ln",
    **{f"att.{name}": f"time_mix_{name}" for name in ("receptance", "key", "value", "gate", "output")},
    **{f"ffn.{name}": f"channel_mix_{name}" for name in ("receptance", "key", "value")},
}
GGUF_6 = {
    "ffn.time_maa_k": "channel_mix_lerp_k",
    "ffn.time_maa_r": "channel_mix_lerp_r",
    "att.time_faaaa": "time_mix_first",
    "att.time_decay": "time_mix_decay",
    "att.time_decay_w1": "time_mix_decay_w1",
    "att.time_decay_w2": "time_mix_decay_w2",
    "att.time_maa_w1": "time_mix_w1",
    "att.time_maa_w2": "time_mix_w2",
    "att.time_maa_x": "time_mix_lerp_x",
}
RESCALE_EVERY = 2


def layers_of(model: Mapping[str, np.ndarray]) -> int:
    return 1 + max(int(name.split(".")[1]) for name in model if name.startswith("blocks."))


def turned(array: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(np.swapaxes(array, -1, -2))


def web_rwkv(model: Arrays, version: str) -> Arrays:
    """The `.st` of web-rwkv's converter."""
    found = {}
    for name, array in model.items():
        if LOW_RANK_6.fullmatch(name) or LOW_RANK_7.fullmatch(name):
            array = turned(array)
        if version == "5.1" and name.endswith(("time_decay", "time_faaaa")):
            head_size = model["emb.weight"].shape[1] // array.size
            array = np.repeat(array.reshape(-1, 1), head_size, axis=1)
        name = name.replace("time_faaaa", "time_first") if array.ndim == 2 else name
        found[name.replace("time_maa_", "time_mix_")] = array
    return found


def hugging_face(model: Arrays, version: str) -> Arrays:
    """That of RwkvForCausalLM and the RWKV organisation's v5 and v6."""
    long = {"k": "key", "v": "value", "r": "receptance", "g": "gate"}
    found = {}
    for name, array in model.items():
        name = name.replace("emb.", "embeddings.").replace(".ln0.", ".pre_ln.")
        name = name.replace(".att.", ".attention.").replace(".ffn.", ".feed_forward.")
        name = re.sub(r"time_mix_([kvrg])$", lambda match: "time_mix_" + long[match[1]], name)
        found[name if name.startswith("head.") else "rwkv." + name] = array
    return found


def fla(model: Arrays, version: str, *, fused: bool = False) -> Arrays:
    """flash-linear-attention's; `fused`: the six mixes of v7 in one tensor, as in older files."""
    parts = {"receptance": "r_proj", "key": "k_proj", "value": "v_proj", "output": "o_proj", "gate": "g_proj"}
    top = {"emb": "model.embeddings", "ln_out": "model.norm", "head": "lm_head"}
    norms = {"ln0": "pre_norm", "ln1": "attn_norm", "ln2": "ffn_norm"}
    found = {}
    for name, array in model.items():
        first, _, rest = name.partition(".")
        if first in top:
            found[f"{top[first]}.{rest}"] = array
            continue
        _, layer, part, inner = name.split(".", 3)
        prefix = f"model.layers.{layer}."
        if part in norms:
            found[f"{prefix}{norms[part]}.{inner}"] = array
        elif part == "ffn":
            found |= {prefix + "ffn." + key: value for key, value in _fla_ffn(inner, array, version).items()}
        elif inner.startswith("ln_x."):
            found[f"{prefix}attn.g_norm.{inner[5:]}"] = array
        elif inner.endswith(".weight"):
            linear = ".linear" if version == "6" and inner != "output.weight" else ""
            found[f"{prefix}attn.{parts[inner[:-7]]}{linear}.weight"] = array
        elif version == "7":
            found |= _fla_7(prefix + "attn.", inner, array)
    for i in range(layers_of(model)):
        att, prefix = f"blocks.{i}.att.", f"model.layers.{i}.attn."
        if version == "6":
            found |= {prefix + key: value for key, value in _fla_6(model, att).items()}
        elif fused:
            found[prefix + "x_x"] = np.stack([found.pop(f"{prefix}x_{mix}").reshape(-1) for mix in "rwkvag"])
    return found


def _fla_ffn(name: str, array: np.ndarray, version: str) -> Arrays:
    if version == "7" or name == "value.weight":
        return {name: array}
    if name.startswith("time_maa_"):
        return {f"{'key' if name.endswith('k') else 'receptance'}.mu": array.reshape(-1)}
    return {name.replace(".weight", ".linear.weight"): array}


def _fla_7(prefix: str, name: str, array: np.ndarray) -> Arrays:
    if re.fullmatch("[wavg][12]", name):
        return {f"{prefix}{name[0]}_lora.lora.{'0' if name[1] == '1' else '2'}.weight": turned(array)}
    if re.fullmatch("[wav]0", name):
        return {f"{prefix}{name[0]}_lora.lora.2.bias": array.reshape(-1)}
    return {prefix + name: array.reshape(-1) if name != "r_k" else array}


def _fla_6(model: Arrays, att: str) -> Arrays:
    width = model["emb.weight"].shape[1]
    down = dict(zip("wkvrg", np.split(model[att + "time_maa_w1"], 5, axis=1), strict=True))
    up = dict(zip("wkvrg", model[att + "time_maa_w2"], strict=True))
    return {
        "x_proj.0.mu": model[att + "time_maa_x"].reshape(width),
        "x_proj.0.linear.weight": np.concatenate([down[mix] for mix in "rwkvg"], axis=1).T.copy(),
        "x_proj.2.weight": np.concatenate([up[mix] for mix in "rwkvg"]).T.copy(),
        "x_bias": np.stack([model[f"{att}time_maa_{mix}"].reshape(width) for mix in "rwkvg"]),
        "w_proj.linear.lora.0.weight": turned(model[att + "time_decay_w1"]),
        "w_proj.linear.lora.2.weight": turned(model[att + "time_decay_w2"]),
        "w_proj.linear.lora.2.bias": model[att + "time_decay"].reshape(width),
        "bonus": model[att + "time_faaaa"],
    }


def gguf(model: Arrays, version: str, *, fused: bool = True, rescaled: bool = False) -> Arrays:
    """llama.cpp's; `rescaled`: as its converter of v6 does, halved once more every two layers."""
    top = {"emb.weight": "token_embd.weight", "head.weight": "output.weight"}
    found = {}
    for name, array in model.items():
        norm = name.replace("blocks.0.ln0", "token_embd_norm").replace("ln_out", "output_norm")
        if name in top or norm != name:
            found[top.get(name, norm)] = array
            continue
        _, layer, inner = name.split(".", 2)
        stem, _, part = inner.rpartition(".")
        if stem in GGUF_PARTS:
            scale = 2.0 ** -(int(layer) // RESCALE_EVERY) if rescaled and inner in SCALED else 1.0
            found[f"blk.{layer}.{GGUF_PARTS[stem]}.{part}"] = array * array.dtype.type(scale)
        elif not re.fullmatch(r"att\.(x_.|time_maa_[wkvrg])", inner):
            found[f"blk.{layer}.{_gguf_7(inner) if version == '7' else GGUF_6[inner]}.weight"] = _gguf_array(
                name, array
            )
    for i in range(layers_of(model)):
        prefix, mixes = ("x_", "rwkvag") if version == "7" else ("time_maa_", "wkvrg")
        lerps = {mix: model[f"blocks.{i}.att.{prefix}{mix}"].reshape(1, 1, -1) for mix in mixes}
        if fused:
            found[f"blk.{i}.time_mix_lerp_fused.weight"] = np.stack([lerps[mix] for mix in mixes])
        else:
            found |= {f"blk.{i}.time_mix_lerp_{mix}.weight": array for mix, array in lerps.items()}
    if version == "7":  # llama.cpp asks for these of layer 0 and does not use them
        found |= {f"blk.0.time_mix_v{part}.weight": found[f"blk.0.time_mix_a{part}.weight"] for part in "012"}
    return found


SCALED = ("att.output.weight", "ffn.value.weight")


def _gguf_7(name: str) -> str:
    return "channel_mix_lerp_k" if name == "ffn.x_k" else name.replace("att.", "time_mix_")


def _gguf_array(name: str, array: np.ndarray) -> np.ndarray:
    if LOW_RANK_6.fullmatch(name) or LOW_RANK_7.fullmatch(name):
        return turned(array)
    return array if name.endswith("time_faaaa") else array.reshape(-1)


def rwkv_cpp(model: Arrays, version: str) -> Arrays:
    found: Arrays = {}
    for name, array in model.items():
        array = array.squeeze() if ".time_" in name else array
        if LOW_RANK_6.fullmatch(name) or LOW_RANK_7.fullmatch(name):
            array = turned(array)
        elif version == "4" and name.endswith("time_decay"):
            array = -np.exp(array)
        elif version == "6" and name.endswith("time_decay"):
            array = array.reshape(*model["blocks.0.att.time_faaaa"].shape, 1)
        elif version.startswith("5") and name.endswith("time_decay"):
            array = np.exp(-np.exp(array))
            array = array.reshape(-1, 1, 1) if version == "5.0" else array[..., None]
        elif name.endswith("time_first") and version.startswith("5"):
            array = np.exp(array).reshape(-1, 1, 1)
        elif name.endswith("time_faaaa"):
            array = array[..., None]
        if version == "7" and ".att.x_" in name:
            key = name.rpartition(".")[0] + ".x_rwkvag"
            found[key] = np.concatenate([found[key], array]) if key in found else array
        else:
            found[name] = array
    return found
