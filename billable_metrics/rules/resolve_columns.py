"""Rule: every column name is found in what its query reads, and written out in full."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from sqlglot import exp

from billable_metrics.catalog import COLUMN_ALIASES, nearest
from billable_metrics.places import written
from billable_metrics.scan import COLUMN_META, OUTPUT_META, SCAN_META, Context, from_items
from billable_metrics.scopes import Outputs, Scope, Source, clauses, function_name, own_nodes, renamed
from rollup_engine.config.naming import column_name
from rollup_engine.errors import MetricError

Withs = Mapping[str, Outputs]


def resolve_columns(tree: exp.Query, context: Context) -> exp.Query:
    """Qualifies columns with their table, gives them their public name, and notes which columns each scan needs."""
    _query(tree, None, {}, context)
    return tree


def _query(query: exp.Query, outer: Scope | None, withs: Withs, context: Context) -> Outputs:
    own = query.args.get("with_")
    for cte in own.expressions if own is not None else ():
        columns = renamed(_query(cte.this, outer, withs, context), cte.args.get("alias"))
        withs = {**withs, cte.alias: columns}
    if isinstance(query, exp.Select):
        return _select(query, outer, withs, context)
    outputs = _query(query.this, outer, withs, context)
    if isinstance(query, exp.SetOperation):
        _query(query.expression, outer, withs, context)
    for column in _bare_columns(query.args.get("order")):
        if not _name_output(column, outputs):
            raise _unknown(column, Scope([Source("the result", outputs)]), context)
    return outputs


def _select(select: exp.Select, outer: Scope | None, withs: Withs, context: Context) -> Outputs:
    sources: list[Source] = []
    for item in from_items(select):
        sources.append(source := _source(item, outer, withs, context))
        if any(source.name == each.name for each in sources[:-1]):
            raise context.refuse(f"two tables are called {source.name!r}; give each its own name with AS", item)
    scope = Scope(sources, outer, _join_using(select, sources, context))
    outputs: list[str | None] = []
    for projection in list(select.expressions):
        outputs += _projection(projection, scope, withs, context)

    done = set()
    distinct = select.args.get("distinct")
    for clause in (select.args.get("order"), distinct.args.get("on") if distinct is not None else None):
        done |= {id(column) for column in _bare_columns(clause) if _name_output(column, outputs)}
    local = Scope(sources)
    for column in _bare_columns(select.args.get("group")):
        if not local.matches("_".join(_parts(column))) and _name_output(column, outputs):
            done.add(id(column))
    for clause in clauses(select):
        _resolve(clause, scope, withs, context, done)
    return tuple(outputs)


def _source(item: exp.Expr, outer: Scope | None, withs: Withs, context: Context) -> Source:
    for scan in context.scans:
        if scan.node is item:
            return Source(scan.alias, scan.columns, scan)
    if isinstance(item, exp.Table):
        return Source(item.alias or item.name, renamed(withs[item.name], item.args.get("alias")))
    assert isinstance(item, exp.Subquery), item
    columns = _query(item, outer, withs, context)
    if not item.alias:
        context.unnamed += 1
        item.set("alias", exp.TableAlias(this=exp.to_identifier(f"subquery_{context.unnamed}", quoted=True)))
    return Source(item.alias, renamed(columns, item.args.get("alias")))


def _join_using(select: exp.Select, sources: list[Source], context: Context) -> dict[str, frozenset[str]]:
    merged = {}
    for index, join in enumerate(select.args.get("joins") or (), start=1):
        for name in join.args.get("using") or ():
            column = sources[index].find(name.name)
            joined = [source for source in sources[: index + 1] if column and source.find(name.name) == column]
            if column is None or len(joined) < 2:
                raise context.refuse(f"{written(name, context.sql)!r} is not a column of both tables", name)
            name.set("this", column)
            merged[column] = frozenset(source.name for source in joined)
            for source in joined:
                _use(source, column)
    return merged


def _projection(projection: exp.Expr, scope: Scope, withs: Withs, context: Context) -> Outputs:
    """Resolves one output; gives its names. An output that would change its name by the rewriting gets an alias."""
    if _is_star(projection):
        return _star(projection, scope, context)
    named_by = projection
    while isinstance(named_by, (exp.Cast, exp.Paren)):
        named_by = named_by.this
    asked = column_name(named_by.name) if isinstance(named_by, exp.Column) else None
    nested = _resolve(projection, scope, withs, context, set())
    if isinstance(projection, exp.Alias):
        return (projection.alias,)
    if asked is not None:
        if asked not in COLUMN_ALIASES or named_by.name == asked:
            return (named_by.name,)
        projection.replace(exp.alias_(projection.copy(), asked, quoted=True))
        return (asked,)
    if isinstance(projection, exp.Subquery):
        return nested[:1] or (None,)
    name = function_name(projection, context.sql)
    if name is not None and not projection.sql(dialect="postgres").lower().startswith(f"{name}("):
        projection.replace(exp.alias_(projection.copy(), name, quoted=True))
    return (name,)


def _star(projection: exp.Expr, scope: Scope, context: Context) -> Outputs:
    sources = scope.sources
    if isinstance(projection, exp.Column):
        name = projection.table
        sources = [source for source in sources if source.name == name]
        if not sources or projection.args.get("db") is not None:
            raise context.refuse(f"there is no table {name!r} in FROM", projection)
    if not sources:
        raise context.refuse("* needs a table after FROM", projection)
    for source in sources:
        for column in source.columns:
            _use(source, column)
    return tuple(column for source in sources for column in source.columns)


def _resolve(root: exp.Expr, scope: Scope, withs: Withs, context: Context, done: set[int]) -> Outputs:
    """Resolves the columns below a node, except those already done; gives the outputs of the last nested query."""
    nested: Outputs = ()
    for node in list(own_nodes(root)):
        if isinstance(node, exp.Query):
            nested = _query(node, scope, withs, context)
        elif isinstance(node, exp.Star) and not isinstance(node.parent, exp.Count):
            raise context.refuse("* stands only in the SELECT list and in COUNT(*)", node)
        elif isinstance(node, exp.Column) and not _is_star(node) and id(node) not in done:
            _column(node, scope, context)
    return nested


def _column(column: exp.Column, scope: Scope, context: Context) -> None:
    first, *rest = _parts(column)
    source = scope.source(first) if rest else None
    if source is not None:
        name = source.find("_".join(rest))
        matches = [(source, name)] if name is not None else []
    else:
        matches = scope.matches("_".join((first, *rest)))
    if not matches:
        raise _unknown(column, Scope([source]) if source is not None else scope, context)
    names = {name for _, name in matches}
    for found, name in matches:
        _use(found, name)
    table: str | None = matches[0][0].name
    if len(matches) > 1:
        if len(names) > 1 or not {found.name for found, _ in matches} <= scope.merged.get(max(names), frozenset()):
            tables = " and ".join(repr(found.name) for found, _ in matches)
            raise context.refuse(
                f"{written(column.this, context.sql)!r} is a column of {tables}; write which one is meant", column
            )
        table = None
    elif table is not None and scope.source(table) is not matches[0][0]:
        table = None  # an inner table hides that name; without it Postgres finds the column further out
    if len(matches) == 1 and matches[0][0].scan is not None:
        column.meta[SCAN_META] = context.scans.index(matches[0][0].scan)
        column.meta[COLUMN_META] = matches[0][1]
    column.this.set("this", names.pop())
    column.set("table", exp.to_identifier(table, quoted=True) if table is not None else None)
    column.set("db", None)
    column.set("catalog", None)


def _is_star(node: exp.Expr) -> bool:
    return isinstance(node, exp.Star) or (isinstance(node, exp.Column) and isinstance(node.this, exp.Star))


def _use(source: Source, column: str | None) -> None:
    if source.scan is not None and column is not None:
        source.scan.uses[column] += 1


def _parts(column: exp.Column) -> list[str]:
    return [part.name for part in column.parts]


def _bare_columns(clause: exp.Expr | None) -> Iterator[exp.Column]:
    """The items of ORDER BY, GROUP BY or DISTINCT ON that are a name and nothing else."""
    for item in clause.expressions if clause is not None else ():
        name = item.this if isinstance(item, exp.Ordered) else item
        if isinstance(name, exp.Column) and not name.args.get("table"):
            yield name


def _name_output(column: exp.Column, outputs: Outputs | list[str | None]) -> bool:
    """Gives the name of the output it means to the column; False if it means none."""
    output = Source("", tuple(outputs)).find(column.name)
    if output is not None:
        column.this.set("this", output)
        column.meta[OUTPUT_META] = True
    return output is not None


def _unknown(column: exp.Column, scope: Scope, context: Context) -> MetricError:
    parts = [written(part, context.sql).strip('"') for part in column.parts]
    has = [(source, [each for each in source.columns if each]) for level in scope.levels() for source in level.sources]
    close = nearest(parts[-1], [name for _, names in has for name in names])
    hint = f"did you mean {close}? " if close else ""
    there = "; ".join(f"{source.name} has {', '.join(names)}" for source, names in has) or "no table is read here"
    return context.refuse(f"there is no column {'.'.join(parts)!r}; {hint}{there}", column)
