"""`validate`: rollup YAML and metric SQL, every problem of every file at once."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from billable_metrics.catalog import catalog_from_config
from billable_metrics.rewriter import rewrite
from rollup_engine.config.loader import check
from rollup_engine.config.model import Config
from rollup_engine.config.settings import Settings
from rollup_engine.errors import ConfigError, MetricError, Problem


@dataclass(frozen=True)
class Validated:
    """What was found to be right."""

    rollups: int
    metrics: int

    def describe(self) -> str:
        parts = [_plural(self.rollups, "rollup")] + ([_plural(self.metrics, "metric")] if self.metrics else [])
        return " and ".join(parts)


def _plural(count: int, noun: str) -> str:
    return f"{count} {noun}{'' if count == 1 else 's'}"


def validate(paths: Sequence[Path] | None, settings: Settings) -> Validated:
    """Raises `ConfigError` with every problem. Metric SQL is checked against the YAML given, or the configured one."""
    given = list(paths or [settings.config_dir, *([settings.metrics_dir] if settings.metrics_dir.is_dir() else [])])
    sql_files = sorted(file for path in given for file in _sql_files(path))
    yaml_paths = [path for path in given if path.suffix != ".sql" and not _only_sql(path)]
    config, problems = check(yaml_paths or [settings.config_dir])
    if config is not None:
        problems = [*problems, *(problem for file in sql_files for problem in _check_sql(file, config))]
    if problems or config is None:
        raise ConfigError(problems=problems)
    return Validated(len(config.rollups), len(sql_files))


def _sql_files(path: Path) -> list[Path]:
    return [path] if path.suffix == ".sql" else sorted(path.glob("*.sql")) if path.is_dir() else []


def _only_sql(path: Path) -> bool:
    return path.is_dir() and bool(_sql_files(path)) and not any(path.glob("*.y*ml"))


def _check_sql(file: Path, config: Config) -> list[Problem]:
    try:
        rewrite(file.read_text(encoding="utf-8"), catalog_from_config(config))
    except MetricError as error:
        return [Problem(str(file), error.line, error.column, error.message.rstrip("."))]
    except (OSError, UnicodeDecodeError) as error:
        return [Problem(str(file), None, None, f"cannot be read: {error}")]
    return []
