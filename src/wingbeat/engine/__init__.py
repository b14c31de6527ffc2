"""Continuous batching over a pool of fixed-size states."""
