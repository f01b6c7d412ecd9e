"""What became of the columns of one file, for messages and previews."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Telling:
    """Columns that tell the rows of one item and stamp apart: ids of items, and parts of the time beside its column.

    labels: text columns, if the rows hardly differ in anything else, so that they may not be items at all.
    """

    ids: tuple[str, ...] = ()
    clock: tuple[str, ...] = ()
    labels: tuple[str, ...] = ()


@dataclass
class TableFacts:
    """Columns of a table by role.

    values: (column of the file, column of the corpus); categorical: those of the latter that hold text; telling: None
    where few rows repeat an item and stamp, or nothing tells them apart; marks: column of the corpus -> how its numbers
    are marked ("%", or "" for numbers without it), of columns of text.
    """

    items: tuple[str, ...] = ()
    times: tuple[str, ...] = ()
    values: tuple[tuple[str, str], ...] = ()
    categorical: tuple[str, ...] = ()
    columns: tuple[str, ...] = ()
    telling: Telling | None = None
    marks: dict[str, str] = field(default_factory=dict)
    panel: bool = False  # each value column is an item
    read: bool = False  # False for files that are no tables, whose columns have no roles

    @property
    def left_out(self) -> list[str]:
        """Columns that nothing was read from."""
        used = {*self.items, *self.times, *(name for name, _ in self.values)}
        return [name for name in self.columns if name not in used]
