"""Settings: what each variable means, and that a wrong or misspelt one is named, never echoed where it is secret."""

from __future__ import annotations

import os
import traceback
from datetime import timedelta
from pathlib import Path

import pytest

from rollup_engine.config.settings import Settings, load_settings
from rollup_engine.errors import ConfigError


@pytest.fixture(autouse=True)
def empty_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in os.environ:
        if name.upper().startswith("ROLLUP_"):
            monkeypatch.delenv(name)


def refused() -> list[str]:
    with pytest.raises(ConfigError) as caught:
        load_settings()
    assert caught.value.exit_status == 2
    return [str(problem) for problem in caught.value.problems]


def test_defaults() -> None:
    assert load_settings().model_dump() == {
        "kafka_bootstrap_servers": None,
        "database_url": None,
        "config_dir": Path("rollups"),
        "metrics_dir": Path("metrics"),
        "metrics_database_url": None,
        "metrics_timeout_s": 30,
        "metrics_connections": 8,
        "metrics_rows_max": 100_000,
        "metrics_result_mb": 64,
        "metrics_work_mem_mb": 32,
        "api_host": "127.0.0.1",
        "api_port": 6068,
        "api_rate": "600/minute",
        "ingest_rate": "6000/minute",
        "ingest_events_max": 500,
        "ingest_timeout_s": 10,
        "ingest_held_mb": 64,
        "api_page_rows_max": 10_000,
        "api_cache_rows": 200_000,
        "state_dir": Path(".rollup-engine"),
        "app_id": "rollup-engine",
        "partitions": 8,
        "partials_retention": timedelta(hours=1),
        "kafka_security_protocol": "PLAINTEXT",
        "kafka_sasl_mechanism": None,
        "kafka_sasl_username": None,
        "kafka_sasl_password": None,
        "kafka_ssl_cafile": None,
        "kafka_ssl_certfile": None,
        "kafka_ssl_keyfile": None,
        "web_host": "127.0.0.1",
        "web_port": None,
        "log_level": "INFO",
        "log_format": "console",
    }


def test_every_setting_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("ca.pem", "cert.pem", "key.pem"):
        Path(name).touch()
    given = {
        "KAFKA_BOOTSTRAP_SERVERS": "a:9092, [::1]:9093",
        "DATABASE_URL": "postgresql:///rollups?host=/run/pg",
        "CONFIG_DIR": "/etc/rollups",
        "METRICS_DIR": "/etc/metrics",
        "METRICS_DATABASE_URL": "postgresql:///metrics",
        "METRICS_TIMEOUT_S": "2.5",
        "METRICS_CONNECTIONS": "3",
        "METRICS_ROWS_MAX": "1000",
        "METRICS_RESULT_MB": "10",
        "METRICS_WORK_MEM_MB": "8",
        "API_HOST": "::",
        "API_PORT": "8080",
        "API_RATE": "20/second",
        "INGEST_RATE": "9/hour",
        "INGEST_EVENTS_MAX": "1000",
        "INGEST_TIMEOUT_S": "2.5",
        "INGEST_HELD_MB": "128",
        "API_PAGE_ROWS_MAX": "100",
        "API_CACHE_ROWS": "0",
        "STATE_DIR": "/var/lib/rollups",
        "APP_ID": "eu.billing-2_a",
        "PARTITIONS": "256",
        "PARTIALS_RETENTION": "1h30m",
        "KAFKA_SECURITY_PROTOCOL": "sasl_ssl",
        "KAFKA_SASL_MECHANISM": "scram-sha-512",
        "KAFKA_SASL_USERNAME": "me",
        "KAFKA_SASL_PASSWORD": "hunter2",
        "KAFKA_SSL_CAFILE": "ca.pem",
        "KAFKA_SSL_CERTFILE": "cert.pem",
        "KAFKA_SSL_KEYFILE": "key.pem",
        "WEB_HOST": "0.0.0.0",
        "WEB_PORT": "8080",
        "LOG_LEVEL": "debug",
        "LOG_FORMAT": "JSON",
    }
    assert set(given) == {name.upper() for name in Settings.model_fields}
    for name, value in given.items():
        monkeypatch.setenv(f"ROLLUP_{name}", value)
    settings = load_settings()
    read = {name.upper(): str(value) for name, value in settings.model_dump().items()}
    normalized = {"KAFKA_SECURITY_PROTOCOL": "SASL_SSL", "KAFKA_SASL_MECHANISM": "SCRAM-SHA-512"}
    normalized |= {"PARTIALS_RETENTION": "1:30:00"}
    normalized |= {"KAFKA_SASL_PASSWORD": "**********", "LOG_LEVEL": "DEBUG", "LOG_FORMAT": "json"}
    assert read == given | normalized
    assert settings.kafka_sasl_password is not None
    assert settings.kafka_sasl_password.get_secret_value() == "hunter2"
    assert "hunter2" not in repr(settings)
    assert "postgresql" not in repr(settings)


def test_the_environment_wins_over_the_env_file(monkeypatch: pytest.MonkeyPatch) -> None:
    Path(".env").write_text("# ours\nexport ROLLUP_PARTITIONS=3\nROLLUP_APP_ID='eu'\nOTHER=1\nrollup_web_port=99\n")
    monkeypatch.setenv("ROLLUP_PARTITIONS", "4")
    settings = load_settings()
    assert (settings.partitions, settings.app_id, settings.web_port) == (4, "eu", 99)


def test_an_empty_variable_is_as_good_as_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ROLLUP_WEB_PORT", "")
    assert load_settings().web_port is None


BAD_VALUES = {
    "KAFKA_BOOTSTRAP_SERVERS=kafka://a:9092": "cannot be 'kafka://a:9092'. Write host:port, several of them joined "
    "by commas.",
    "KAFKA_BOOTSTRAP_SERVERS=a:9092,": "cannot be 'a:9092,'. Write host:port, several of them joined by commas.",
    "DATABASE_URL=mysql://me:hunter2@host/db": "has a value that cannot be used. "
    "Write postgresql://user:password@host:5432/database.",
    "APP_ID=a b": "cannot be 'a b'. Write 1 to 60 of the characters a-z, A-Z, 0-9, '.', '_' and '-'.",
    f"APP_ID={'a' * 61}": f"cannot be '{'a' * 61}'. Write 1 to 60 of the characters a-z, A-Z, 0-9, '.', '_' and '-'.",
    "PARTITIONS=0": "cannot be '0'. Write a whole number from 1 to 256.",
    "PARTITIONS=257": "cannot be '257'. Write a whole number from 1 to 256.",
    "PARTITIONS=many": "cannot be 'many'. Write a whole number from 1 to 256.",
    "KAFKA_SECURITY_PROTOCOL=TLS": "cannot be 'TLS'. Write PLAINTEXT, SSL, SASL_PLAINTEXT or SASL_SSL.",
    "KAFKA_SASL_MECHANISM=GSSAPI": "cannot be 'GSSAPI'. Write PLAIN, SCRAM-SHA-256 or SCRAM-SHA-512.",
    "KAFKA_SSL_CAFILE=no.pem": "cannot be 'no.pem'. Write the path of a PEM file that exists.",
    "WEB_PORT=65536": "cannot be '65536'. Write a port, 1 to 65535.",
    "LOG_LEVEL=LOUD": "cannot be 'LOUD'. Write DEBUG, INFO, WARNING, ERROR or CRITICAL.",
    "LOG_FORMAT=xml": "cannot be 'xml'. Write console or json.",
}


@pytest.mark.parametrize("assignment", BAD_VALUES)
def test_a_bad_value_is_named_with_what_to_write(assignment: str, monkeypatch: pytest.MonkeyPatch) -> None:
    name, _, value = assignment.partition("=")
    monkeypatch.setenv(f"ROLLUP_{name}", value)
    assert refused() == [f"ROLLUP_{name} {BAD_VALUES[assignment]}"]


def test_a_traceback_does_not_show_passwords(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ROLLUP_DATABASE_URL", "mysql://me:hunter2@host/db")
    with pytest.raises(ConfigError) as caught:
        load_settings()
    assert "hunter2" not in "".join(traceback.format_exception(caught.value))


def test_a_misspelt_variable_is_named_with_the_nearest_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ROLLUP_KAFKA_BOOTSTRAP_SERVER", "a:9092")
    monkeypatch.setenv("ROLLUP_PARTITION", "3")
    monkeypatch.setenv("ROLLUP_XYZ", "3")
    bootstrap, partition, other = refused()
    assert bootstrap == "ROLLUP_KAFKA_BOOTSTRAP_SERVER is not a setting. Write ROLLUP_KAFKA_BOOTSTRAP_SERVERS instead."
    assert partition == "ROLLUP_PARTITION is not a setting. Write ROLLUP_PARTITIONS instead."
    assert other.startswith("ROLLUP_XYZ is not a setting. The settings are ROLLUP_KAFKA_BOOTSTRAP_SERVERS, ROLLUP_DATA")


def test_all_problems_of_the_env_file_have_their_lines(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    Path(".env").write_text("# ours\n\n\nROLLUP_PARTITION=3\nROLLUP_WEB_PORT=x\n")
    monkeypatch.setenv("ROLLUP_LOG_LEVEL", "LOUD")
    assert refused() == [
        ".env:4: ROLLUP_PARTITION is not a setting. Write ROLLUP_PARTITIONS instead.",
        ".env:5: ROLLUP_WEB_PORT cannot be 'x'. Write a port, 1 to 65535.",
        "ROLLUP_LOG_LEVEL cannot be 'LOUD'. Write DEBUG, INFO, WARNING, ERROR or CRITICAL.",
    ]
    Path(".env").write_text("ROLLUP_APP_ID=x\n\n?? x\n")
    assert refused()[0] == ".env:3: this line is not NAME=value. Write NAME=value, or # before a comment."
    Path(".env").write_bytes(b"\xff")
    assert refused() == [".env: cannot be read (not UTF-8 text). Save it as UTF-8, readable for this user."]
    assert not caplog.records, "the library's warning about the same line"


def test_what_kubernetes_adds_for_a_service_of_that_name_is_not_a_misspelling(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ROLLUP_ENGINE_SERVICE_HOST", "10.0.0.1")
    monkeypatch.setenv("ROLLUP_ENGINE_SERVICE_PORT_HTTP", "80")
    monkeypatch.setenv("ROLLUP_ENGINE_PORT", "tcp://10.0.0.1:80")
    monkeypatch.setenv("ROLLUP_ENGINE_PORT_80_TCP_ADDR", "10.0.0.1")
    assert load_settings().app_id == "rollup-engine"


SECURITY = {
    ("KAFKA_SASL_PASSWORD=hunter2",): "ROLLUP_KAFKA_SASL_PASSWORD has no use with ROLLUP_KAFKA_SECURITY_PROTOCOL "
    "PLAINTEXT. Set that to SASL_SSL or SASL_PLAINTEXT, or remove the former.",
    ("KAFKA_SSL_CAFILE=ca.pem",): "ROLLUP_KAFKA_SSL_CAFILE has no use with ROLLUP_KAFKA_SECURITY_PROTOCOL "
    "PLAINTEXT. Set that to SSL or SASL_SSL, or remove the former.",
    ("KAFKA_SECURITY_PROTOCOL=SASL_SSL", "KAFKA_SASL_PASSWORD=hunter2"): "ROLLUP_KAFKA_SECURITY_PROTOCOL SASL_SSL "
    "needs ROLLUP_KAFKA_SASL_MECHANISM and ROLLUP_KAFKA_SASL_USERNAME as well. Set them, or choose SSL.",
    ("KAFKA_SECURITY_PROTOCOL=SSL", "KAFKA_SSL_KEYFILE=ca.pem"): "ROLLUP_KAFKA_SSL_KEYFILE needs "
    "ROLLUP_KAFKA_SSL_CERTFILE beside it. Set that too.",
}


@pytest.mark.parametrize("given", SECURITY)
def test_security_settings_fit_together(given: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    Path("ca.pem").touch()
    for assignment in given:
        name, _, value = assignment.partition("=")
        monkeypatch.setenv(f"ROLLUP_{name}", value)
    assert refused() == [SECURITY[given]]
