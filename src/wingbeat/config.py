"""One settings tree. Flags win over the environment (`WINGBEAT_...`), which wins over a TOML file."""

from __future__ import annotations

import difflib
import importlib.metadata
import ipaddress
import os
import re
from collections.abc import Collection
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from platformdirs import user_cache_path, user_data_path
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator
from pydantic_settings import (
    BaseSettings,
    NoDecode,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)
from pydantic_settings.exceptions import SettingsError

from wingbeat.adapter import Adapter
from wingbeat.demo import DEMO
from wingbeat.dtypes import QUANTS, full_name
from wingbeat.engine.messages import MOST_GUESSES, EngineConfig
from wingbeat.hub.folder import find_model, models_folder
from wingbeat.hub.source import HUGGING_FACE

DEFAULT_FILE = Path("wingbeat.toml")
"""Read from the working directory when no other file is named."""

ENV_PREFIX = "WINGBEAT_"

OTHER_VARIABLES = ("WINGBEAT_CACHE", "WINGBEAT_CONFIG", "WINGBEAT_KERNELS", "WINGBEAT_SKIP_ZEROS")
"""Of the environment, which are no settings."""

KUBERNETES = ("WINGBEAT_SERVICE_", "WINGBEAT_PORT_")
"""What it tells every container about a service that is called wingbeat."""

Words = Annotated[list[str], NoDecode]  # in the environment: separated by commas, not JSON


class ConfigError(Exception):
    """Settings that cannot be used; the message names each and says what is wrong."""


def _fit_to_send(key: str) -> str:
    """Raises ValueError for what no header brings as it is: spaces at its ends are cut off."""
    if not key.strip():
        raise ValueError("an API key must not be empty")
    if key != key.strip() or not key.isprintable():
        raise ValueError("an API key must have no spaces around it and no line ends: no client could send it")
    return key


class KeySettings(BaseModel):
    """A key with a name, and limits in place of those for all keys. 0 is no limit, None what holds for all."""

    model_config = ConfigDict(extra="forbid")

    name: str = Field(min_length=1, max_length=64)
    key: str = Field(min_length=1)
    requests_per_minute: int | None = Field(None, ge=0)
    tokens_per_minute: int | None = Field(None, ge=0)
    max_running: int | None = Field(None, ge=0)

    @field_validator("key")
    @classmethod
    def _check_key(cls, key: str) -> str:
        return _fit_to_send(key)


class AdapterSettings(BaseModel):
    """A file of fine-tuning that is merged into the model: LoRA, DoRA, PiSSA, DiSHA."""

    model_config = ConfigDict(extra="forbid")

    path: Path
    alpha: float | None = Field(None, allow_inf_nan=False)
    init: Path | None = None

    @property
    def adapter(self) -> Adapter:
        return Adapter(str(self.path), self.alpha, None if self.init is None else str(self.init))


def parse_adapter(text: str) -> dict[str, str]:
    """`FILE[,alpha=64][,init=FILE]`. Raises ValueError."""
    path, *options = text.split(",")
    fields = {"path": path.strip()}
    for option in options:
        name, equals, value = option.partition("=")
        if name.strip() not in ("alpha", "init") or not equals or not value.strip():
            raise ValueError(f"{option.strip()!r} is not alpha=NUMBER or init=FILE")
        fields[name.strip()] = value.strip()
    return fields


def parse_state(text: str) -> tuple[str, str]:
    """`NAME=FILE`, or a file whose name without its ending is the state's."""
    name, equals, path = text.partition("=")
    return (name.strip(), path.strip()) if equals else (Path(text).stem, text.strip())


class Settings(BaseSettings):
    """Everything that can be set. A field `max_batch` is `max_batch` in TOML, `WINGBEAT_MAX_BATCH` in the environment
    and `--max-batch` as a flag."""

    model_config = SettingsConfigDict(env_prefix=ENV_PREFIX, extra="forbid", validate_default=False)

    model: str = DEMO
    models_dir: Path | None = None
    hub: str | None = None
    tokenizer: str | None = None
    profile: str | None = None
    dtype: Literal["auto", "float32", "bfloat16", "int8", "int4", "nf4", "sf4"] = "auto"
    quant: Literal["int8", "int4", "nf4", "sf4"] | None = None
    quant_layers: int | None = Field(None, ge=0)
    strategy: str | None = None
    backend: Literal["auto", "cpu", "reference"] = "auto"
    threads: int | None = Field(None, ge=1)
    cache_packed: bool = False
    gn_eps: float | None = Field(None, gt=0, allow_inf_nan=False)
    loras: Annotated[list[AdapterSettings], NoDecode] = []
    states: Annotated[dict[str, Path], NoDecode] = {}
    default_state: str | None = None
    max_batch: int | None = Field(None, ge=1)
    token_budget: int = Field(512, ge=1)
    max_queue: int = Field(4096, ge=1)
    default_max_tokens: int = Field(32768, ge=1)
    speculative_tokens: int = Field(15, ge=0, le=MOST_GUESSES)
    cache_memory_mb: int | None = Field(None, ge=0)
    cache_dir: Path | None = None
    cache_disk_mb: int = Field(2048, ge=0)

    data_dir: Path | None = None
    session_days: float = Field(30, ge=0, allow_inf_nan=False)
    max_sessions_per_key: int = Field(1000, ge=1)

    embed_model: str | None = None
    embed_threads: int = Field(1, ge=1, le=1024)

    host: str = "127.0.0.1"
    port: int = Field(8000, ge=0, le=65535)
    api_keys: Words = []
    keys: list[KeySettings] = []
    key_requests_per_minute: int = Field(0, ge=0)
    key_tokens_per_minute: int = Field(0, ge=0)
    key_max_running: int = Field(0, ge=0)
    open_paths: Words = []
    cors_origins: Words = []
    any_model: bool = False
    allow_load: bool = False
    max_body_mb: float = Field(32, gt=0, allow_inf_nan=False)
    max_prompt_tokens: int = Field(1_000_000, ge=1)
    max_states_mb_per_key: float = Field(4096, ge=0, allow_inf_nan=False)
    state_hours: float = Field(24, gt=0, allow_inf_nan=False)
    shutdown_seconds: float = Field(30, ge=0, allow_inf_nan=False)

    log_level: Literal["debug", "info", "warning", "error"] = "info"
    log_format: Literal["auto", "text", "json"] = "auto"
    access_log: bool = True

    @field_validator("dtype", mode="before")
    @classmethod
    def _full_dtype(cls, value: Any) -> Any:
        return full_name(value) if isinstance(value, str) else value

    @field_validator("loras", mode="before")
    @classmethod
    def _adapters(cls, value: Any) -> Any:
        files = value.split(";") if isinstance(value, str) else value
        return [parse_adapter(each) if isinstance(each, str) else each for each in files if each]

    @field_validator("states", mode="before")
    @classmethod
    def _states(cls, value: Any) -> Any:
        files = [each for each in value.split(";") if each.strip()] if isinstance(value, str) else value
        if not isinstance(files, list):
            return files
        named = [parse_state(each) for each in files]
        if len(dict(named)) < len(named):
            raise ValueError("two of the states have the same name")
        return dict(named)

    @field_validator("hub")
    @classmethod
    def _check_hub(cls, address: str | None) -> str | None:
        if address is not None and not re.fullmatch(r"https?://[^/\s?#@]+(/[^\s?#]*)?", address):
            raise ValueError("it should be an address such as https://huggingface.co")
        return address

    @field_validator("api_keys", "open_paths", "cors_origins", mode="before")
    @classmethod
    def _split(cls, value: Any) -> Any:
        return [word.strip() for word in value.split(",") if word.strip()] if isinstance(value, str) else value

    @field_validator("api_keys", mode="before")
    @classmethod
    def _no_key_by_mistake(cls, value: Any) -> Any:
        # WINGBEAT_API_KEYS=$KEY with no KEY must not open the server to everyone
        if isinstance(value, str) and not value.replace(",", "").strip():
            raise ValueError("set, but empty: give a key, or leave it unset to serve without one")
        return value

    @field_validator("api_keys")
    @classmethod
    def _check_keys(cls, keys: list[str]) -> list[str]:
        return [_fit_to_send(key) for key in keys]

    @field_validator("open_paths")
    @classmethod
    def _check_paths(cls, paths: list[str]) -> list[str]:
        for path in paths:
            if not re.fullmatch(r"/[^\s?#]*", path):
                raise ValueError(f"{path!r} is not the path of a route, such as /metrics")
        return paths

    @model_validator(mode="after")
    def _one_way_to_quantise(self) -> Self:
        if self.strategy is not None and (self.dtype != "auto" or self.quant or self.quant_layers is not None):
            raise ValueError("strategy says what dtype, quant and quant_layers say: give one or the other")
        if self.quant is not None and self.dtype in QUANTS:
            raise ValueError(f"dtype {self.dtype} quantises everything: with quant it is bfloat16 or float32")
        return self

    @model_validator(mode="after")
    def _no_key_twice(self) -> Self:
        names = [entry.name for entry in self.keys]
        secrets = [*set(self.api_keys), *(entry.key for entry in self.keys)]
        for what, values in (("name", names), ("key", secrets)):
            if len(set(values)) < len(values):
                raise ValueError(f"keys: the same {what} is there twice")
        return self

    @property
    def needs_key(self) -> bool:
        """Whether any key is configured: then every route but /health and `open_paths` asks for one."""
        return bool(self.api_keys or self.keys)

    def model_path(self) -> Path:
        """The model's file or folder. Raises ConfigError when there is none."""
        try:
            return find_model(self.model, self.models_folder)
        except FileNotFoundError as error:
            raise ConfigError(str(error)) from None

    @property
    def models_folder(self) -> Path:
        """Where `wingbeat pull` puts models, and where they are found by name."""
        return models_folder(self.models_dir)

    @property
    def data_folder(self) -> Path:
        """Where the server keeps what clients have it keep."""
        return self.data_dir.expanduser() if self.data_dir else user_data_path("wingbeat", appauthor=False)

    @property
    def state_cache(self) -> Path:
        """Where states are cached on disk."""
        return (
            self.cache_dir.expanduser() if self.cache_dir else user_cache_path("wingbeat", appauthor=False) / "states"
        )

    @property
    def states_folder(self) -> Path:
        """Where the server keeps states, and where an operator may put some."""
        return self.data_folder / "states"

    @property
    def hub_address(self) -> str:
        """Of Hugging Face, or of the mirror to be used for it; HF_ENDPOINT is what other programs call that."""
        return self.hub or os.environ.get("HF_ENDPOINT") or HUGGING_FACE

    def engine_config(self) -> EngineConfig:
        """What the engine is told of this. Raises ConfigError when there is no such model."""
        return EngineConfig(
            model=str(self.model_path()),
            dtype=self.dtype,
            quant=self.quant,
            quant_layers=self.quant_layers,
            strategy=self.strategy,
            backend=self.backend,
            threads=self.threads,
            cache_packed=self.cache_packed,
            gn_eps=self.gn_eps,
            adapters=self.adapters,
            states={name: str(path) for name, path in self.states.items()},
            default_state=self.default_state,
            models_folder=str(self.models_folder),
            tokenizer=self.tokenizer,
            profile=self.profile,
            max_batch=self.max_batch,
            token_budget=self.token_budget,
            max_queue=self.max_queue,
            default_max_tokens=self.default_max_tokens,
            speculative_tokens=self.speculative_tokens,
            cache_memory=None if self.cache_memory_mb is None else self.cache_memory_mb * 2**20,
            cache_dir=str(self.state_cache),
            cache_disk=self.cache_disk_mb * 2**20,
        )

    @property
    def adapters(self) -> tuple[Adapter, ...]:
        return tuple(lora.adapter for lora in self.loras)

    @property
    def loopback(self) -> bool:
        """Whether only this machine can reach the server."""
        return is_loopback(self.host)

    @property
    def allowed_origins(self) -> list[str]:
        """Origins whose pages may call the server: those configured, else any on loopback and none elsewhere."""
        return self.cors_origins or (["*"] if self.loopback else [])


def is_loopback(host: str) -> bool:
    """Whether `host` names this machine alone."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def load_settings(flags: dict[str, Any] | None = None, file: Path | None = None) -> Settings:
    """Settings from `flags` (None means not given), the environment and a TOML file.

    The file is `file`, else `WINGBEAT_CONFIG`, else `wingbeat.toml` in the working directory if there is one.

    Raises:
        ConfigError: a value or a name is wrong, or the file cannot be read.
    """
    path = config_file(file)
    _check_variables()

    class Layered(Settings):
        @classmethod
        def settings_customise_sources(
            cls,
            settings_cls: type[BaseSettings],
            init_settings: PydanticBaseSettingsSource,
            env_settings: PydanticBaseSettingsSource,
            dotenv_settings: PydanticBaseSettingsSource,
            file_secret_settings: PydanticBaseSettingsSource,
        ) -> tuple[PydanticBaseSettingsSource, ...]:
            sources = (init_settings, env_settings)
            return (*sources, TomlConfigSettingsSource(settings_cls, path)) if path else sources

    given = {name: value for name, value in (flags or {}).items() if value is not None}
    try:
        return Settings.model_construct(**vars(Layered(**given)))
    except ValidationError as error:
        raise ConfigError("\n".join(_explain(problem) for problem in error.errors())) from None
    except SettingsError as error:  # a value in the environment that is not JSON; it may be a secret
        field = re.search(r'field "(\w+)"', str(error))
        raise ConfigError(f"{ENV_PREFIX}{field[1].upper() if field else ''}: this is not valid JSON") from None
    except (ValueError, OSError) as error:
        raise ConfigError(f"{path}: {error}" if path else str(error)) from None


def version() -> str:
    """The version of this installation."""
    try:
        return importlib.metadata.version("wingbeat")
    except importlib.metadata.PackageNotFoundError:  # run from the source tree
        return "unknown"


def config_file(file: Path | None = None) -> Path | None:
    """The TOML file that is read: `file`, else the one that `WINGBEAT_CONFIG` names, else the default if it is there.

    Raises ConfigError when the named one does not exist or is no file.
    """
    named = file or (Path(os.environ["WINGBEAT_CONFIG"]) if os.environ.get("WINGBEAT_CONFIG") else None)
    if named is None:
        return DEFAULT_FILE if DEFAULT_FILE.is_file() else None
    if not named.is_file():
        raise ConfigError(f"The configuration file {named} {'is no file' if named.exists() else 'does not exist'}.")
    return named


def _check_variables() -> None:
    """Raises ConfigError for a name in the environment that means nothing: a key that is misspelt protects nothing."""
    known = {*OTHER_VARIABLES, *(ENV_PREFIX + name.upper() for name in Settings.model_fields)}
    for name in sorted(os.environ):
        upper = name.upper()
        if upper.startswith(ENV_PREFIX) and upper not in known and not upper.startswith(KUBERNETES):
            raise ConfigError(_no_such_setting(name, upper, known))


def _no_such_setting(shown: str, name: str, known: Collection[str]) -> str:
    close = difflib.get_close_matches(name, known, 1)
    return f"{shown}: there is no such setting" + (f"; {close[0]} is one" if close else "")


def _explain(problem: Any) -> str:
    name = ".".join(str(part) for part in problem["loc"])
    if problem["type"] == "extra_forbidden":
        return _no_such_setting(name, name, Settings.model_fields if len(problem["loc"]) == 1 else ())
    message = problem["msg"].removeprefix("Value error, ")
    if not name:  # about several settings together; the message names them
        return message
    secret = name.startswith(("api_keys", "keys"))
    return f"{name}: {message}" if secret else f"{name}: {message} (it is {problem['input']!r})"
