"""One translator a wire dialect; none holds engine logic."""
