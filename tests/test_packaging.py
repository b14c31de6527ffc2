"""What an installation holds, and what it asks for."""

from __future__ import annotations

import importlib.metadata
import tomllib
from pathlib import Path

from packaging.requirements import Requirement

import wingbeat
from wingbeat.llm import demo_model_path
from wingbeat.text.vocab import default_vocab_path

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def test_no_dependency_needs_torch() -> None:
    """Neither ours nor, for an installation without extras, those of our dependencies."""
    seen: set[str] = set()
    waiting = [Requirement(line) for line in PROJECT["project"]["dependencies"]]
    while waiting:
        requirement = waiting.pop()
        if requirement.name in seen or (requirement.marker and not requirement.marker.evaluate({"extra": ""})):
            continue
        seen.add(requirement.name)
        waiting += map(Requirement, importlib.metadata.requires(requirement.name) or [])
    assert len(seen) > 20
    assert {"torch", "nvidia-cublas-cu12", "transformers"} & seen == set()


def test_build_tools_are_those_of_the_build_system() -> None:
    """`make` builds without isolation, from a group that must say the same (and bring CMake and Ninja)."""
    group = PROJECT["dependency-groups"]["build"]
    assert set(PROJECT["build-system"]["requires"]) <= set(group)
    assert {Requirement(line).name for line in group} >= {"cmake", "ninja"}


def test_lists_are_sorted() -> None:
    for lines in (PROJECT["project"]["dependencies"], *PROJECT["project"]["optional-dependencies"].values()):
        names = [Requirement(line).name.lower().replace("_", "-") for line in lines]
        assert names == sorted(names)


def test_the_package_carries_its_data() -> None:
    package = Path(wingbeat.__file__).parent
    assert (package / "py.typed").is_file()
    assert (package / "demo" / "ORIGIN.md").is_file()
    demo = demo_model_path()
    assert demo.with_suffix(".vocab.txt").is_file()
    assert sum(path.stat().st_size for path in demo.parent.iterdir()) <= 16 * 2**20
    assert default_vocab_path().is_file()
