"""The settings: where they come from, and the errors for wrong ones."""

import dataclasses
import logging
import os
import tomllib
from collections.abc import Iterator
from pathlib import Path
from types import UnionType
from typing import Any, get_args, get_origin, get_type_hints

import pytest

from config import LONGEST_SOCKET_PATH, PREFIX, VERSION, Config, ConfigError
from interface.errors import LoadError
from serving.status import EngineStatus

TYPICAL: dict[str, tuple[str, Any]] = {
    "model": ("some/model", "some/model"),
    "model_name": ("org/small", "org/small"),
    "device": ("cuda:1", "cuda:1"),
    "dtype": ("bfloat16", "bfloat16"),
    "max_streams": ("4", 4),
    "max_waiting": ("0", 0),
    "context": ("512", 512),
    "prefill_chunk": ("64", 64),
    "compile": ("1", True),
    "compile_cache": ("/tmp/compiled", "/tmp/compiled"),
    "quantize": ("int8", "int8"),
    "heartbeat": ("0.5", 0.5),
    "stall": ("10", 10.0),
    "drain": ("1.5", 1.5),
    "hosts": ("models.example, other.example", ("models.example", "other.example")),
    "api_keys": ("first-key", ("first-key",)),
    "allow_origins": ("https://chat.example", ("https://chat.example",)),
}


def test_with_nothing_set_every_setting_has_its_default() -> None:
    assert Config.from_environment({}) == Config()
    assert Config.from_environment({"PATH": "/bin", "XENGINE_MODEL": "x", "engine_model": "x"}) == Config()


@pytest.mark.parametrize("name", TYPICAL)
def test_each_setting_can_be_made_in_the_environment(name: str) -> None:
    text, value = TYPICAL[name]
    assert Config.from_environment({PREFIX + name.upper(): text}) == dataclasses.replace(Config(), **{name: value})


TRIED = ("1", "2", "auto", "exit", "text", "own", "int8", "ngram", "float32", "http://127.0.0.1:30000", "a")
"""Of these, every setting takes one at least."""


@pytest.mark.parametrize("setting", dataclasses.fields(Config), ids=lambda setting: setting.name)
def test_every_setting_has_the_type_that_it_declares(setting: "dataclasses.Field[Any]") -> None:
    declared = get_type_hints(Config)[setting.name]
    kinds = get_args(declared) if isinstance(declared, UnionType) else (declared,)

    def taken() -> Iterator[Any]:
        for text in TRIED:
            try:
                yield setting.metadata["parse"](text)
            except ConfigError:
                continue

    values = list(taken())
    assert values
    assert all(isinstance(value, tuple(get_origin(kind) or kind for kind in kinds)) for value in values), values


def test_all_settings_can_be_given_together() -> None:
    environ = {PREFIX + name.upper(): text for name, (text, _) in TYPICAL.items()}
    config = Config.from_environment(environ)
    assert {name: getattr(config, name) for name in TYPICAL} == {name: value for name, (_, value) in TYPICAL.items()}


@pytest.mark.parametrize("unknown", ["ENGINE_max_streams", "ENGINE_", "ENGINE_VERBOSITY_LEVEL"])
def test_an_unknown_variable_is_an_error_that_lists_the_known_ones(unknown: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Config.from_environment({unknown: "4"})
    assert unknown in str(caught.value)
    for setting in dataclasses.fields(Config):
        assert PREFIX + setting.name.upper() in str(caught.value)


@pytest.mark.parametrize(
    ("typo", "nearest"),
    [
        ("ENGINE_CONTEX", "ENGINE_CONTEXT"),
        ("ENGINE_MAX_STREAM", "ENGINE_MAX_STREAMS"),
        ("ENGINE_MODEL_", "ENGINE_MODEL"),
    ],
)
def test_a_misspelt_variable_is_an_error_with_the_nearest_setting(typo: str, nearest: str) -> None:
    with pytest.raises(ConfigError, match=rf"{typo}: no such setting; did you mean {nearest}\?$"):
        Config.from_environment({typo: "512"})


@pytest.mark.parametrize(
    ("variable", "text"),
    [
        ("ENGINE_MODEL", ""),
        ("ENGINE_MODEL", "  "),
        ("ENGINE_DEVICE", "gpu"),
        ("ENGINE_DEVICE", "cuda:"),
        ("ENGINE_DEVICE", "cuda:x"),
        ("ENGINE_DEVICE", "cpu:0"),
        ("ENGINE_DEVICE", "cuda:128"),  # torch has room for a byte
        ("ENGINE_DEVICE", "cuda:01"),
        ("ENGINE_BACKEND_URL", "http://[::1"),
        ("ENGINE_BACKEND_URL", "http://127.0.0.1:99999"),
        ("ENGINE_BACKEND_URL", "http://127.0.0.1:0"),
        ("ENGINE_DTYPE", "fp16"),
        ("ENGINE_QUANTIZE", "int3"),
        ("ENGINE_DTYPE", "Float32"),
        ("ENGINE_MAX_STREAMS", "0"),
        ("ENGINE_MAX_STREAMS", "-1"),
        ("ENGINE_MAX_STREAMS", "4.0"),
        ("ENGINE_MAX_STREAMS", "many"),
        ("ENGINE_MAX_STREAMS", ""),
        ("ENGINE_MAX_STREAMS", "1000000001"),
        ("ENGINE_CLIENT_TOKENS", "9" * 99),
        ("ENGINE_MAX_WAITING", "-1"),
        ("ENGINE_CONTEXT", "1"),
        ("ENGINE_CONTEXT", "None"),
        ("ENGINE_PREFILL_CHUNK", "0"),
        ("ENGINE_HEARTBEAT", "0"),
        ("ENGINE_HEARTBEAT", "-1"),
        ("ENGINE_HEARTBEAT", "nan"),
        ("ENGINE_HEARTBEAT", "inf"),
        ("ENGINE_HEARTBEAT", "1e10"),  # more than a thread can wait
        ("ENGINE_STALL", "a minute"),
        ("ENGINE_DRAIN", ""),
    ],
)
def test_a_bad_value_is_an_error_that_says_what_was_expected_and_what_came(variable: str, text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Config.from_environment({variable: text})
    assert str(caught.value).startswith(f"{variable}: expected ")
    assert repr(text) in str(caught.value) or not text.strip()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("setting", dataclasses.fields(Config), ids=lambda setting: setting.name)
def test_a_value_of_thousands_of_characters_is_accepted_or_an_error_in_one_short_line(
    setting: "dataclasses.Field[Any]",
) -> None:
    variable = f"ENGINE_{setting.name.upper()}"
    for text in ("9" * 5000, "x\n\x1b" * 2000):
        try:
            Config.from_environment({variable: text})
        except ConfigError as error:
            message = str(error)
            assert message.startswith(f"{variable}: expected ")
            assert len(message) < 1000
            assert message.isprintable()


@pytest.mark.parametrize(
    ("variable", "texts"),
    [
        (
            "ENGINE_HOSTS",
            ["*.example", "https://a.example", "a.example:8000", "a.example/v1", "a b", "\u00e8.example"],
        ),
        (
            "ENGINE_ALLOW_ORIGINS",
            ["a.example", "https://a.example/", "https://*.example", "https://a.example/v1"],
        ),
    ],
)
def test_a_name_that_no_request_can_have_is_an_error_that_shows_a_right_one(variable: str, texts: list[str]) -> None:
    for text in texts:
        with pytest.raises(ConfigError, match=rf"^{variable}: expected .*\.example") as caught:
            Config.from_environment({variable: f"b.example,{text}" if "HOSTS" in variable else text})
        assert repr(text) in str(caught.value)


def test_hosts_and_origins_are_compared_in_small_letters() -> None:
    origins = "https://Chat.Example,null,app://obsidian.md,http://localhost:5173,http://[::1]:80,*"
    config = Config.from_environment({"ENGINE_HOSTS": "Models.Example,*", "ENGINE_ALLOW_ORIGINS": origins})
    assert config.hosts == ("models.example", "*")
    assert config.allow_origins == tuple(origins.lower().split(","))


def test_a_key_that_clients_would_write_in_different_ways_is_an_error_that_does_not_show_it(tmp_path: Path) -> None:
    (tmp_path / "keys").write_text("right\ns\u00e9cret", encoding="utf-8")
    (tmp_path / "no-text").write_bytes(b"\xff\xfe")
    for text in ("s\u00e9cret", "\u043a\u043b\u044e\u0447", f"@{tmp_path / 'keys'}", f"@{tmp_path / 'no-text'}"):
        with pytest.raises(ConfigError, match=r"^ENGINE_API_KEYS: expected ") as caught:
            Config.from_environment({"ENGINE_API_KEYS": text})
        assert "cret" not in str(caught.value)


@pytest.mark.parametrize(
    ("variable", "text"),
    [
        ("ENGINE_BACKEND_KEY", "s\u00e9cret"),
        ("ENGINE_BACKEND_KEY", "se\ncret"),
        ("ENGINE_BACKEND_URL", "http://user:secret@127.0.0.1:30000/v1"),
    ],
)
def test_a_backends_key_that_no_header_holds_and_a_password_in_its_url_are_errors_that_do_not_show_them(
    variable: str, text: str
) -> None:
    with pytest.raises(ConfigError, match=rf"^{variable}: expected ") as caught:
        Config.from_environment({variable: text})
    assert "cret" not in str(caught.value)


@pytest.mark.parametrize("name", ["x", "é"])
def test_a_socket_whose_path_no_socket_can_have_is_an_error_and_not_waited_for(name: str) -> None:
    longest = "/" + name * ((LONGEST_SOCKET_PATH - 1) // len(name.encode()))
    assert Config.from_environment({"ENGINE_SOCKET": longest}).socket == longest
    with pytest.raises(ConfigError, match=rf"^ENGINE_SOCKET: expected a path of at most {LONGEST_SOCKET_PATH} bytes"):
        Config.from_environment({"ENGINE_SOCKET": longest + 2 * name})


@pytest.mark.parametrize("name", ["MODEL", "MODEL_NAME", "BACKEND_URL", "SOCKET", "COMPILE_CACHE"])
def test_bytes_that_no_answer_could_hold_are_an_error(name: str) -> None:
    """A name in Latin-1 made each answer of /health a 500."""
    text = "http://caf" + os.fsdecode(b"\xe9")
    with pytest.raises(ConfigError, match=rf"^ENGINE_{name}: expected text in UTF-8, got 'http://caf"):
        Config.from_environment({f"ENGINE_{name}": text})


def test_a_path_may_begin_with_the_users_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No shell reads a systemd unit, or the file of a container's environment."""
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "keys").write_text("one\ntwo\n")
    variables = {"ENGINE_MODEL": "~/model", "ENGINE_COMPILE_CACHE": "~/libraries", "ENGINE_SOCKET": "~/engine.sock"}
    config = Config.from_environment({**variables, "ENGINE_API_KEYS": "@~/keys"})
    assert (config.model, config.compile_cache) == (f"{tmp_path}/model", f"{tmp_path}/libraries")
    assert (config.socket, config.api_keys) == (f"{tmp_path}/engine.sock", ("one", "two"))


def test_what_an_engine_is_told_are_the_settings_of_its_group() -> None:
    of_engine = Config(model="a/b", max_streams=3, api_keys=("secret",)).of_engine
    assert (of_engine["model"], of_engine["max_streams"]) == ("a/b", 3)
    assert not of_engine.keys() & {"api_keys", "heartbeat", "model_name", "socket"}


def test_a_config_does_not_change() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        Config().max_streams = 1  # type: ignore[misc]


def test_every_setting_says_what_it_is() -> None:
    for setting in dataclasses.fields(Config):
        assert setting.metadata["help"]


def test_a_model_may_be_served_under_several_names() -> None:
    config = Config.from_environment({"ENGINE_MODEL_NAME": " org/small , small "})
    assert EngineStatus(config, "loading").models == ("org/small", "small")
    for wrong in ("a,,b", "a,a", ","):
        with pytest.raises(ConfigError):
            Config.from_environment({"ENGINE_MODEL_NAME": wrong})


def test_a_model_without_a_name_goes_by_its_folders_files_or_hubs_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "small.gguf"
    file.touch()
    monkeypatch.chdir(tmp_path)
    folders = [(folder, tmp_path.name) for folder in (tmp_path, ".", "./", f"../{tmp_path.name}")]
    for model, name in (*folders, ("..", tmp_path.parent.name), (file, "small.gguf"), ("org/small", "org/small")):
        assert EngineStatus(Config(model=str(model)), "loading").models == (name,)


def test_why_a_model_cannot_be_loaded_is_text_that_an_answer_can_hold() -> None:
    status = EngineStatus(Config(), "loading")
    status.fail_to_load(LoadError("the folder has " + os.fsdecode(b"caf\xe9.bin")))
    assert status.text == r"failed to load: the folder has caf\udce9.bin"


LINKS = {
    "ENGINE_SERVICE_HOST": "10.0.0.1",
    "ENGINE_SERVICE_PORT": "80",
    "ENGINE_SERVICE_PORT_HTTP": "80",
    "ENGINE_PORT": "tcp://10.0.0.1:80",
    "ENGINE_PORT_80_TCP": "tcp://10.0.0.1:80",
    "ENGINE_PORT_80_TCP_PROTO": "tcp",
    "ENGINE_PORT_80_TCP_PORT": "80",
    "ENGINE_PORT_80_TCP_ADDR": "10.0.0.1",
    "ENGINE_WEB_SERVICE_HOST": "fd00::1",
    "ENGINE_WEB_PORT": "udp://[fd00::1]:53",
}


@pytest.mark.parametrize(("socket", "lines"), [(None, 1), ("/run/engine.sock", 0)])
def test_that_a_model_is_loaded_is_said_by_the_process_that_loads_it(
    socket: str | None, lines: int, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, "engine"):
        EngineStatus(Config(socket=socket), "loading").load(lambda config: None)
    assert caplog.text.count("Loading bundled_model …") == lines


def test_what_kubernetes_sets_for_a_service_of_this_name_is_ignored() -> None:
    assert Config.from_environment(LINKS | {"ENGINE_MAX_STREAMS": "4"}) == Config(max_streams=4)


@pytest.mark.parametrize("variable", LINKS)
@pytest.mark.parametrize("value", ["8600x", "", "true"])
def test_a_variable_that_has_only_the_name_of_such_a_link_is_refused(variable: str, value: str) -> None:
    with pytest.raises(ConfigError, match=f"^{variable}: no such setting; "):
        Config.from_environment(LINKS | {variable: value})


@pytest.mark.parametrize(("name", "value"), [("port", "8600"), ("host", "0.0.0.0"), ("workers", "2")])
def test_a_variable_named_like_a_flag_of_every_server_is_refused_with_the_flag(name: str, value: str) -> None:
    with pytest.raises(ConfigError, match=rf"^ENGINE_{name.upper()}: no such setting; .* --{name}$"):
        Config.from_environment({f"ENGINE_{name.upper()}": value})


def test_the_fingerprint_changes_with_what_changes_the_answers() -> None:
    plain = Config()
    assert plain.fingerprint == Config(max_streams=2, model_name="other").fingerprint
    others = [Config(dtype="float32"), Config(model="a/b"), Config(quantize="int8"), Config(backend="vllm")]
    assert len({config.fingerprint for config in (plain, *others)}) == 5


def test_the_version_is_the_projects() -> None:
    project = tomllib.loads(Path(__file__).parents[2].joinpath("pyproject.toml").read_text())
    assert project["project"]["version"] == VERSION
