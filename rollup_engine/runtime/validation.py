"""`validate`: rollup YAML, the metric catalogue and metric SQL, every problem of every file at once."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from billable_metrics.catalog import Catalog, catalog_from_config
from billable_metrics.metric_files import check_metrics, is_metric_file, read_metrics
from billable_metrics.rewriter import rewrite
from rollup_engine.config.files import SUFFIXES, label, yaml_files
from rollup_engine.config.loader import check
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


@dataclass
class _Found:
    """What paths hold. `rollups` are files, and directories that hold no metric."""

    rollups: list[Path] = field(default_factory=list)
    metrics: list[Path] = field(default_factory=list)
    sql: list[Path] = field(default_factory=list)


def validate(paths: Sequence[Path] | None, settings: Settings) -> Validated:
    """Raises `ConfigError` with every problem. Metrics are checked against the YAML given, or the configured one."""
    found = _sorted_out(paths) if paths else _configured(settings)
    config, problems = check(found.rollups or [settings.config_dir])
    metrics, wrong = read_metrics(found.metrics)
    if config is not None:
        catalog = catalog_from_config(config)
        wrong += check_metrics(metrics, catalog)
    problems = [*problems, *sorted(wrong, key=lambda each: (each.file or "", each.line or 0, each.column or 0))]
    if config is not None:
        problems += (problem for file in found.sql for problem in _check_sql(file, catalog))
    if problems or config is None:
        raise ConfigError(problems=problems)
    return Validated(len(config.rollups), len(metrics) + len(found.sql))


def _configured(settings: Settings) -> _Found:
    found = _Found(rollups=[settings.config_dir])
    if settings.metrics_dir.is_dir():
        found.metrics, found.sql = _yaml(settings.metrics_dir), sorted(settings.metrics_dir.glob("*.sql"))
    elif "metrics_dir" in settings.model_fields_set:
        hint = "Create it, or set ROLLUP_METRICS_DIR to the one you mean."
        raise ConfigError(problems=[Problem(label(settings.metrics_dir), None, None, "no such directory", hint)])
    return found


def _sorted_out(paths: Iterable[Path]) -> _Found:
    """A YAML file is what its keys say: a person names directories of either kind, in any order."""
    found = _Found()
    for path in paths:
        if path.is_dir():
            files = _yaml(path)
            sql = sorted(path.glob("*.sql"))
        else:
            files, sql = ([], [path]) if path.suffix == ".sql" else ([path], [])
        metrics = [file for file in files if file.suffix in SUFFIXES and is_metric_file(file)]
        found.metrics += metrics
        found.sql += sql
        if metrics:
            found.rollups += [file for file in files if file not in metrics]
        elif files or not sql:
            found.rollups.append(path)
    return found


def _yaml(directory: Path) -> list[Path]:
    """Its YAML files; itself where it cannot be read, so that whoever reads it says why."""
    try:
        return yaml_files(directory)
    except OSError:
        return [directory]


def _check_sql(file: Path, catalog: Catalog) -> list[Problem]:
    try:
        rewrite(file.read_text(encoding="utf-8"), catalog)
    except MetricError as error:
        return [Problem(str(file), error.line, error.column, error.message.rstrip("."))]
    except (OSError, UnicodeDecodeError) as error:
        return [Problem(str(file), None, None, f"cannot be read: {error}")]
    return []
