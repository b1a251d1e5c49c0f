"""Follow what a log's records say of its cursors, its producers, and how far it goes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mpsr.store.records import Changes, Kind, unpack_changes, unpack_entry

if TYPE_CHECKING:
    from mpsr.store.records import Entry, KnownProducer, ProducerKey
    from mpsr.store.segments import Found


class State:
    """What the records up to here say.

    Attributes:
        last: the position of the last message; 0 before the first.
        cursors: the positions of the cursors.
        producers: where the native producers stand.

    """

    def __init__(self, last: int = 0) -> None:
        self.last: int = last
        self.cursors: dict[str, int] = {}
        self.producers: dict[ProducerKey, KnownProducer] = {}

    def follow(self, found: Found) -> None:
        """Follow a record; the payload of a batch may be damaged."""
        head = found.head
        if head.kind == Kind.BATCH:
            entry = unpack_entry(head, b"")
            self.add(entry, head.place.position + entry.span - 1)
        elif head.kind in {Kind.CHANGES, Kind.SNAPSHOT} and found.payload is not None:
            if head.kind == Kind.SNAPSHOT:
                self.cursors.clear()
                self.producers.clear()
                self.last = head.place.position - 1
            self.change(unpack_changes(found.payload))

    def add(self, entry: Entry, last: int) -> None:
        """Follow a batch whose last message has this position."""
        self.last = last
        state = entry.state
        if state is not None:
            self.producers[state.key] = state

    def change(self, changes: Changes) -> None:
        """Follow changes."""
        for name, position in changes.cursors.items():
            if position is None:
                self.cursors.pop(name, None)
            else:
                self.cursors[name] = position
        for key in changes.forgotten:
            self.producers.pop(key, None)
        self.producers.update((state.key, state) for state in changes.producers)

    def all(self) -> Changes:
        """Return what a snapshot says."""
        return Changes(self.cursors, self.producers.values())
