"""Numbers that come as text, as they do from the cells of a CSV.

Owns: which text is a number. It is JSON's grammar and no other: ` 1`, `1_000`, `1,5`, `0x1` and `NaN` stay text, and
whoever wants a number says what is wrong.
"""

import re
from collections.abc import Sequence

import polars as pl

from rollup_engine.numbers import NumberText

_NUMBER = re.compile(r"-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?")  # RFC 8259, section 6
_SHORT = r"^(?:0|[1-9][0-9]{0,17})$"  # what nearly all cells hold; an Int64 holds any of these


def numbers_in_text(values: Sequence[object]) -> list[object]:
    """The values, with the number in place of each text that is one: as int, or as `NumberText`."""
    if set(map(type, values)) <= {str, type(None)}:
        text = pl.Series(values, dtype=pl.String)
        if text.str.contains(_SHORT).all():  # null is passed over
            return text.cast(pl.Int64).to_list()
    return [NumberText(one) if type(one) is str and _NUMBER.fullmatch(one) else one for one in values]
