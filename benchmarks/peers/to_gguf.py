"""Convert an RWKV-7 model (.safetensors or .pth, official layout) to GGUF for llama.cpp.

    python benchmarks/peers/to_gguf.py 0.1B.safetensors 0.1B-q8_0.gguf --type q8_0

The vocabulary is taken from the installed `rwkv` package.
"""

from __future__ import annotations

import argparse
import ast
from importlib.metadata import distribution
from pathlib import Path

import gguf
import numpy as np
import torch
from checkpoint import read
from gguf import GGMLQuantizationType as Q
from gguf import LlamaFileType

TYPES = {
    "f32": (Q.F32, LlamaFileType.ALL_F32),
    "bf16": (Q.BF16, LlamaFileType.MOSTLY_BF16),
    "q8_0": (Q.Q8_0, LlamaFileType.MOSTLY_Q8_0),
    "q4_0": (Q.Q4_0, LlamaFileType.MOSTLY_Q4_0),
}
NORMAL, CONTROL, UNUSED = gguf.TokenType.NORMAL, gguf.TokenType.CONTROL, gguf.TokenType.UNUSED

# Official name -> llama.cpp's, inside a layer.
VECTORS = {
    "ln1.weight": "attn_norm.weight",
    "ln1.bias": "attn_norm.bias",
    "ln2.weight": "attn_norm_2.weight",
    "ln2.bias": "attn_norm_2.bias",
    "att.k_k": "time_mix_k_k.weight",
    "att.k_a": "time_mix_k_a.weight",
    "att.r_k": "time_mix_r_k.weight",
    "att.ln_x.weight": "time_mix_ln.weight",
    "att.ln_x.bias": "time_mix_ln.bias",
}
MATRICES = {
    "att.receptance.weight": "time_mix_receptance.weight",
    "att.key.weight": "time_mix_key.weight",
    "att.value.weight": "time_mix_value.weight",
    "att.output.weight": "time_mix_output.weight",
    "ffn.key.weight": "channel_mix_key.weight",
    "ffn.value.weight": "channel_mix_value.weight",
}


class Converter:
    """Writes the tensors of one model: matrices quantised to `kind`, low-rank factors in 16 bits, the rest float32."""

    def __init__(self, tensors: dict[str, torch.Tensor], out: str, kind: str) -> None:
        self.tensors = tensors
        self.writer = gguf.GGUFWriter(out, "rwkv7")
        self.matrix, self.file_type = TYPES[kind]
        self.low_rank = Q.F32 if kind == "f32" else Q.BF16 if kind == "bf16" else Q.F16
        self.vocab_size, self.width = tensors["emb.weight"].shape
        self.layers = 1 + max(int(name.split(".")[1]) for name in tensors if name.startswith("blocks."))

    def run(self) -> None:
        self._describe()
        self._add_vocabulary()
        self._add("token_embd.weight", self.tensors["emb.weight"], self.matrix)
        for part in ("weight", "bias"):
            self._add(f"token_embd_norm.{part}", self.tensors[f"blocks.0.ln0.{part}"].flatten())
            self._add(f"output_norm.{part}", self.tensors[f"ln_out.{part}"].flatten())
        self._add("output.weight", self.tensors["head.weight"], self.matrix)
        for layer in range(self.layers):
            self._add_layer(layer)
        self.writer.write_header_to_file()
        self.writer.write_kv_data_to_file()
        self.writer.write_tensors_to_file()
        self.writer.close()

    def _describe(self) -> None:
        w = self.writer
        rank = {low: self.tensors[f"blocks.{self.layers - 1}.att.{low}1"].shape[1] for low in "wavg"}
        w.add_type("model")
        w.add_file_type(self.file_type)
        w.add_block_count(self.layers)
        w.add_embedding_length(self.width)
        w.add_feed_forward_length(self.tensors["blocks.0.ffn.key.weight"].shape[0])
        w.add_wkv_head_size(self.tensors["blocks.0.att.r_k"].shape[1])
        w.add_head_count(0)  # llama.cpp: no attention heads
        w.add_context_length(1 << 20)
        w.add_layer_norm_eps(1e-5)
        w.add_decay_lora_rank(rank["w"])
        w.add_iclr_lora_rank(rank["a"])
        w.add_value_residual_mix_lora_rank(rank["v"])
        w.add_gate_lora_rank(rank["g"])

    def _add_vocabulary(self) -> None:
        """llama.cpp wants tokens as escaped text. Id 0 ends a text; ids without a token are padding."""
        tokens, kinds = [b"<s>"], [CONTROL]
        for line in vocabulary().read_text(encoding="utf-8").splitlines():
            token = ast.literal_eval(line[line.index(" ") : line.rindex(" ")].strip())
            raw = token.encode() if isinstance(token, str) else token
            tokens.append(repr(raw)[2:-1].encode())
            kinds.append(NORMAL)
        padding = range(len(tokens), self.vocab_size)
        self.writer.add_tokenizer_model("rwkv")
        self.writer.add_token_list(tokens + [f"[PAD{i}]".encode() for i in padding])
        self.writer.add_token_types(kinds + [UNUSED for _ in padding])
        self.writer.add_bos_token_id(0)
        self.writer.add_eos_token_id(0)

    def _add_layer(self, layer: int) -> None:
        block, out = f"blocks.{layer}.", f"blk.{layer}."
        for ours, theirs in VECTORS.items():
            self._add(out + theirs, self.tensors[block + ours].flatten())
        for ours, theirs in MATRICES.items():
            self._add(out + theirs, self.tensors[block + ours], self.matrix)
        mixes = torch.stack([self.tensors[f"{block}att.x_{c}"].reshape(1, 1, -1) for c in "rwkvag"])
        self._add(out + "time_mix_lerp_fused.weight", mixes)
        self._add(out + "channel_mix_lerp_k.weight", self.tensors[block + "ffn.x_k"].reshape(1, 1, -1))
        for low in "wavg":
            source = block + "att." + ("a" if low == "v" and layer == 0 else low)  # llama.cpp asks for a v, unused
            if low != "g":
                self._add(f"{out}time_mix_{low}0.weight", self.tensors[source + "0"].flatten())
            for part in "12":
                kind = Q.F32 if low == "w" else self.low_rank
                self._add(f"{out}time_mix_{low}{part}.weight", self.tensors[source + part].T, kind)

    def _add(self, name: str, tensor: torch.Tensor, kind: Q = Q.F32) -> None:
        array = np.ascontiguousarray(tensor.float().numpy())
        data = array if kind == Q.F32 else gguf.quants.quantize(array, kind)
        self.writer.add_tensor(name, data, raw_dtype=kind)


def vocabulary() -> Path:
    for file in distribution("rwkv").files or ():
        if file.name == "rwkv_vocab_v20230424.txt":
            return Path(str(file.locate()))
    raise SystemExit("the installed rwkv package carries no vocabulary: pip install 'rwkv>=0.8.26'")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("out")
    parser.add_argument("--type", choices=TYPES, default="q8_0")
    args = parser.parse_args()
    Converter(read(args.model), args.out, args.type).run()


if __name__ == "__main__":
    main()
