"""RWKV inference: one engine whose unit of work is a batch of fixed-size states."""
