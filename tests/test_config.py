from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from wingbeat.adapter import Adapter
from wingbeat.config import ConfigError, Settings, is_loopback, load_settings


@pytest.fixture(autouse=True)
def _clean(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No settings from the machine that runs the tests."""
    for name in [*Settings.model_fields, "config"]:
        monkeypatch.delenv(f"WINGBEAT_{name.upper()}", raising=False)
    monkeypatch.chdir(tmp_path)


def test_flags_win_over_the_environment_and_that_over_the_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "my.toml").write_text('port = 1\nmax_batch = 1\nmodel = "file.pth"\n')
    monkeypatch.setenv("WINGBEAT_MAX_BATCH", "2")
    monkeypatch.setenv("WINGBEAT_MODEL", "env.pth")
    settings = load_settings({"model": "flag.pth", "port": None}, tmp_path / "my.toml")
    assert (settings.port, settings.max_batch, settings.model) == (1, 2, "flag.pth")
    assert type(settings.max_batch) is int


def test_the_file_is_found_by_name_by_the_environment_or_in_the_folder(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert load_settings().port == 8000
    (tmp_path / "wingbeat.toml").write_text("port = 1")
    assert load_settings().port == 1
    (tmp_path / "other.toml").write_text("port = 2")
    monkeypatch.setenv("WINGBEAT_CONFIG", str(tmp_path / "other.toml"))
    assert load_settings().port == 2
    assert load_settings(file=tmp_path / "wingbeat.toml").port == 1
    with pytest.raises(ConfigError, match="does not exist"):
        load_settings(file=tmp_path / "none.toml")
    with pytest.raises(ConfigError, match="is no file"):
        load_settings(file=tmp_path)


def test_the_short_names_of_dtypes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WINGBEAT_DTYPE", "bf16")
    assert load_settings().dtype == "bfloat16"
    assert load_settings({"dtype": "fp32"}).dtype == "float32"


def test_the_data_folder_is_the_users_or_the_one_that_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert load_settings().data_folder.name == "wingbeat"
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("WINGBEAT_DATA_DIR", "~/kept")
    assert load_settings().data_folder == tmp_path / "kept"


def test_lists(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "wingbeat.toml").write_text('api_keys = ["file"]\ncors_origins = ["http://a.test"]')
    assert load_settings().api_keys == ["file"]
    for empty in ("", " ", ", ,"):
        monkeypatch.setenv("WINGBEAT_API_KEYS", empty)
        with pytest.raises(ConfigError, match="api_keys: set, but empty"):
            load_settings()
    monkeypatch.setenv("WINGBEAT_API_KEYS", "one, two")
    assert load_settings().api_keys == ["one", "two"]
    assert load_settings({"api_keys": ["flag"]}).api_keys == ["flag"]
    assert load_settings().cors_origins == ["http://a.test"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("prot = 1", "prot: there is no such setting; port is one$"),
        ("wings = 2", "wings: there is no such setting$"),
        ('port = "x"', "port: .*valid integer.*'x'"),
        ("port = 70000", "port: "),
        ("max_batch = 0", "max_batch: "),
        ('dtype = "int3"', "dtype: .*'float32', 'bfloat16'"),
        ("port = ", "wingbeat.toml: "),
        ('api_keys = [""]', "api_keys: an API key must not be empty$"),
        ('[[keys]]\nname = "a"\nkey = " "', r"keys.0.key: an API key must not be empty$"),
        ('api_keys = ["a", "b "]', "api_keys: an API key must have no spaces around it"),
        ('[[keys]]\nname = "a"\nkey = "b\\nc"', "keys.0.key: an API key must have .* no line ends"),
        ("max_body_mb = inf", "max_body_mb: .*finite"),
        ("shutdown_seconds = inf", "shutdown_seconds: .*finite"),
        ('[[keys]]\nname = "a"', r"keys.0.key: Field required"),
        ('[[keys]]\nname = "a"\nkey = "k"\nlimit = 3', r"keys.0.limit: there is no such setting$"),
        ('[[keys]]\nname = "a"\nkey = "k"\nmax_running = -1', "keys.0.max_running: .*greater than or equal to 0$"),
        ('api_keys = ["k"]\n[[keys]]\nname = "a"\nkey = "k"', "^keys: the same key is there twice$"),
        ('[[keys]]\nname="a"\nkey="k"\n[[keys]]\nname="a"\nkey="l"', "^keys: the same name is there twice$"),
    ],
)
def test_errors_name_the_setting(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "wingbeat.toml").write_text(text)
    with pytest.raises(ConfigError, match=message):
        load_settings()


def test_an_error_never_shows_a_key(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError) as caught:
        load_settings({"api_keys": ["secret", " "]})
    assert "secret" not in str(caught.value)


def test_a_misspelt_variable_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WINGBEAT_API_KEY", "secret")
    with pytest.raises(ConfigError, match=r"^WINGBEAT_API_KEY: there is no such setting; WINGBEAT_API_KEYS is one$"):
        load_settings()
    monkeypatch.delenv("WINGBEAT_API_KEY")
    for other in ("WINGBEAT_KERNELS", "WINGBEAT_SKIP_ZEROS", "WINGBEAT_SERVICE_HOST", "WINGBEAT_PORT_8000_TCP_ADDR"):
        monkeypatch.setenv(other, "x")
    assert load_settings().port == 8000


def test_named_keys_from_the_file_and_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    shown = (Path(__file__).parent.parent / "docs/operating.md").read_text(encoding="utf-8")
    (tmp_path / "wingbeat.toml").write_text(shown.split("```toml\n")[1].split("```")[0])
    settings = load_settings()
    assert (settings.key_requests_per_minute, settings.needs_key) == (600, True)
    assert [(key.name, key.requests_per_minute, key.max_running) for key in settings.keys] == [
        ("ann", None, None),
        ("nightly-evaluation", 0, 32),
    ]
    monkeypatch.setenv("WINGBEAT_KEYS", '[{"name": "bob", "key": "secret"}]')
    assert [(key.name, key.key) for key in load_settings().keys] == [("bob", "secret")]
    for broken in ("secret", '[{"nam": "secret", "key": "secret"}]'):
        monkeypatch.setenv("WINGBEAT_KEYS", broken)
        with pytest.raises(ConfigError, match=r"^(WINGBEAT_KEYS: this is not valid JSON$|keys\.0\.)") as caught:
            load_settings()
        assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("127.0.0.1", True),
        ("127.1.2.3", True),
        ("localhost", True),
        ("::1", True),
        ("[::1]", True),
        ("0.0.0.0", False),
        ("::", False),
        ("192.168.1.2", False),
        ("example.test", False),
    ],
)
def test_loopback(host: str, expected: bool) -> None:
    assert is_loopback(host) == expected


def test_origins_are_open_only_on_loopback() -> None:
    assert load_settings().allowed_origins == ["*"]
    assert load_settings({"host": "0.0.0.0"}).allowed_origins == []
    assert load_settings({"host": "0.0.0.0", "cors_origins": ["http://a.test"]}).allowed_origins == ["http://a.test"]


def test_adapters_and_states_in_each_form(tmp_path: Path) -> None:
    file = tmp_path / "wingbeat.toml"
    file.write_text('loras = [{ path = "a.pth", alpha = 64 }, "b.pth,init=i.pth"]\nstates = { poet = "p.pth" }\n')
    settings = load_settings(file=file)
    assert settings.adapters == (Adapter("a.pth", 64.0), Adapter("b.pth", None, "i.pth"))
    assert settings.states == {"poet": Path("p.pth")}
    flags = {"loras": ["x.pth,alpha=2.5", "y.lora"], "states": ["poet=p.pth", "folder/law.yer.pth"]}
    settings = load_settings(flags, file)
    assert settings.adapters == (Adapter("x.pth", 2.5), Adapter("y.lora"))
    assert settings.states == {"poet": Path("p.pth"), "law.yer": Path("folder/law.yer.pth")}


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"loras": ["a.pth,alpha=big"]}, "alpha"),
        ({"loras": ["a.pth,beta=2"]}, "'beta=2' is not alpha=NUMBER or init=FILE"),
        ({"states": ["a=x.pth", "a=y.pth"]}, "two of the states have the same name"),
    ],
)
def test_what_is_wrong_with_an_adapter_or_state_is_told(flags: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=message):
        load_settings(flags)


@pytest.mark.parametrize("path", ["metrics", "/a b", "http://x/metrics", "/x?y=1"])
def test_open_paths_are_paths(path: str) -> None:
    with pytest.raises(ConfigError, match="is not the path of a route"):
        load_settings(flags={"open_paths": [path]})
    assert load_settings(flags={"open_paths": ["/metrics"]}).open_paths == ["/metrics"]
