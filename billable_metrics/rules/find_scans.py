"""Rule: every table of the metric is AGGREGATED_EVENTS('x'), the long form's `events`, or the metric's own WITH."""

from __future__ import annotations

from typing import Final

from sqlglot import exp

from billable_metrics.catalog import Table
from billable_metrics.predicates import conjuncts, replace_conjuncts
from billable_metrics.scan import EVENT_NAME_COLUMN, Context, Scan
from rollup_engine.config.naming import TABLE_SUFFIX, column_name
from rollup_engine.errors import MetricError

SCAN_FUNCTION: Final = "aggregated_events"
LONG_FORM_TABLE: Final = "events"
SCANS_MAX: Final = 32


def find_scans(tree: exp.Query, context: Context) -> exp.Query:
    """Notes the scans, and refuses other tables; takes the long form's condition on `event_name` out of its WHERE."""
    for node in tree.find_all(exp.Table):
        if not isinstance(node.this, exp.Identifier):
            context.scans.append(_scan_function(node, context))
        elif is_own_with(node):
            continue
        elif node.name == LONG_FORM_TABLE:
            context.scans.append(_long_form(node, context))
        else:
            raise _unknown_table(node, context)
        if node.args.get("alias") is not None and node.args["alias"].args.get("columns"):
            raise context.refuse("the columns of a rollup keep their names; rename them in the SELECT", node)
    if not context.scans:
        raise MetricError("the metric reads no rollup; write FROM AGGREGATED_EVENTS('<event>')", sql=context.sql)
    if len(context.scans) > SCANS_MAX:
        raise context.refuse(f"a metric reads at most {SCANS_MAX} rollups", context.scans[SCANS_MAX].node)
    return tree


def is_own_with(table: exp.Table) -> bool:
    """Whether the name is one that WITH defines at this place: of the same list, only names before it are."""
    child: exp.Expr = table
    parent = table.parent
    while parent is not None:
        if isinstance(parent, exp.With):
            ctes = parent.expressions[: [id(cte) for cte in parent.expressions].index(id(child))]
            child, parent = parent, parent.parent
        else:
            own = parent.args.get("with_")
            ctes = own.expressions if own is not None and own is not child else []
        if any(cte.alias == table.name for cte in ctes):
            return True
        if parent is not None:
            child, parent = parent, parent.parent
    return False


def _scan_function(node: exp.Table, context: Context) -> Scan:
    call = node.this
    if not isinstance(call, exp.Anonymous) or call.name.lower() != SCAN_FUNCTION:
        raise context.refuse("the only table function of metric SQL is AGGREGATED_EVENTS('<event>')", node)
    if len(call.expressions) != 1 or not call.expressions[0].is_string:
        raise context.refuse("AGGREGATED_EVENTS takes one event name in quotation marks", node)
    event = call.expressions[0]
    table = context.catalog.table(event.name)
    if table is None:
        raise _unknown_event(event, event.name, "", context)
    return Scan(node=node, table=table, alias=node.alias or column_name(table.name))


def _long_form(node: exp.Table, context: Context) -> Scan:
    select = node.parent_select
    if not isinstance(select, exp.Select) or select.args.get("joins"):
        raise context.refuse("FROM events is read alone; join it as a subquery, or use AGGREGATED_EVENTS", node)
    where = select.args.get("where")
    parts = conjuncts(where.this) if where is not None else []
    events = [(part, name) for part in parts if (name := _event_name(part)) is not None]
    if len(events) != 1:
        raise context.refuse(
            f"FROM events needs one condition {EVENT_NAME_COLUMN} = '<event>{TABLE_SUFFIX}' in its WHERE", node
        )
    assert where is not None
    condition, event = events[0]
    table = context.catalog.partials_table(event.name)
    if table is None:
        raise _unknown_event(event, event.name.lower().removesuffix(TABLE_SUFFIX), TABLE_SUFFIX, context)
    replace_conjuncts(where, [part for part in parts if part is not condition])
    return Scan(node=node, table=table, alias=node.alias or LONG_FORM_TABLE, long_form=True)


def _event_name(part: exp.Expr) -> exp.Literal | None:
    if not isinstance(part, exp.EQ):
        return None
    left, right = part.this, part.expression
    if isinstance(left, exp.Literal):
        left, right = right, left
    is_event = isinstance(left, exp.Column) and column_name(left.name) == EVENT_NAME_COLUMN
    return right if is_event and isinstance(right, exp.Literal) and right.is_string else None


def _unknown_event(node: exp.Expr, name: str, suffix: str, context: Context) -> MetricError:
    tables: tuple[Table, ...] = context.catalog.tables
    if (close := context.catalog.nearest(name)) is not None:
        hint = f"did you mean '{close}{suffix}'?"
    else:
        hint = f"those there are: {', '.join(sorted(table.name + suffix for table in tables)) or 'none'}"
    return context.refuse(f"there is no event {node.name!r}; {hint}", node)


def _unknown_table(node: exp.Table, context: Context) -> MetricError:
    name = node.name
    table = context.catalog.table(name) or context.catalog.partials_table(name)
    hint = f"AGGREGATED_EVENTS('{table.name if table else '<event>'}')"
    return context.refuse(f"there is no table {name!r}; metric SQL reads {hint}", node)
