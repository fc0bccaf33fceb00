"""Rule: a rollup that was added later is asked for the time from which it counts everything."""

from __future__ import annotations

from sqlglot import exp

from billable_metrics.scan import Context


def check_complete(tree: exp.Query, context: Context) -> exp.Query:
    """Refuses a scan whose period does not begin where its rollup is complete, naming that time."""
    for scan in context.scans:
        since = scan.table.complete_from
        if since is not None and (context.start is None or context.start < since):
            time = since.isoformat().replace("+00:00", "Z")
            raise context.refuse(
                f"{scan.table.name!r} was added later and counts everything from {time} on; ask for a period that"
                f" starts then or after it (--start {time})",
                scan.node,
            )
    return tree
