"""The runner of metrics as the settings have it: its limits, and the login it uses."""

from billable_metrics.execute import MetricRunner
from billable_metrics.limits import MIB, Limits
from billable_metrics.role import METRIC_ROLE
from rollup_engine.config.settings import Settings


def metric_runner(settings: Settings, database_url: str) -> MetricRunner:
    """`database_url`: the engine's own. A login named for metrics is used as it is, with the rights it has."""
    limits = Limits(
        timeout_s=settings.metrics_timeout_s,
        rows_max=settings.metrics_rows_max,
        result_bytes_max=settings.metrics_result_mb * MIB,
        work_mem_kb=settings.metrics_work_mem_mb * 1024,
        connections_max=settings.metrics_connections,
    )
    own = settings.metrics_database_url
    return MetricRunner(own or database_url, limits, metric_role=None if own else METRIC_ROLE)
