"""``wingbeat bench``: the speed of a model's steps, beside the limits of the machine."""
