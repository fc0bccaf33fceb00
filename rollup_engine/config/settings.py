"""Where this process runs and what it connects to: the environment's ROLLUP_ variables, and a .env file's.

Owns: the names, defaults and checks of the settings. Must never hold what is rolled up (that is the YAML), print a
password, or connect to anything.
"""

from __future__ import annotations

import os
import re
from datetime import timedelta
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any, Final, Literal, TypeAlias
from urllib.parse import urlsplit

from dotenv.parser import parse_stream
from pydantic import AfterValidator, BeforeValidator, Field, FilePath, SecretStr, ValidationError, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from rollup_engine import injection
from rollup_engine.config.durations import parse_duration
from rollup_engine.errors import ConfigError, Problem

PREFIX: Final = "ROLLUP_"
ENV_FILE: Final = ".env"

Place: TypeAlias = tuple[str | None, int | None]
"""File and line of a setting; both None in the environment."""

Protocol = Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"]
Mechanism = Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"]
Level = Literal["DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"]

# Kubernetes and Docker put these into a container that shares a network with a service called rollup-something.
_SERVICE_LINK = re.compile(r"_(SERVICE_HOST|SERVICE_PORT(_\w+)?|PORT_\d+_(TCP|UDP|SCTP)(_\w+)?)")


def _upper(value: object) -> object:
    return value.upper() if isinstance(value, str) else value


def _lower(value: object) -> object:
    return value.lower() if isinstance(value, str) else value


def _servers(value: str) -> str:
    if "://" in value or not all(re.fullmatch(r"\s*\S+\s*", part) for part in value.split(",")):
        raise ValueError("not a list of servers")
    return value


def _duration(value: object) -> object:
    return timedelta(milliseconds=parse_duration(value)) if isinstance(value, str) else value


def _database_url(value: str) -> str:
    if urlsplit(value).scheme not in ("postgresql", "postgres"):
        raise ValueError("not a Postgres URL")
    return value


class Settings(BaseSettings):
    """Every setting; `ROLLUP_` and the name in capitals sets it. None for a server means: start an embedded one.

    A description completes the sentence "Write …"; it is the hint when the value is wrong.
    """

    model_config = SettingsConfigDict(
        env_prefix=PREFIX, env_file=ENV_FILE, env_ignore_empty=True, extra="ignore", frozen=True
    )

    kafka_bootstrap_servers: Annotated[str, AfterValidator(_servers)] | None = Field(
        default=None, description="host:port, several of them joined by commas"
    )
    database_url: Annotated[str, AfterValidator(_database_url)] | None = Field(
        default=None, description="postgresql://user:password@host:5432/database", repr=False
    )
    config_dir: Path = Field(default=Path("rollups"), description="the directory of the rollup YAML files")
    metrics_dir: Path = Field(default=Path("metrics"), description="the directory of the metric files")
    metrics_database_url: Annotated[str, AfterValidator(_database_url)] | None = Field(
        default=None,
        description="postgresql://user:password@host:5432/database of a login that can only read",
        repr=False,
    )
    metrics_timeout_s: float = Field(default=30, ge=0.1, le=3600, description="seconds, from 0.1 to 3600")
    metrics_connections: int = Field(default=8, ge=1, le=100, description="a whole number from 1 to 100")
    metrics_rows_max: int = Field(default=100_000, ge=1, description="a whole number above 0")
    metrics_result_mb: int = Field(default=64, ge=1, le=1_024, description="a whole number from 1 to 1024")
    metrics_work_mem_mb: int = Field(default=32, ge=1, le=4_096, description="a whole number from 1 to 4096")
    state_dir: Path = Field(default=Path(".rollup-engine"), description="a directory for local state, on a local disk")
    app_id: str = Field(
        default="rollup-engine",
        pattern=r"^[a-zA-Z0-9._-]{1,60}$",
        description="1 to 60 of the characters a-z, A-Z, 0-9, '.', '_' and '-'",
    )
    partitions: int = Field(default=8, ge=1, le=256, description="a whole number from 1 to 256")
    partials_retention: Annotated[timedelta, BeforeValidator(_duration)] = Field(
        default=timedelta(hours=1), description="how long superseded partials stay, such as 1h, 30m or 0s"
    )

    kafka_security_protocol: Annotated[Protocol, BeforeValidator(_upper)] = Field(
        default="PLAINTEXT", description="PLAINTEXT, SSL, SASL_PLAINTEXT or SASL_SSL"
    )
    kafka_sasl_mechanism: Annotated[Mechanism | None, BeforeValidator(_upper)] = Field(
        default=None, description="PLAIN, SCRAM-SHA-256 or SCRAM-SHA-512"
    )
    kafka_sasl_username: str | None = Field(default=None, description="the user's name")
    kafka_sasl_password: SecretStr | None = Field(default=None, description="the user's password", repr=False)
    kafka_ssl_cafile: FilePath | None = Field(default=None, description="the path of a PEM file that exists")
    kafka_ssl_certfile: FilePath | None = Field(default=None, description="the path of a PEM file that exists")
    kafka_ssl_keyfile: FilePath | None = Field(default=None, description="the path of a PEM file that exists")

    web_host: str = Field(default="127.0.0.1", min_length=1, description="an address to listen on, such as 0.0.0.0")
    web_port: int | None = Field(default=None, ge=1, le=65_535, description="a port, 1 to 65535")
    api_host: str = Field(default="127.0.0.1", min_length=1, description="an address to listen on, such as 0.0.0.0")
    api_port: int = Field(default=6068, ge=1, le=65_535, description="a port, 1 to 65535")
    api_rate: str = Field(
        default="600/minute",
        pattern=r"^[1-9][0-9]{0,8}/(second|minute|hour)$",
        description="requests a key may make, such as 600/minute, 20/second or 5000/hour",
    )
    ingest_rate: str = Field(
        default="6000/minute",
        pattern=r"^[1-9][0-9]{0,8}/(second|minute|hour)$",
        description="calls with events that a key may make, such as 6000/minute, 100/second or 50000/hour",
    )
    ingest_events_max: int = Field(default=500, ge=1, le=10_000, description="a whole number from 1 to 10000")
    ingest_timeout_s: float = Field(default=10, ge=0.1, le=60, description="seconds, from 0.1 to 60")
    ingest_held_mb: int = Field(default=64, ge=16, le=4_096, description="a whole number from 16 to 4096")
    api_page_rows_max: int = Field(default=10_000, ge=1, le=100_000, description="a whole number from 1 to 100000")
    api_cache_rows: int = Field(default=200_000, ge=0, le=10_000_000, description="a whole number from 0 to 10000000")
    log_level: Annotated[Level, BeforeValidator(_upper)] = Field(
        default="INFO", description="DEBUG, INFO, WARNING, ERROR or CRITICAL"
    )
    log_format: Annotated[Literal["console", "json"], BeforeValidator(_lower)] = Field(
        default="console", description="console or json"
    )

    @model_validator(mode="after")
    def _security_fits_together(self) -> Settings:
        """A credential that would go unused is refused: it means that the protocol was forgotten.

        Raises ValueError with two arguments, message and hint.
        """
        protocol = self.kafka_security_protocol
        sasl = ("kafka_sasl_mechanism", "kafka_sasl_username", "kafka_sasl_password")
        tls = ("kafka_ssl_cafile", "kafka_ssl_certfile", "kafka_ssl_keyfile")
        for names, word in ((sasl, "SASL"), (tls, "SSL")):
            given = [name for name in names if getattr(self, name) is not None]
            if given and word not in protocol:
                wanted = f"{word}_SSL or {word}_PLAINTEXT" if word == "SASL" else "SSL or SASL_SSL"
                raise ValueError(
                    f"{_variable(given[0])} has no use with {PREFIX}KAFKA_SECURITY_PROTOCOL {protocol}",
                    f"Set that to {wanted}, or remove the former.",
                )
        missing = [name for name in sasl if getattr(self, name) is None]
        if "SASL" in protocol and missing:
            raise ValueError(
                f"{PREFIX}KAFKA_SECURITY_PROTOCOL {protocol} needs {' and '.join(map(_variable, missing))} as well",
                f"Set {'it' if len(missing) == 1 else 'them'}, or choose {protocol.replace('SASL_', '')}.",
            )
        if self.kafka_ssl_keyfile and not self.kafka_ssl_certfile:
            raise ValueError(f"{PREFIX}KAFKA_SSL_KEYFILE needs {PREFIX}KAFKA_SSL_CERTFILE beside it", "Set that too.")
        return self


def load_settings() -> Settings:
    """Settings from the environment, which wins, and from `.env` in the working directory.

    Raises ConfigError with every unknown ROLLUP_ variable and every bad value, each with what to write instead.
    """
    lines, problems = _read_env_file()
    env_file_broken = bool(problems)
    places: dict[str, Place] = {name: (ENV_FILE, line) for name, line in lines.items()}
    places |= {name.upper(): (None, None) for name in os.environ}
    for name, (file, line) in sorted(places.items()):
        known = name in _FIELDS or _is_service_link(name) or (name == injection.VARIABLE and file is None)
        if name.startswith(PREFIX) and not known:
            problems.append(Problem(file, line, None, f"{name} is not a setting", _nearest_setting(name)))
    try:
        # A file that cannot be parsed has its problem already, and reading it once more would log a warning.
        env_file = None if env_file_broken else ENV_FILE
        settings = Settings(_env_file=env_file)  # type: ignore[call-arg]  # pydantic-settings takes it beside the fields
    except ValidationError as error:
        for detail in error.errors():
            problems.append(_bad_value(detail, places))
        raise ConfigError(problems=problems) from None  # the cause would show the values, passwords too
    if problems:
        raise ConfigError(problems=problems)
    return settings


def _variable(field: str) -> str:
    return PREFIX + field.upper()


_FIELDS: Final = {_variable(field): field for field in Settings.model_fields}


def _nearest_setting(name: str) -> str:
    # The prefix they share would make any two names look alike.
    near = get_close_matches(name.removeprefix(PREFIX), [known.removeprefix(PREFIX) for known in _FIELDS], n=1)
    return f"Write {PREFIX}{near[0]} instead." if near else f"The settings are {', '.join(_FIELDS)}."


def _is_service_link(name: str) -> bool:
    return bool(_SERVICE_LINK.search(name)) or (name.endswith("_PORT") and "://" in os.environ.get(name, ""))


def _bad_value(detail: Any, places: dict[str, Place]) -> Problem:
    """`detail`: one of pydantic's errors. Without a location it is about several settings."""
    if not detail["loc"]:
        return Problem(None, None, None, *detail["ctx"]["error"].args)
    name = _variable(str(detail["loc"][0]))
    file, line = places.get(name, (None, None))
    field = Settings.model_fields[_FIELDS[name]]
    value = f" cannot be {str(detail['input'])!r}" if field.repr else " has a value that cannot be used"
    return Problem(file, line, None, f"{name}{value}", f"Write {field.description}.")


def _read_env_file() -> tuple[dict[str, int], list[Problem]]:
    """The line on which `.env` sets each variable, and the lines that set nothing. No file: neither."""
    try:
        with Path(ENV_FILE).open(encoding="utf-8") as stream:
            bindings = list(parse_stream(stream))
    except FileNotFoundError:
        return {}, []
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "not UTF-8 text"
        hint = "Save it as UTF-8, readable for this user."
        raise ConfigError(problems=[Problem(ENV_FILE, None, None, f"cannot be read ({reason})", hint)]) from error
    lines: dict[str, int] = {}
    problems: list[Problem] = []
    for binding in bindings:
        # A binding's text begins with the blank lines before it.
        text = binding.original.string
        line = binding.original.line + text[: len(text) - len(text.lstrip())].count("\n")
        if binding.error:
            hint = "Write NAME=value, or # before a comment."
            problems.append(Problem(ENV_FILE, line, None, "this line is not NAME=value", hint))
        elif binding.key:
            lines[binding.key.upper()] = line
    return lines, problems
