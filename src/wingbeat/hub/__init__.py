"""Model files by name: which are published where, how they are fetched, and which are here already."""
