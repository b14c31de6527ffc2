"""``wingbeat chat``: a conversation with a model at the terminal, without a server."""
