"""The rules that turn a metric into a query over partial rollups, in order: one rule a file, one function a rule.

A rule takes the tree and what is known so far, and gives the tree back, changed in place; it raises MetricError for
what it refuses. The first four let through only what is known to be harmless, so later rules see nothing else.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from sqlglot import exp

from billable_metrics.rules.allow_known_functions import allow_known_functions
from billable_metrics.rules.allow_known_nodes import allow_known_nodes
from billable_metrics.rules.allow_known_types import allow_known_types
from billable_metrics.rules.allow_known_units import allow_known_units
from billable_metrics.rules.bind_parameters import bind_parameters
from billable_metrics.rules.bound_growth import bound_growth
from billable_metrics.rules.check_complete import check_complete
from billable_metrics.rules.check_long_form import check_long_form
from billable_metrics.rules.check_searches import check_searches
from billable_metrics.rules.choose_tiers import choose_tiers
from billable_metrics.rules.expand_by_time import expand_by_time
from billable_metrics.rules.expand_scans import expand_scans
from billable_metrics.rules.find_scans import find_scans
from billable_metrics.rules.keep_numbers_exact import keep_numbers_exact
from billable_metrics.rules.normalize_names import normalize_names
from billable_metrics.rules.push_down_predicates import push_down_predicates
from billable_metrics.rules.resolve_columns import resolve_columns
from billable_metrics.rules.restate_millis import restate_millis
from billable_metrics.rules.restrict_scans import restrict_scans
from billable_metrics.scan import Context

Rule = Callable[[exp.Query, Context], exp.Query]

RULES: Final[tuple[Rule, ...]] = (
    allow_known_types,
    allow_known_nodes,
    allow_known_functions,
    allow_known_units,
    bind_parameters,
    normalize_names,
    find_scans,
    check_complete,
    resolve_columns,
    check_searches,
    bound_growth,
    expand_by_time,
    check_long_form,
    keep_numbers_exact,
    restrict_scans,
    push_down_predicates,
    restate_millis,
    choose_tiers,
    expand_scans,
)
