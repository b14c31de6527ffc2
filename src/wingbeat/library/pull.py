"""What the `pull` command does: find out which file is meant, fetch it into the models folder, verify it."""

from __future__ import annotations

import functools
import hashlib
import sys
from pathlib import Path

from wingbeat.config import load_settings, version
from wingbeat.hub.catalogue import catalogue, find
from wingbeat.hub.download import DownloadError, Watch, client, download
from wingbeat.hub.names import listed
from wingbeat.hub.source import Wanted, from_catalogue, from_repository
from wingbeat.library.pile import fetch_tokenizer, is_pile_tokenizer, lacks_tokenizer, pile_tokenizer
from wingbeat.progress import progress_bar
from wingbeat.text.choose import PILE_NAME


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)  # standard output is for the path alone


WATCH = Watch(functools.partial(progress_bar, in_bytes=True, plain=True, speed=True), _say)


def run(
    name: str,
    file: str | None = None,
    *,
    hub: str | None = None,
    revision: str | None = None,
    models_dir: Path | None = None,
    force: bool = False,
    config: Path | None = None,
    watch: Watch = WATCH,
) -> Path:
    """Fetch a model, with the tokenizer if it is a Pile model; returns where it is. What is said goes to ``watch``.

    Raises ConfigError, DownloadError, ValueError or OSError with a message for the user.
    """
    settings = load_settings({"hub": hub, "models_dir": models_dir}, config)
    wanted = identify(name, file, settings.hub_address, revision)
    folder = settings.models_folder
    folder.mkdir(parents=True, exist_ok=True)
    destination = folder / wanted.name
    if destination.exists() and not force:
        _accept(destination, wanted, watch)
    elif is_pile_tokenizer(wanted.name):
        _fetch_tokenizer(settings.hub_address, folder, watch, replace=force)
    else:
        with client(version()) as http:
            fetched = download(http, wanted, destination, watch, replace=force)
        watch.say(_outcome(wanted.name, fetched.size, fetched.sha256, fetched.verified))
    if lacks_tokenizer(destination, folder):
        try:
            _fetch_tokenizer(settings.hub_address, folder, watch)
        except DownloadError as error:
            again = f"{destination} is here, but not its tokenizer: `wingbeat pull {PILE_NAME}` tries again"
            raise DownloadError(f"{error}\n{again}") from error
    return destination


def _fetch_tokenizer(hub: str, folder: Path, watch: Watch, *, replace: bool = False) -> None:
    with client(version()) as http:
        fetched = fetch_tokenizer(http, hub, folder, watch, replace=replace)
    watch.say(f"{fetched.path.name}, the tokenizer of the Pile models: its tokens are right.")


def identify(name: str, file: str | None, hub: str, revision: str | None = None) -> Wanted:
    """The file that is meant: of the catalogue, or ``owner/repository`` and the file in it. Raises ValueError."""
    if "://" in name:
        raise ValueError("a model is named, not given by its address: write owner/repository/file")
    if file is not None or "/" in name:
        if file is None and name.count("/") == 1:
            raise ValueError(f"{name} is a repository: name a file of it with --file. {_known_files(name)}")
        return from_repository(f"{name}/{file}" if file is not None else name, hub, revision)
    if is_pile_tokenizer(name):
        return pile_tokenizer(hub)
    match find(name):
        case [entry]:
            return from_catalogue(entry, hub, revision)
        case []:
            raise ValueError(
                f"the catalogue has no model {name!r}: `wingbeat list --remote` shows it. "
                "Other files are named as owner/repository/file"
            )
        case entries:
            raise ValueError(f"{name} could be any of {listed([entry.name for entry in entries])}: name one of them")


def _known_files(repository: str) -> str:
    known = [
        entry.name
        for entry in catalogue().values()
        if any(place and f"{place}/".startswith(f"{repository}/") for place in (entry.hugging_face, entry.model_scope))
    ]
    return f"Known are {listed(known)}" if known else ""


def _accept(there: Path, wanted: Wanted, watch: Watch) -> None:
    """Say what is known of the file that is there already; raises ValueError if it is not the wanted one."""
    if wanted.size is not None and there.stat().st_size != wanted.size:
        raise ValueError(
            f"{there} is there and has {there.stat().st_size} bytes, not {wanted.size}: move it away, "
            "or replace it with --force"
        )
    if wanted.sha256 is None:
        watch.say(f"{there.name} is there already; nothing is known to compare it with. --force fetches it again.")
        return
    digest = hashlib.sha256()
    with there.open("rb", 0) as file, watch.bar(f"Checking {there.name}") as show:
        done = 0
        while piece := file.read(1 << 20):
            digest.update(piece)
            show(done := done + len(piece), wanted.size or 0)
    if digest.hexdigest() != wanted.sha256:
        raise ValueError(f"{there} is there, but damaged or another file: move it away, or replace it with --force")
    watch.say(f"{there.name} is there already, and its sha256 is right.")


def _outcome(name: str, size: int, sha256: str, verified: bool) -> str:
    if verified:
        return f"{name}: {size / 1e6:,.0f} MB, its sha256 is right."
    return f"{name}: {size / 1e6:,.0f} MB. Not verified, since neither catalogue nor hub tell its sha256: {sha256}"
