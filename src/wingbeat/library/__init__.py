"""What the commands about model files do: fetch, list, describe and convert them."""
