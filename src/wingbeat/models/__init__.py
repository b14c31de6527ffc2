"""Each RWKV version as a program over the op table."""
