class Trie:
    """Token ids by bytes, for greedy longest-match tokenisation. Read only once built; calls may run in parallel."""

    def __init__(self, ids: dict[bytes, int]) -> None:
        """Ids are 1 or more. Raises ValueError unless every single byte has a token."""

    def encode(self, text: bytes) -> list[int]:
        """The ids of the longest tokens, left to right. Runs without the GIL."""
