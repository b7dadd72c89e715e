"""Settings: precedence, one-line errors, and secrets that stay secret."""

from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from schemas.errors import UsageError
from stream import start_reconciler
from stream.commands import reconciler
from stream.settings import FIELDS, Settings, connection, load, options


def test_the_first_that_names_a_setting_wins(tmp_path: Path) -> None:
    file = tmp_path / "worker.toml"
    file.write_text('batch_rows = 1\nbatch_ms = 2\ngroup = "file"\naccept_hole = ["custody.access:1"]\n')
    environment = {"SEKISHO_BATCH_ROWS": "10", "SEKISHO_GROUP": "environment", "SEKISHO_LAKE": ""}
    settings = load({"group": "option", "lake": None, "accept_hole": ()}, file, environment)
    assert (settings.group, settings.batch_rows, settings.batch_ms) == ("option", 10, 2)
    assert settings.lake == Path("lake")
    assert settings.accepted_holes == {("custody.access", 1)}
    assert load(None, None, {"SEKISHO_CONFIG": str(file)}).group == "file"


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"SEKISHO_BATCH_ROWS": "many"}, "SEKISHO_BATCH_ROWS: 'many' is not a whole number of at least 1"),
        ({"SEKISHO_BATCH_ROWS": "0"}, "of at least 1"),
        ({"SEKISHO_COMMIT_SECONDS": "nan"}, "is not a number"),
        ({"SEKISHO_SECURITY_PROTOCOL": "TLS"}, "PLAINTEXT, SSL"),
        ({"SEKISHO_BROKERS": "localhost"}, "host:port"),
        ({"SEKISHO_SECURITY_PROTOCOL": "SASL_PLAINTEXT"}, "SEKISHO_SASL_PASSWORD"),
        ({"SEKISHO_METRICS": "9464"}, "metrics"),
        ({"SEKISHO_ACCEPT_HOLE": "custody.access"}, "TOPIC:PARTITION"),
        ({"SEKISHO_SECURITY_PROTOCOL": "SSL", "SEKISHO_SSL_CA": "/nowhere"}, "ssl-ca"),
        ({"SEKISHO_CONFIG": "/nowhere.toml"}, "/nowhere.toml"),
    ],
)
def test_errors_are_one_line_that_names_the_setting(given: dict[str, str], said: str) -> None:
    with pytest.raises(UsageError, match=said.replace("(", r"\(")) as caught:
        load(None, None, given)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "text", ["batch_row = 1", "batch_rows = 1.5", "batch_rows = true", "group = 1", "= 1"]
)
def test_a_file_with_a_mistake_is_refused(tmp_path: Path, text: str) -> None:
    file = tmp_path / "worker.toml"
    file.write_text(text)
    with pytest.raises(UsageError, match=r"worker\.toml"):
        load(None, file, {})


def test_a_misspelt_setting_is_guessed(tmp_path: Path) -> None:
    file = tmp_path / "worker.toml"
    file.write_text("batch_row = 1")
    with pytest.raises(UsageError, match="did you mean batch_rows"):
        load(None, file, {})


def test_secrets_are_neither_options_nor_printed() -> None:
    settings = Settings(sasl_password="hunter2", ssl_key_password="swordfish")
    assert "hunter2" not in repr(settings)
    assert "swordfish" not in str(settings)

    @click.command()
    @options()
    def command(**_: object) -> None: ...

    text = CliRunner().invoke(command, ["--help"]).output
    assert "--batch-rows" in text
    assert "--sasl-password" not in text
    assert all(f"--{name.replace('_', '-')}" in text for name in FIELDS if "password" not in name)


def test_options_reach_the_settings() -> None:
    seen: dict[str, object] = {}

    @click.command()
    @options()
    def command(config: Path | None, **given: object) -> None:
        seen["settings"] = load(given, config, {})

    arguments = [
        "--batch-rows",
        "7",
        "--accept-hole",
        "t:0",
        "--accept-hole",
        "t:1",
        "--security-protocol",
        "PLAINTEXT",
    ]
    assert CliRunner().invoke(command, arguments).exit_code == 0
    settings = seen["settings"]
    assert isinstance(settings, Settings)
    assert settings.batch_rows == 7
    assert settings.accepted_holes == {("t", 0), ("t", 1)}


@pytest.mark.parametrize(
    ("arguments", "served"),
    [([], 9465), (["--metrics", "127.0.0.1:9464"], 9464), (["--metrics", "127.0.0.1:0"], 0)],
)
def test_a_reconciler_serves_metrics_where_it_is_told(
    arguments: list[str], served: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Settings] = []
    monkeypatch.setattr("signal.signal", lambda *_: None)
    monkeypatch.setattr(start_reconciler, "run", lambda settings, *_: seen.append(settings))
    assert CliRunner().invoke(reconciler.command, arguments, catch_exceptions=False).exit_code == 0
    assert seen[0].metrics_address == ("127.0.0.1", served)


def test_clients_get_the_same_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    given = {
        "SASL_USERNAME": "u",
        "SASL_PASSWORD": "p",
        "SECURITY_PROTOCOL": "SASL_SSL",
        "BROKERS": "a:1, b:2",
    }
    for name, value in given.items():
        monkeypatch.setenv(f"SEKISHO_{name}", value)
    settings = load()
    expected = ("SASL_SSL", "SCRAM-SHA-512", "u", "p", ["a:1", "b:2"])
    for found in (settings.kafka_python(), settings.aiokafka(), connection()):
        names = (
            "security_protocol",
            "sasl_mechanism",
            "sasl_plain_username",
            "sasl_plain_password",
            "bootstrap_servers",
        )
        assert tuple(found[name] for name in names) == expected
        assert found["ssl_context"].check_hostname
    assert connection("c:3")["bootstrap_servers"] == ["c:3"]
    credentials = settings.faust_credentials()
    assert credentials is not None
    assert "p" not in repr(credentials).replace("username", "").split("=")[-1]
