"""A worker's settings: from options, the environment, a TOML file, or defaults. The first to name one wins.

`--batch-rows` is `SEKISHO_BATCH_ROWS` in the environment and `batch_rows` in the file. Each setting is
written down once, as a field of `Settings`.
"""

import dataclasses
import difflib
import os
import ssl
import tomllib
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

import click
from faust.auth import SASLCredentials, SSLCredentials
from faust.types.auth import CredentialsT

from rules.rule import ROOT
from schemas.errors import UsageError
from sinks.metrics import DEFAULT_HOST, DEFAULT_PORT

PREFIX = "SEKISHO_"
PROTOCOLS = ("PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL")
MECHANISMS = ("PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512")
LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL")
MIB = 1 << 20


def _setting(default: Any, help: str, **more: Any) -> Any:
    """A field with its help text; `least` bounds numbers, `choices` texts, a `secret` is never an option.

    `shown` is what the help says of the default.
    """
    secret = bool(more.get("secret"))
    return field(default=default, repr=not secret, metadata={"help": help, **more})


@dataclass(frozen=True)
class Settings:
    """How a worker reads, judges and lands. Secrets are left out of its text form."""

    brokers: str = _setting("127.0.0.1:9092", "Kafka brokers to start from, as host:port,host:port.")
    lake: Path = _setting(  # noqa: RUF009
        Path("lake"), "Folder of the lake; created where it is missing."
    )
    rules: Path = _setting(  # noqa: RUF009
        ROOT, "Folder of the rules and suppressions.", shown="those built in"
    )
    group: str = _setting("sekisho", "Consumer group that shares the partitions.")
    instance_id: str = _setting(
        "",
        "Name of this worker in the group, kept over restarts, each at most once: a restart then moves no "
        "partition. Empty: a new member each time.",
    )
    security_protocol: str = _setting("PLAINTEXT", "How to talk to the brokers.", choices=PROTOCOLS)
    sasl_mechanism: str = _setting("SCRAM-SHA-512", "How to log in.", choices=MECHANISMS)
    sasl_username: str = _setting("", "User to log in as.")
    sasl_password: str = _setting("", "Password to log in with.", secret=True)
    ssl_ca: str = _setting("", "File of the authorities (PEM) that may sign a broker's certificate.")
    ssl_certificate: str = _setting("", "File of this client's certificate chain (PEM).")
    ssl_key: str = _setting("", "File of the certificate's private key (PEM).")
    ssl_key_password: str = _setting("", "Password of the private key.", secret=True)
    batch_rows: int = _setting(33_000, "Judge what was read once it has this many records,", least=1)
    batch_bytes: int = _setting(32 * MIB, "… or this many bytes of values,", least=1)
    batch_ms: int = _setting(
        100,
        "… or has waited for this many milliseconds; a second, where that is longer, as long as it has "
        "fewer than a fortieth of --batch-rows.",
        least=1,
    )
    commit_rows: int = _setting(1_000_000, "Commit to the lake once it has this many records,", least=1)
    commit_bytes: int = _setting(512 * MIB, "… or this many bytes of values,", least=1)
    commit_seconds: float = _setting(
        4.0, "… or is this many seconds old: a record is in the lake within five.", least=0.05
    )
    metrics: str = _setting(
        f"{DEFAULT_HOST}:{DEFAULT_PORT}",
        "Address to serve Prometheus metrics on, without a password; port 0 is any free one, `off` none.",
    )
    broker_away_seconds: float = _setting(60.0, "Give up when no broker has answered for this long.", least=1)
    session_seconds: float = _setting(
        30.0, "The group gives this worker's partitions away when it has been silent for this long.", least=1
    )
    partitions: int = _setting(
        0, "Create missing topics with this many partitions; 0 creates none and refuses to start.", least=0
    )
    log: str = _setting(
        "CRITICAL", "Show what Faust and the Kafka client log from this level on.", choices=LEVELS
    )
    accept_hole: tuple[str, ...] = _setting(
        (), "TOPIC:PARTITION whose missing records you give up; the gap is recorded in the lake. Repeatable."
    )

    @property
    def bootstrap(self) -> list[str]:
        return [address.strip() for address in self.brokers.split(",") if address.strip()]

    @property
    def metrics_address(self) -> tuple[str, int] | None:
        """Host and port to serve metrics on, or None."""
        if self.metrics == "off":
            return None
        host, _, port = self.metrics.rpartition(":")
        if not host or not port.isdecimal():
            raise UsageError(f"metrics: {self.metrics!r} is not host:port; write it like {DEFAULT_HOST}:9464")
        return host.strip("[]"), int(port)

    @property
    def accepted_holes(self) -> frozenset[tuple[str, int]]:
        """Topic and partition of each hole the operator accepts."""
        holes = []
        for text in self.accept_hole:
            topic, _, partition = text.rpartition(":")
            if not topic or not partition.isdecimal():
                raise UsageError(
                    f"accept-hole: {text!r} is not TOPIC:PARTITION; write it like custody.access:3"
                )
            holes.append((topic, int(partition)))
        return frozenset(holes)

    def kafka_python(self) -> dict[str, Any]:
        """Connection options of kafka-python's clients."""
        return {"bootstrap_servers": self.bootstrap, **self._security()}

    def aiokafka(self) -> dict[str, Any]:
        """Connection options of aiokafka's clients."""
        return {"bootstrap_servers": self.bootstrap, **self._security()}

    def faust_credentials(self) -> CredentialsT | None:
        """The same for Faust; None is an open connection."""
        if self.security_protocol == "PLAINTEXT":
            return None
        if self.security_protocol == "SSL":
            return SSLCredentials(context=self._ssl_context())
        return SASLCredentials(
            username=self.sasl_username,
            password=self.sasl_password,
            mechanism=self.sasl_mechanism,
            ssl_context=self._ssl_context(),
        )

    def _security(self) -> dict[str, Any]:
        security: dict[str, Any] = {"security_protocol": self.security_protocol}
        if self.security_protocol.startswith("SASL"):
            security["sasl_mechanism"] = self.sasl_mechanism
            security["sasl_plain_username"] = self.sasl_username
            security["sasl_plain_password"] = self.sasl_password
        if self.security_protocol.endswith("SSL"):
            security["ssl_context"] = self._ssl_context()
        return security

    def _ssl_context(self) -> ssl.SSLContext | None:
        if not self.security_protocol.endswith("SSL"):
            return None
        try:
            context = ssl.create_default_context(cafile=self.ssl_ca or None)
            if self.ssl_certificate:
                password = self.ssl_key_password or None
                context.load_cert_chain(self.ssl_certificate, self.ssl_key or None, password)
        except (OSError, ssl.SSLError) as error:
            raise UsageError(f"TLS: {error}; check ssl-ca, ssl-certificate and ssl-key") from error
        return context

    def check(self) -> None:
        """Raise UsageError when settings do not fit together."""
        if not self.bootstrap or any(":" not in address for address in self.bootstrap):
            raise UsageError(f"brokers: {self.brokers!r} is not host:port,host:port")
        if self.security_protocol.startswith("SASL") and not (self.sasl_username and self.sasl_password):
            raise UsageError(
                f"{self.security_protocol} needs sasl-username and {PREFIX}SASL_PASSWORD "
                "(or sasl_password in --config)"
            )
        if not self.group:
            raise UsageError("group: name the consumer group")
        _ = self.metrics_address, self.accepted_holes, self._ssl_context()


FIELDS = {item.name: item for item in dataclasses.fields(Settings)}


def load(
    options: Mapping[str, Any] | None = None,
    config: Path | None = None,
    environment: Mapping[str, str] = os.environ,
    defaults: Mapping[str, Any] = MappingProxyType({}),
) -> Settings:
    """Settings from options (None is not given), else the environment, else the file, else the defaults.

    `defaults` are the command's own, before those of `Settings`. Raises UsageError that names the setting and
    where it came from.
    """
    file = config or (Path(environment[f"{PREFIX}CONFIG"]) if environment.get(f"{PREFIX}CONFIG") else None)
    values = {**defaults}
    values |= {name: _parse(name, value, f"{name} in {file}") for name, value in _read(file).items()}
    for name in FIELDS:
        variable = f"{PREFIX}{name.upper()}"
        if environment.get(variable):
            values[name] = _parse(name, environment[variable], variable)
    for name, value in (options or {}).items():
        if value is not None and value != ():
            values[name] = _parse(name, value, f"--{name.replace('_', '-')}")
    settings = Settings(**values)
    settings.check()
    return settings


def connection(brokers: str | None = None) -> dict[str, Any]:
    """Connection options of kafka-python's clients, from the environment; `brokers` goes before it.

    Raises UsageError when they do not fit together.
    """
    return load({"brokers": brokers}).kafka_python()


def _read(file: Path | None) -> dict[str, Any]:
    if file is None:
        return {}
    try:
        values = tomllib.loads(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise UsageError(f"{file} cannot be read as TOML: {error}") from error
    for name in values:
        if name not in FIELDS:
            near = difflib.get_close_matches(name, FIELDS, 1)
            raise UsageError(
                f"{file}: there is no setting {name!r}" + (f"; did you mean {near[0]}?" if near else "")
            )
    return values


def _parse(name: str, value: Any, where: str) -> Any:
    kind, about = FIELDS[name].type, FIELDS[name].metadata
    if kind is int or kind is float:
        return _number(kind, value, about["least"], where)
    if kind is Path:
        return Path(value)
    if kind is str:
        choices = about.get("choices")
        if choices and value not in choices:
            raise UsageError(f"{where}: {value!r} is none of {', '.join(choices)}")
        if not isinstance(value, str):
            raise UsageError(f"{where}: {value!r} is not a text")
        return value
    items = value.split(",") if isinstance(value, str) else value
    return tuple(item.strip() for item in items if item.strip())


def _number(kind: Any, value: Any, least: float, where: str) -> int | float:
    what = "whole number" if kind is int else "number"
    try:
        if isinstance(value, bool) or (kind is int and isinstance(value, float)):
            raise ValueError
        number: int | float = kind(value)
        if not least <= number < float("inf"):
            raise ValueError
    except (TypeError, ValueError):
        raise UsageError(f"{where}: {value!r} is not a {what} of at least {least}") from None
    return number


def options(
    names: Collection[str] = tuple(FIELDS), defaults: Mapping[str, str] = MappingProxyType({})
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Give a click command one option for each of these settings that is no secret, and `--config`.

    `defaults` as for `load`: what the help tells.
    """

    def give(command: Callable[..., Any]) -> Callable[..., Any]:
        for name, item in reversed(FIELDS.items()):
            if name in names and not item.metadata.get("secret"):
                command = _option(name, item, defaults.get(name))(command)
        about = "TOML file of settings, with _ for - in their names; secrets go there or in the environment."
        return click.option("--config", type=click.Path(path_type=Path), help=about)(command)

    return give


def _option(name: str, item: Any, default: str | None) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    own = item.metadata.get("shown", item.default)
    shown: Any = default or (own if own not in ("", ()) else None)
    choices: Sequence[str] | None = item.metadata.get("choices")
    return click.option(
        f"--{name.replace('_', '-')}",
        name,
        type=click.Choice(choices) if choices else str,
        multiple=item.default == (),
        metavar=None if choices else _METAVARS[item.type],
        help=item.metadata["help"] + (f"  [default: {shown}]" if shown is not None else ""),
    )


_METAVARS = {int: "N", float: "N", str: "TEXT", Path: "PATH", tuple[str, ...]: "TEXT"}
