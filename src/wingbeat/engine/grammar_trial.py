"""Compiles one kbnf grammar, from standard input, to see whether that can be done in little time and memory.

On standard output kbnf's words about a bad grammar, nothing for a good one. Killed, or dead by itself: it is too much.
"""

from __future__ import annotations

import contextlib
import math
import os
import sys

from wingbeat.engine.grammar_kbnf import TRIAL_MEMORY, TRIAL_SECONDS, load, make_engine, make_vocabulary

SECONDS = math.ceil(TRIAL_SECONDS) + 1
"""Of processor time. It ends by itself where nobody is left to end it."""
BYTES = [bytes([byte]) for byte in range(256)]


def main() -> None:
    grammar = sys.stdin.buffer.read().decode()
    if os.name == "posix":
        import resource

        with contextlib.suppress(ValueError, OSError):  # a lower limit is there already
            resource.setrlimit(resource.RLIMIT_AS, (TRIAL_MEMORY, TRIAL_MEMORY))
            resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
            resource.setrlimit(resource.RLIMIT_CPU, (SECONDS, SECONDS))
    kbnf = load()
    try:
        make_engine(kbnf, grammar, make_vocabulary(kbnf, BYTES)).compute_allowed_token_ids()
    except ValueError as error:
        sys.stdout.write(str(error))


if __name__ == "__main__":
    main()
