"""Rule: each scan reads the coarsest tables that together give exactly the answer its partials would give.

From the coarsest tier to the finest: what is fresh in it and not cut by an edge is read from it, the rest goes down;
what is left at the end is read from the partials. `coarse` says which steps a query bears at all.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from typing import Final

from sqlglot import exp

from billable_metrics.catalog import Tier
from billable_metrics.coarse import Coarse, Depends
from billable_metrics.scan import Context, Piece, Scan
from billable_metrics.timeline import (
    ALWAYS,
    CALENDAR_MS,
    FOREVER_MS,
    Range,
    intersect,
    join_up,
    steps_around,
    subtract,
    to_micros,
    union,
)

RANGES_MAX: Final = 16
"""Ranges that go down from one table to the next; beyond that, what lies between neighbours goes with them."""


def choose_tiers(tree: exp.Query, context: Context) -> exp.Query:
    """Sets the pieces of each scan that tiers can serve, and notes for every scan what it reads, and why."""
    for number, scan in enumerate(context.scans):
        try:
            scan.pieces = _pieces(tree, Coarse(scan, number, context.params), context)
            reads = "; ".join(_said(piece, scan) for piece in scan.pieces)
        except Depends as depends:
            reads = f"partials, because {depends}"
        context.notes.append(f"{scan.alias}: {reads}")
    return tree


def _pieces(tree: exp.Query, coarse: Coarse, context: Context) -> list[Piece]:
    """What to read from which table, each instant of the scan's period once. Raises Depends if no tier is of use."""
    table = coarse.scan.table
    tiers = [tier for tier in table.tiers if tier.step_ms > table.window_ms and not tier.step_ms % table.window_ms]
    if not tiers:
        raise Depends("it has no tiers coarser than its windows")
    coarse.check(tree)
    tiers = [tier for tier in tiers if not coarse.step_ms % tier.step_ms]
    if not tiers:
        raise Depends("it tells times apart that are one in its tiers")
    whole, edges = _period(coarse, context)
    pieces: list[Piece] = []
    rest, why = [whole] if whole[0] < whole[1] else [], ""
    for tier in tiers:
        stale = union(_stale(tier))
        cut = union(steps_around(edges, tier.step_ms))
        barred = union([*stale, *cut, *subtract([ALWAYS], [coarse.within])])
        below = join_up(intersect(rest, barred), rest, RANGES_MAX)
        if mine := subtract(rest, below):
            pieces.append(Piece(tier, mine, why))
        if below:
            why = _why(tier, cut=bool(intersect(below, cut)), stale=bool(intersect(below, stale)))
        rest = below
    if not pieces:
        raise Depends(why or "its period holds no window")
    return [*pieces, Piece(None, rest, why)] if rest else pieces


def _period(coarse: Coarse, context: Context) -> tuple[Range, list[int]]:
    """What the scan reads at most, and every instant that cuts time in it: both on starts of windows."""
    window_ms = coarse.scan.table.window_ms
    start, end = coarse.span
    if context.start is not None:
        start = max(start, _first_window(context.start, window_ms))
    if context.end is not None:
        end = min(end, _first_window(context.end, window_ms))
    edges = coarse.edges | {_first_window(edge, window_ms) for edge in context.edges}
    if any(not CALENDAR_MS[0] < edge < CALENDAR_MS[1] for edge in edges):
        raise Depends("it asks for times that no calendar has")
    return (start, end), sorted(edges)


def _first_window(instant: datetime, window_ms: int) -> int:
    """The start of the first window that begins at the instant or after it."""
    return -(-to_micros(instant) // (window_ms * 1000)) * window_ms


def _stale(tier: Tier) -> Iterator[Range]:
    """The tier's stale ranges, to whole steps. One that ends with the calendar never ends, and likewise its start."""
    step_us = tier.step_ms * 1000
    for start, end in tier.stale:
        first, last = to_micros(start) // step_us * tier.step_ms, -(-to_micros(end) // step_us) * tier.step_ms
        yield first if first > CALENDAR_MS[0] else -FOREVER_MS, last if last < CALENDAR_MS[1] else FOREVER_MS


def _why(tier: Tier, *, cut: bool, stale: bool) -> str:
    reasons = [f"edges cut the {tier.name}"] if cut else []
    if stale:
        reasons.append(f"the {tier.name} tier is not up to date there")
    return " and ".join(reasons) or "zones are known from 1970 to 2100 only"


def _said(piece: Piece, scan: Scan) -> str:
    source = f"{piece.tier.name} tier" if piece.tier else "partials"
    step_ms, unit = (piece.tier.step_ms, piece.tier.name) if piece.tier else (scan.table.window_ms, "window")
    if not piece.why:
        return source
    amount = "the rest"
    if all(abs(edge) < FOREVER_MS for each in piece.ranges for edge in each):
        count = sum(end - start for start, end in piece.ranges) // step_ms
        amount = f"{count} {unit}{'' if count == 1 else 's'}"
    return f"{amount} from {'the ' if piece.tier else ''}{source}, because {piece.why}"
