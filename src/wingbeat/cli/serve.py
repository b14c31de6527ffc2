"""`wingbeat serve`: the flags of the server."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from wingbeat.cli.common import choices_of, fail, files, model_files
from wingbeat.cli.model_options import (
    MODEL,
    Backend,
    CachePacked,
    DefaultState,
    Dtype,
    GnEps,
    Lora,
    ModelsDir,
    Profile,
    Quant,
    QuantLayers,
    State,
    Strategy,
    Threads,
    Tokenizer,
)

EXAMPLES = """\
Examples:
  wingbeat serve
  wingbeat serve /models/rwkv7-g1-0.4b.pth --dtype int8 --port 8080
  wingbeat serve /models/rwkv7-g1-0.4b.pth --host 0.0.0.0 --api-key SECRET
  wingbeat serve --config /etc/wingbeat.toml
"""

_SERVER, _LIMITS, _LOGS = "Server", "Limits", "Configuration and logs"


def serve(
    model: Annotated[
        str | None,
        typer.Argument(
            help="A model's file or folder, or the name of one that was pulled. Without it the small bundled "
            "demo is served.",
            autocompletion=model_files,
        ),
    ] = None,
    model_path: Annotated[
        str | None,
        typer.Option(help="The same, as a flag; `.pth` or `.safetensors` may be left out.", rich_help_panel=MODEL),
    ] = None,
    dtype: Dtype = None,
    quant: Quant = None,
    quant_layers: QuantLayers = None,
    strategy: Strategy = None,
    threads: Threads = None,
    backend: Backend = None,
    cache_packed: CachePacked = None,
    gn_eps: GnEps = None,
    lora: Lora = None,
    state: State = None,
    default_state: DefaultState = None,
    tokenizer: Tokenizer = None,
    profile: Profile = None,
    models_dir: ModelsDir = None,
    embed_model: Annotated[
        str | None,
        typer.Option(
            help="A text-embedding model in ONNX to offer too: a folder, owner/repository of the hub, or `default` for "
            "multilingual-e5-small. Needs wingbeat[embed].",
            rich_help_panel=MODEL,
        ),
    ] = None,
    embed_threads: Annotated[
        int | None,
        typer.Option(help="Threads of the embedding model. Default: 1.", rich_help_panel=MODEL),
    ] = None,
    max_batch: Annotated[
        int | None,
        typer.Option(help="Sequences generated at the same time. Default: by memory.", rich_help_panel=MODEL),
    ] = None,
    token_budget: Annotated[
        int | None,
        typer.Option(
            help="Tokens in one step; lower it if long prompts make streams stutter. Default: 512.",
            rich_help_panel=MODEL,
        ),
    ] = None,
    max_queue: Annotated[
        int | None,
        typer.Option(help="Sequences that may wait before new ones get 429. Default: 4096.", rich_help_panel=MODEL),
    ] = None,
    default_max_tokens: Annotated[
        int | None,
        typer.Option(
            help="The longest answer to a request that sets no limit itself. Default: 32768 tokens.",
            rich_help_panel=MODEL,
        ),
    ] = None,
    speculative_tokens: Annotated[
        int | None,
        typer.Option(
            help="Tokens guessed for a sequence in a step where its text repeats itself; 0 guesses none. Default: 15.",
            rich_help_panel=MODEL,
        ),
    ] = None,
    cache_memory_mb: Annotated[
        int | None,
        typer.Option(
            help="Memory for states of prompts that were read before; 0 keeps none. Default: an eighth of what is "
            "free, at most 2048.",
            rich_help_panel=MODEL,
        ),
    ] = None,
    cache_dir: Annotated[
        Path | None,
        typer.Option(
            help="Where such states are kept on disk. Default: the user's cache folder.",
            rich_help_panel=MODEL,
            metavar="FOLDER",
        ),
    ] = None,
    cache_disk_mb: Annotated[
        int | None, typer.Option(help="Disk for such states; 0 keeps none. Default: 2048.", rich_help_panel=MODEL)
    ] = None,
    data_dir: Annotated[
        Path | None,
        typer.Option(
            help="Where the server keeps what clients have it keep. Default: the user's data folder.",
            rich_help_panel=_SERVER,
            metavar="FOLDER",
        ),
    ] = None,
    session_days: Annotated[
        float | None,
        typer.Option(
            help="Days after which a session that nobody uses is deleted; 0 keeps all. Default: 30.",
            rich_help_panel=_SERVER,
        ),
    ] = None,
    host: Annotated[
        str | None,
        typer.Option(
            help="Address to listen on; 0.0.0.0 for every network. Default: 127.0.0.1, this machine only.",
            rich_help_panel=_SERVER,
        ),
    ] = None,
    port: Annotated[
        int | None, typer.Option(help="Port to listen on; 0 takes a free one. Default: 8000.", rich_help_panel=_SERVER)
    ] = None,
    api_key: Annotated[
        list[str] | None,
        typer.Option(
            "--api-key",
            "--password",
            help="A key that clients must send; repeat it for several. "
            "Better in the environment, WINGBEAT_API_KEYS=a,b: flags show in the list of processes.",
            rich_help_panel=_SERVER,
        ),
    ] = None,
    open_path: Annotated[
        list[str] | None,
        typer.Option(
            help="With keys: the path of a route that asks for none, such as /metrics; repeat it for several.",
            rich_help_panel=_SERVER,
        ),
    ] = None,
    cors_origin: Annotated[
        list[str] | None,
        typer.Option(
            help="A web origin whose pages may call the server; repeat it for several. "
            "Default: any while only this machine can reach the server, else none.",
            rich_help_panel=_SERVER,
        ),
    ] = None,
    any_model: Annotated[
        bool | None,
        typer.Option(
            "--any-model/--no-any-model", help="Serve requests whatever model they name.", rich_help_panel=_SERVER
        ),
    ] = None,
    allow_load: Annotated[
        bool | None,
        typer.Option(
            "--allow-load/--no-allow-load",
            help="Let clients load another model of the models folder. Default: no.",
            rich_help_panel=_SERVER,
        ),
    ] = None,
    shutdown_seconds: Annotated[
        float | None,
        typer.Option(
            help="How long running requests may go on once the server is told to stop. Default: 30.",
            rich_help_panel=_SERVER,
        ),
    ] = None,
    max_body_mb: Annotated[
        float | None, typer.Option(help="Larger requests get 413. Default: 32.", rich_help_panel=_LIMITS)
    ] = None,
    max_prompt_tokens: Annotated[
        int | None,
        typer.Option(help="Longer prompts get 400. Default: 1000000 tokens.", rich_help_panel=_LIMITS),
    ] = None,
    max_states_mb_per_key: Annotated[
        float | None,
        typer.Option(
            help="Megabytes of states that are kept for each key; without keys, for all clients together. "
            "Default: 4096.",
            rich_help_panel=_LIMITS,
        ),
    ] = None,
    state_hours: Annotated[
        float | None,
        typer.Option(
            help="How long a state without a name is kept after it was last used. Default: 24.",
            rich_help_panel=_LIMITS,
        ),
    ] = None,
    key_requests_per_minute: Annotated[
        int | None,
        typer.Option(
            help="Requests a minute for each key; without keys, for all clients together. Default: 0, no limit.",
            rich_help_panel=_LIMITS,
        ),
    ] = None,
    key_tokens_per_minute: Annotated[
        int | None,
        typer.Option(help="Likewise, tokens of prompts and answers. Default: 0, no limit.", rich_help_panel=_LIMITS),
    ] = None,
    key_max_running: Annotated[
        int | None,
        typer.Option(
            help="Likewise, sequences that run or wait at the same time. Default: 0, no limit.", rich_help_panel=_LIMITS
        ),
    ] = None,
    max_sessions_per_key: Annotated[
        int | None,
        typer.Option(
            help="Sessions of each key; of more, the least recently used is deleted. Default: 1000.",
            rich_help_panel=_LIMITS,
        ),
    ] = None,
    config: Annotated[
        Path | None,
        typer.Option(
            help="TOML file with these settings. Default: ./wingbeat.toml if present.",
            rich_help_panel=_LOGS,
            autocompletion=files(".toml"),
        ),
    ] = None,
    log_level: Annotated[
        str | None,
        typer.Option(
            help="debug, info, warning or error.",
            rich_help_panel=_LOGS,
            metavar="LEVEL",
            autocompletion=choices_of("log_level"),
        ),
    ] = None,
    log_format: Annotated[
        str | None,
        typer.Option(
            help="text, json (one object a line) or auto.",
            rich_help_panel=_LOGS,
            metavar="FORMAT",
            autocompletion=choices_of("log_format"),
        ),
    ] = None,
    access_log: Annotated[
        bool | None,
        typer.Option(
            "--access-log/--no-access-log", help="Log each request when it ends. Default: yes.", rich_help_panel=_LOGS
        ),
    ] = None,
) -> None:
    """Serve a model over HTTP.

    It speaks OpenAI's API under /v1 and describes it at /docs; Ctrl-C stops it.
    Every flag can also be set in a TOML file (max_batch = 8) or in the
    environment (WINGBEAT_MAX_BATCH=8). Flags win over the environment, and the
    environment wins over the file.
    """
    flags = {
        "model": model if model_path is None else _with_suffix(model_path),
        "models_dir": models_dir,
        "embed_model": embed_model,
        "embed_threads": embed_threads,
        "dtype": dtype,
        "quant": quant,
        "quant_layers": quant_layers,
        "strategy": strategy,
        "threads": threads,
        "backend": backend,
        "cache_packed": cache_packed,
        "gn_eps": gn_eps,
        "loras": lora or None,
        "states": state or None,
        "default_state": default_state,
        "tokenizer": tokenizer,
        "profile": profile,
        "max_batch": max_batch,
        "token_budget": token_budget,
        "max_queue": max_queue,
        "default_max_tokens": default_max_tokens,
        "speculative_tokens": speculative_tokens,
        "cache_memory_mb": cache_memory_mb,
        "cache_dir": cache_dir,
        "cache_disk_mb": cache_disk_mb,
        "data_dir": data_dir,
        "session_days": session_days,
        "host": host,
        "port": port,
        "api_keys": api_key or None,
        "open_paths": open_path or None,
        "cors_origins": cors_origin or None,
        "any_model": any_model,
        "allow_load": allow_load,
        "shutdown_seconds": shutdown_seconds,
        "max_body_mb": max_body_mb,
        "max_prompt_tokens": max_prompt_tokens,
        "max_states_mb_per_key": max_states_mb_per_key,
        "state_hours": state_hours,
        "key_requests_per_minute": key_requests_per_minute,
        "key_tokens_per_minute": key_tokens_per_minute,
        "key_max_running": key_max_running,
        "max_sessions_per_key": max_sessions_per_key,
        "log_level": log_level,
        "log_format": log_format,
        "access_log": access_log,
    }
    _serve(flags, config)


def _with_suffix(path: str) -> str:
    """The file that a name without its ending means."""
    files = (f"{path}{ending}" for ending in (".pth", ".safetensors"))
    return path if Path(path).exists() else next((file for file in files if Path(file).is_file()), path)


def _serve(flags: dict[str, Any], config: Path | None) -> None:
    from wingbeat.config import ConfigError, load_settings  # these take a while: not for --help
    from wingbeat.server.run import CannotServe, serve

    try:
        serve(load_settings(flags, config))
    except (ConfigError, CannotServe) as error:
        fail(error)
