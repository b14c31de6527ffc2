"""Each RWKV version as a program over the op table, and ``load_model``, which binds one to a backend."""

from __future__ import annotations

from wingbeat.models.load import Model, ModelInfo, Progress, load_model, quantize_model

__all__ = ["Model", "ModelInfo", "Progress", "load_model", "quantize_model"]
