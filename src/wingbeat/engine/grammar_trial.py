"""Compiles one kbnf grammar, from standard input, to see whether that can be done in little time and memory.

On standard output kbnf's words about a bad grammar, nothing for a good one. Killed, or dead by itself: it is too much.
"""

from __future__ import annotations

import contextlib
import os
import sys

from wingbeat.engine.grammar_kbnf import TRIAL_MEMORY, load, make_engine, make_vocabulary

BYTES = [bytes([byte]) for byte in range(256)]


def main() -> None:
    grammar = sys.stdin.buffer.read().decode()
    if os.name == "posix":
        import resource

        with contextlib.suppress(ValueError, OSError):  # a lower limit is there already
            resource.setrlimit(resource.RLIMIT_AS, (TRIAL_MEMORY, TRIAL_MEMORY))
            resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    kbnf = load()
    try:
        make_engine(kbnf, grammar, make_vocabulary(kbnf, BYTES)).compute_allowed_token_ids()
    except ValueError as error:
        sys.stdout.write(str(error))


if __name__ == "__main__":
    main()
