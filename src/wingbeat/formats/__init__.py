"""Files to named arrays, lazily, without torch."""
