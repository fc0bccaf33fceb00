"""Look-ups in a store that began empty and is being filled: most ids are new to it, and need not be looked for.

Owns: a filter in memory over the ids that were asked for so far. It never says of one that it was not, so nothing that
the store holds is missed; who is asked for again is looked up. Must be the only way in which that store is filled.
"""

from collections.abc import Callable

import numpy as np

from rollup_engine.dedup.verdicts import KEY_BYTES

FILTER_BITS = 26  # 8 MB: at 10 million ids one in 7 is looked up for nothing; at many more all of them, as without it


class RebuildLookup:
    """A `verdicts.Lookup` on a store that was empty when this was made."""

    def __init__(self, get: Callable[[list[bytes]], list[bytes | None]]) -> None:
        self._get = get
        self._asked = np.zeros(1 << (FILTER_BITS - 3), dtype=np.uint8)

    def __call__(self, ids: list[bytes]) -> list[bytes | None]:
        found: list[bytes | None] = [None] * len(ids)
        # The first bits, for these ids are of one partition: their last ones are alike. In order of keys so is memory.
        first = np.frombuffer(b"".join(ids), dtype=">u8").reshape(-1, KEY_BYTES // 8)[:, 0].astype(np.uint64)
        place = first >> np.uint64(64 - FILTER_BITS)
        byte, bit = place >> np.uint64(3), np.left_shift(1, place & np.uint64(7), dtype=np.uint8, casting="unsafe")
        again = np.flatnonzero(self._asked[byte] & bit)
        np.bitwise_or.at(self._asked, byte, bit)
        if again.size:
            places = again.tolist()
            for where, value in zip(places, self._get([ids[where] for where in places]), strict=True):
                found[where] = value
        return found
