"""The tokenizer of the Pile models, which their files lack: `wingbeat pull` fetches it into the models folder."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import httpx

from wingbeat.engine.vocabulary import load_tokenizer
from wingbeat.hub.download import DownloadError, Fetched, Watch, download
from wingbeat.hub.source import Wanted, from_repository
from wingbeat.models.loader import load_checkpoint
from wingbeat.text.bpe import BpeTokenizer
from wingbeat.text.choose import PILE_NAME, kind_of
from wingbeat.text.vocab import VocabError

PLACE = "EleutherAI/gpt-neox-20b/tokenizer.json"
"""On the hub. No sha256 is known that would hold for all mirrors' copies: what came is opened and looked at."""


def is_pile_tokenizer(name: str) -> bool:
    """Whether this asks for the tokenizer alone."""
    return name.lower() == PILE_NAME.lower()


def pile_tokenizer(hub: str) -> Wanted:
    return replace(from_repository(PLACE, hub), name=PILE_NAME)


def lacks_tokenizer(model: Path, folder: Path) -> bool:
    """Whether the file is a Pile model's and has no tokenizer yet."""
    try:
        loaded = load_checkpoint(model)
        rows = loaded.info.vocab_size
        return kind_of(rows) == "20b" and load_tokenizer(model, rows, None, loaded.metadata, folder) is None
    except (ValueError, OSError):  # `wingbeat info` says what is wrong with it
        return False


def fetch_tokenizer(http: httpx.Client, hub: str, folder: Path, watch: Watch, *, replace: bool = False) -> Fetched:
    """Into ``folder``. Raises DownloadError, also for another tokenizer, which does not stay; OSError."""
    wanted = pile_tokenizer(hub)
    fetched = download(http, wanted, folder / wanted.name, watch, replace=replace)
    try:
        tokenizer = BpeTokenizer(fetched.path)
        if tokenizer.kind != "20b" or kind_of(tokenizer.vocab_size) != "20b":
            raise VocabError("its tokens are others")
    except (VocabError, OSError) as error:
        fetched.path.unlink()
        raise DownloadError(
            f"what came from {wanted.sources[0].url} is not the 20B tokenizer ({error}), and has been deleted. "
            "Try another --hub"
        ) from error
    return fetched
