"""Rule: names become what Postgres makes of them: lower case unless quoted."""

from __future__ import annotations

from sqlglot import exp

from billable_metrics.scan import Context


def normalize_names(tree: exp.Query, context: Context) -> exp.Query:
    """After this rule every name is quoted text, to be compared as it is."""
    for name in tree.find_all(exp.Identifier):
        if not name.args.get("quoted"):
            name.set("this", name.name.lower())
            name.set("quoted", True)
    return tree
