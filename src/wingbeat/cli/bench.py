"""`wingbeat bench`: the flags of the speed measurement."""

from __future__ import annotations

from typing import Annotated

import typer

from wingbeat.cli.common import choices_of, fail, model_files, shapes

EXAMPLES = """\
Examples:
  wingbeat bench
  wingbeat bench --model /models/rwkv7-g1-0.4b.pth --dtype int8
  wingbeat bench --shape 0.1B --what "decode b1" --what "prefill 512"
  wingbeat bench --shape 0.1B --what "decode b32" --profile
"""


def bench(
    model: Annotated[
        str | None,
        typer.Option(
            help="A model's file or folder, or the name of one that was pulled. Default: the small bundled demo.",
            autocompletion=model_files,
        ),
    ] = None,
    shape: Annotated[
        str | None,
        typer.Option(
            help="Instead of a file: a random model at a published shape, such as 0.1B, v4-169M or v6-1.6B.",
            metavar="NAME",
            autocompletion=shapes,
        ),
    ] = None,
    dtype: Annotated[
        str,
        typer.Option(
            help="float32, bfloat16, int8, int4, nf4, sf4 or auto.", metavar="TYPE", autocompletion=choices_of("dtype")
        ),
    ] = "auto",
    threads: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="CPU threads. Default: the physical cores.")
    ] = None,
    backend: Annotated[
        str,
        typer.Option(
            help="cpu (C++), reference (NumPy) or auto.", metavar="NAME", autocompletion=choices_of("backend")
        ),
    ] = "auto",
    what: Annotated[
        list[str] | None,
        typer.Option(
            help='Only these figures, such as decode, "decode b8" or "prefill 512"; repeat it for several.',
            metavar="FIGURE",
        ),
    ] = None,
    seconds: Annotated[float, typer.Option(min=0.0, metavar="S", help="Time for each figure.")] = 1.5,
    as_json: Annotated[
        bool, typer.Option("--json", metavar="", help="Print one line of JSON for each figure, or row of a profile.")
    ] = False,
    profile: Annotated[
        bool,
        typer.Option(
            "--profile", metavar="", help="Tell where the time of a step goes, by kinds of op. C++ kernels only."
        ),
    ] = False,
) -> None:
    """Measure a model's speed, beside the limits of this machine.

    Both limits are probed beside each figure, and it is shown as a share of
    them.

    Bandwidth: the bytes a step must move (all weights once, the states of its
    sequences read and written) each second, over the rate of reading memory.

    Peak (gemm_share in JSON): two operations for each multiply-add of the
    matrices of a step, each second, over the rate of the kernels on data in
    the first-level cache.

    With --profile, the same for each kind of op of a step, and its share of
    the step's time.
    """
    from wingbeat.bench.command import run
    from wingbeat.config import ConfigError

    try:
        run(
            model,
            shape,
            dtype=dtype,
            threads=threads,
            backend=backend,
            what=what or (),
            seconds=seconds,
            as_json=as_json,
            profiled=profile,
        )
    except (ConfigError, ValueError, OSError, MemoryError) as error:
        fail(error)
