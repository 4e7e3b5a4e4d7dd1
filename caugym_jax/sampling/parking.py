"""Which rows of a wave go on and which wait, where the cache of all of them might not fit.

A wave may begin with more rows than would fit if all of them reached their limit. Before a piece of
cache is opened for the live rows, `Room.going` says how many of them go on. The others are parked:
they keep the pieces that they have, and go on when the first ones have ended. Whichever rows end
when, all that is held fits: a piece is opened only where a few of the rows could still go to their
limit beside what the others hold by then. All numbers are known to every process, so all decide
alike.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

# Fewer rows, or shorter completions, do not pay for the programs of other sizes.
LEAST_ROWS, LEAST_TOKENS = 16, 64
LONG = 256  # tokens that pay for a few programs more
# Of the memory that is free, what the cache and a step may fill: compilers ask for more than is
# estimated, and arrays leave gaps.
FILL = 0.88


def sizes(rows: int, shards: int, max_new_tokens: int, least: int | None = None) -> list[int]:
    """Rows of a shard that a wave goes through: halved while more than `least` (None: LEAST_ROWS)
    are left in all.

    By hand: 50 rows of 64 new tokens, 1 shard: 50, 25, 13; of 63: 50.
    """
    each, least = [rows // shards], least or LEAST_ROWS
    while max_new_tokens >= LEAST_TOKENS and each[-1] * shards > least and each[-1] > 1:
        each.append(-(-each[-1] // 2))
    return each


def least_rows(max_new_tokens: int, cpu: bool) -> int:
    """The fewest rows that are still halved. A quarter on a CPU, where a step of fewer rows takes
    less time, if completions are long enough to pay for the programs."""
    return LEAST_ROWS // 4 if cpu and max_new_tokens >= LONG else LEAST_ROWS


class Memory(NamedTuple):
    """What a wave takes of a device beside its cache.

    Attributes:
      slot: bytes of a slot of the cache.
      rows: of a shard.
      vocabulary: logits of a row.
      drawn: tokens of a row, at most.
      copied: bytes that the loop copies before it starts.
    """

    slot: float
    rows: int
    vocabulary: float
    drawn: int
    copied: float = 0

    @property
    def working(self) -> float:
        """Bytes of two arrays of logits, of what is drawn (it is gathered too), of copies."""
        return self.rows * (2 * 4 * self.vocabulary + 2 * 8 * self.drawn) + self.copied

    def slots(self, free: float) -> float:
        """Slots of cache for which so many free bytes are enough."""
        return (FILL * free - self.working) / self.slot

    def bytes(self, slots: float) -> float:
        """The reverse: free bytes that so many slots need."""
        return (slots * self.slot + self.working) / FILL


class Parked(NamedTuple):
    """Rows that wait.

    Attributes:
      rows: of a shard's arrays.
      begun: pieces of cache that they hold.
      own: they hold their prompts' cache, too; else the piece that samples share stays for them.
    """

    rows: int
    begun: int
    own: bool


class Room(NamedTuple):
    """Room for the cache of a shard's rows, in slots: a row takes one for each token of a piece.

    Attributes:
      total: slots that fit.
      shared: of the prompts' piece while samples share it; 0: each row has its own from the start.
      width: of a row's own prompt.
      pieces: of the completions' pieces.
      ladder: rows of a shard that the wave goes through, from `sizes`.
      shards: of rows, each of which may send every other one a row.
    """

    total: float
    shared: int
    width: int
    pieces: tuple[int, ...]
    ladder: tuple[int, ...]
    shards: int = 1

    @classmethod
    def of(
        cls,
        total: float,
        prompts: Sequence[int],
        samples: int,
        shards: int,
        max_new_tokens: int,
        piece: int,
        least: int | None = None,
    ) -> Room:
        """The room of a wave.

        Args:
          prompts: their number and width.
          piece: slots of a piece; the last one may have fewer.
          least: see `sizes`.
        """
        count, width = prompts
        pieces = (min(piece, max_new_tokens - s) for s in range(0, max_new_tokens, piece))
        ladder = sizes(count * samples, shards, max_new_tokens, least)
        shared = count // shards * width if samples > 1 else 0
        return cls(total, shared, width, tuple(pieces), tuple(ladder), shards)

    def going(
        self, live: int, begun: int, own: bool, waiting: Sequence[Parked], resumed: bool
    ) -> int:
        """How many rows of a shard go on when the next piece is to be opened: the largest size of
        the ladder with which all fits; if it is less than `live`, the other rows are parked.

        Args:
          live: of the fullest shard.
          begun: pieces that are full.
          own: see `Parked`.
          waiting: other rows, that are parked already.
          resumed: these were parked; else their arrays have the smallest size that holds them.
        """
        possible = [size for size in self.ladder if size <= self.tight(live)]
        for size in possible:
            if self.need(size, live, begun, own, waiting, resumed) <= self.total:
                return size
        return possible[-1]

    def need(
        self,
        size: int,
        live: int,
        begun: int,
        own: bool,
        waiting: Sequence[Parked],
        resumed: bool = False,
    ) -> float:
        """The most slots in use from now on if `size` of the live rows go on, and if no more of
        them go on after the next piece than must; see `going`."""
        rest, splitting = self.padded(live - size), 0.0
        if rest or resumed:
            arrays = self.padded(live) if resumed else self.tight(live)
            splitting = self.held(waiting, own) + self._gathered(arrays, size + rest, begun, own)
        if rest:
            waiting = [*waiting, Parked(rest, begun, own)]
        held, own, live = self.held(waiting, own), own or rest > 0 or resumed, min(live, size)
        later = self._used(size, own)
        if begun + 1 < len(self.pieces) and size > self.ladder[-1]:
            states = [(size, live, own)]
            if not own:  # once halved, they hold their prompts
                states.append((self.smaller(size), self.smaller(size), True))
            parked_later = max(self._split(*state, begun + 1) for state in states)
            later = min(later, max(self._used(size, own, begun + 1), parked_later))
        return max(splitting, held + later)

    def to_the_end(self) -> float:
        """The most slots in use if no rows are ever parked."""
        return self.shared + self._used(self.ladder[0], not self.shared)

    def least(self) -> float:
        """The fewest slots with which the wave can start."""
        return self.need(self.ladder[-1], self.ladder[0], 0, not self.shared, [])

    def starts_well(self) -> bool:
        """Whether all rows fit while they fill the first piece, and a quarter of them to the end
        beside it. With less, the time that parked rows take on their own is more than what a
        larger wave saves (as `planning/lengths.py` counts a 14B model's)."""
        rows, own = self.ladder[0], not self.shared
        if len(self.ladder) == 1:
            return self.to_the_end() <= self.total
        first = self.shared + rows * (self.pieces[0] + own * self.width)
        more = self.slots() - self.pieces[0] + (not own) * self.width
        some = first + -(-rows // 4) * more
        return max(some, self.need(rows, rows, 0, own, [])) <= self.total

    def together(self) -> tuple[int, int, bool]:
        """Of the rows that go on first, if all of them live: (how many of a shard, how many pieces
        they begin before some of them wait, whether they hold their prompts)."""
        own, begun = not self.shared, 0
        waiting: list[Parked] = []
        size = self.going(self.ladder[0], 0, own, waiting, False)
        if rest := self.padded(self.ladder[0] - size):
            waiting, own = [Parked(rest, 0, own)], True
        while begun < len(self.pieces) and (
            not begun or self.going(size, begun, own, waiting, False) == size
        ):
            begun += 1
        return size, begun, own

    def held(self, waiting: Sequence[Parked], own: bool) -> int:
        """Slots beside those of the rows that go on."""
        total = sum(p.rows * (self.slots(p.begun) + p.own * self.width) for p in waiting)
        return total + self.shared * (not own or not all(p.own for p in waiting))

    def slots(self, begun: int | None = None) -> int:
        """Of so many pieces; None: of all."""
        return sum(self.pieces[:begun])

    def padded(self, rows: int) -> int:
        """Rows of the arrays of so many parked ones: few sizes, so that few programs gather."""
        return -(-max(0, rows) // self.ladder[-1]) * self.ladder[-1]

    def smaller(self, size: int) -> int:
        """The next size; 0: there is none."""
        return next((one for one in self.ladder if one < size), 0)

    def tight(self, live: int) -> int:
        """The smallest size that holds so many rows."""
        return min(size for size in self.ladder if size >= live)

    def _used(self, size: int, own: bool, begun: int | None = None) -> float:
        """The most slots of so many rows that go on, until they have filled so many pieces (None:
        all), and while they halve."""
        begun = len(self.pieces) if begun is None else begun
        smaller = self.smaller(size)
        halving = self._gathered(size, smaller, begun, own)
        return max(halving, smaller * (self.slots(begun) + self.width))

    def _split(self, size: int, live: int, own: bool, begun: int) -> float:
        """The most slots of rows of which all but the smallest size are parked."""
        few = self.ladder[-1]
        rest = self.padded(live - few)
        parked = rest * (self.slots(begun) + own * self.width)
        return max(self._gathered(size, few + rest, begun, own), parked + self._used(few, True))

    def _gathered(self, size: int, into: int, begun: int, own: bool) -> float:
        """The most slots in use while arrays of `size` rows are gathered into ones of `into` rows:
        of one piece, keys and then values are there twice (a piece that was written is ordered anew
        before, see `decoding.laid_out`), or of the rows that change shards."""
        pieces, most = [*self.pieces[:begun], own * self.width], max(size, into)
        sent = self.shards if self.shards > 1 else 0
        return most * sum(pieces) + max(most, sent) * max(pieces) / 2
