"""Damages model files of every container in random ways and opens them.

    python benchmarks/fuzz_files.py [--seconds 60] [--seed 1] [--only 4711]

What must hold: a damaged file either loads or is refused with FormatError or UnsupportedModelError, in bounded time and
memory; nothing but the file's own folder is opened, and no program is started. Ends with status 1 when something does
not hold. An attempt that failed is made again by its number: --only N, with the same seed. POSIX only.
"""

from __future__ import annotations

import argparse
import logging
import random
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import FrameType

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from tests.model_files import q8_0, write_folder, write_gguf, write_rwkv_cpp  # noqa: E402
from tests.models.layouts import schemes  # noqa: E402
from tests.random_models import random_model, write_pth, write_safetensors  # noqa: E402

from wingbeat.formats.checkpoint import FormatError  # noqa: E402
from wingbeat.models.loader import UnsupportedModelError, load_checkpoint  # noqa: E402

PATIENCE = 10
"""Seconds for one attempt."""
MEMORY = 2 << 30
"""Bytes of addresses that the process may take beyond those that it has at the start, where that is known."""
NUMBERS = (
    0,
    1,
    2,
    7,
    31,
    255,
    256,
    2**16,
    2**31 - 1,
    2**31,
    2**32 - 1,
    2**40,
    2**60,
    2**62,
    2**63 - 1,
    2**63,
    2**64 - 1,
)
PIECES = (
    b"\0",
    b"\xff",
    b'"',
    b"{",
    b"}",
    b"[",
    b"]",
    b",",
    b"-1",
    b"1e999",
    b"../",
    b"/etc/passwd",
    b"null",
    b"R",
    b".",
)
STARTS_PROGRAMS = ("os.system", "os.exec", "os.posix_spawn", "subprocess.Popen", "socket.connect", "pickle.find_class")


class Watch:
    """Notes what Python's audit events tell of an attempt that should not happen."""

    def __init__(self, folder: Path) -> None:
        self.active = False
        self.seen: list[str] = []
        self._folder = str(folder)
        sys.addaudithook(self._hook)

    def _hook(self, event: str, arguments: tuple[object, ...]) -> None:
        if not self.active:
            return
        if event in STARTS_PROGRAMS:
            self.seen.append(f"{event}{arguments!r}"[:200])
        elif event == "open" and isinstance(arguments[0], str):
            path = arguments[0]
            if not path.startswith((self._folder, sys.prefix, sys.base_prefix, str(ROOT), "/proc", "/sys")):
                self.seen.append(f"opened {path}")


def make_seeds(folder: Path) -> list[Path]:
    """A small good file, or folder, of each container."""
    folder.mkdir()

    def model(version: str) -> dict:
        return random_model(version, layers=2, width=32, vocab=5, **({} if version == "4" else {"head_size": 16}))

    seven, six = model("7"), model("6")
    metadata = {"rwkv7.wkv.head_size": 16, "tokenizer.ggml.tokens": [b"a", b"b", b"\\x00", b"dddd", b""]}
    matrices = {
        name: q8_0(array) if name.endswith(("key.weight", "head.weight")) else array
        for name, array in schemes.gguf(seven, "7").items()
    }
    shutil.copy(ROOT / "tests/fixtures/torch/legacy.pth", folder / "legacy.pth")
    shutil.copy(ROOT / "tests/fixtures/torch/training.pth", folder / "training.pth")
    return [
        write_pth(folder / "seven.pth", seven),
        write_pth(folder / "four.pth", model("4")),
        folder / "legacy.pth",
        folder / "training.pth",
        write_safetensors(folder / "five.safetensors", model("5.2"), {"a": "b"}),
        write_safetensors(folder / "six.st", schemes.web_rwkv(six, "6")),
        write_gguf(folder / "seven.gguf", matrices, {"general.architecture": "rwkv7", **metadata}),
        write_gguf(folder / "six.gguf", schemes.gguf(six, "6"), {"general.architecture": "rwkv6"}),
        write_rwkv_cpp(folder / "five.bin", schemes.rwkv_cpp(model("5.1"), "5.1")),
        write_folder(folder / "fla", schemes.fla(seven, "7"), {"model_type": "rwkv7", "attn": None}, shards=2),
        write_folder(folder / "hf", schemes.hugging_face(six, "6"), {"model_type": "rwkv6"}),
    ]


def damaged(data: bytes, other: bytes, chance: random.Random) -> bytes:
    """The bytes with one to four changes, most of them near the beginning or the end, where headers are."""
    content = bytearray(data)
    for _ in range(chance.randint(1, 4)):
        at = min(int(chance.choice((1.0, 0.1, 0.02)) * chance.random() * len(content)), max(0, len(content) - 1))
        if chance.random() < 0.2:
            at = max(0, len(content) - at - 1)
        kind = chance.randrange(7)
        if kind == 0:
            content[at : at + 1] = bytes([chance.randrange(256)])
        elif kind == 1:
            size = chance.choice((1, 2, 4, 8))
            content[at : at + size] = (chance.choice(NUMBERS) % 256**size).to_bytes(size, "little")
        elif kind == 2:
            content[at:at] = chance.choice(PIECES)
        elif kind == 3:
            del content[at : at + chance.choice((1, 4, 8, 100))]
        elif kind == 4:
            del content[at:]
        elif kind == 5:
            begin = chance.randrange(max(1, len(other)))
            content[at:at] = other[begin : begin + chance.choice((8, 64, 500))]
        else:
            content[at : at + 8] = content[max(0, at - 64) : max(0, at - 56)]
    return bytes(content)


def attempt(number: int, seed: int, seeds: list[Path], folder: Path, watch: Watch) -> str:
    """Damage one file, open it and read some of it. Gives what came of it; raises what should not come out."""
    chance = random.Random(seed * 1_000_003 + number)
    source, other = chance.choice(seeds), chance.choice([path for path in seeds if path.is_file()])
    target = folder / source.name
    if source.is_dir():
        shutil.rmtree(target, ignore_errors=True)
        shutil.copytree(source, target)
        victim = chance.choice(sorted(target.iterdir()))
    else:
        shutil.copy(source, target)
        victim = target
    victim.write_bytes(damaged(victim.read_bytes(), other.read_bytes(), chance))
    signal.alarm(PATIENCE)
    watch.active = True
    try:
        loaded = load_checkpoint(target)
        for name in chance.sample(sorted(loaded.tensors), 5):
            loaded.tensors[name].read()
        return f"{source.name}: loaded"
    except (FormatError, UnsupportedModelError) as error:
        return f"{source.name}: refused" if str(error) else "refused without a word"
    finally:
        watch.active = False
        signal.alarm(0)


def too_slow(_signal: int, _frame: FrameType | None) -> None:
    raise TimeoutError(f"an attempt took more than {PATIENCE} s")


def limit_memory() -> None:
    """Let what takes too much memory fail."""
    facts = Path("/proc/self/statm")
    if facts.exists():
        limit = int(facts.read_text().split()[0]) * resource.getpagesize() + MEMORY
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


def fuzz(args: argparse.Namespace, folder: Path) -> tuple[Counter[str], list[str]]:
    seeds, watch = make_seeds(folder / "seeds"), Watch(folder)
    (folder / "attempts").mkdir()
    outcomes: Counter[str] = Counter()
    failures: list[str] = []
    more: Callable[[int], bool] = lambda number: number == args.only  # noqa: E731
    number = args.only or 0
    if args.only is None:
        end = time.monotonic() + args.seconds
        more = lambda _: time.monotonic() < end  # noqa: E731
    limit_memory()
    while more(number):
        try:
            outcomes[attempt(number, args.seed, seeds, folder / "attempts", watch)] += 1
        except Exception:
            failures.append(f"attempt {number}: {traceback.format_exc()}")
        failures += [f"attempt {number}: {what}" for what in watch.seen]
        watch.seen.clear()
        number += 1
    return outcomes, failures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", type=int, help="make this one attempt")
    args = parser.parse_args()
    logging.disable(logging.WARNING)
    warnings.simplefilter("error")  # a number that overflows would otherwise pass unseen
    signal.signal(signal.SIGALRM, too_slow)
    with tempfile.TemporaryDirectory() as folder:
        outcomes, failures = fuzz(args, Path(folder).resolve())
    for outcome, count in sorted(outcomes.items()):
        print(f"{count:8,} x {outcome}")
    print(f"largest memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:,.0f} MB")
    if failures:
        print("\n".join([f"{len(failures)} things are wrong:", *failures[:20]]))
        raise SystemExit(1)
    print("Everything held.")


if __name__ == "__main__":
    main()
