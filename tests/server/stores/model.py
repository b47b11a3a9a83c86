"""What a state store must do, in a dict: the reference of the tests."""

from __future__ import annotations

from carousel.server.stores import ENDED, Batch, Entry


def batch(*entries: Entry, formers: list[int] | None = None) -> Batch:
    """Entries as a batch; without formers, of incarnations that go on."""
    return Batch(
        ids=[entry.session_id for entry in entries],
        formers=[entry.handle for entry in entries] if formers is None else formers,
        handles=[entry.handle for entry in entries],
        revisions=[entry.revision for entry in entries],
        expire_times=[entry.expire_time for entry in entries],
        data=[entry.data for entry in entries],
    )


class Model:
    """Entries by session."""

    def __init__(self) -> None:
        self.entries: dict[str, Entry] = {}

    def write(self, batch: Batch) -> list[int]:
        refused = []
        for place, session_id in enumerate(batch.ids):
            entry = Entry(
                session_id,
                batch.handles[place],
                batch.revisions[place],
                batch.expire_times[place],
                batch.data[place],
            )
            if self._accepts(entry, batch.formers[place]):
                self.entries[session_id] = entry
            else:
                refused.append(place)
        return refused

    def _accepts(self, entry: Entry, former: int) -> bool:
        there = self.entries.get(entry.session_id)
        if there is None or there.handle == ENDED:
            return ENDED in (former, entry.handle)
        if there.handle == entry.handle:
            return there.revision <= entry.revision
        return there.handle == former and there.revision < entry.revision

    def read(self, ids: list[str]) -> dict[str, Entry]:
        return {
            session_id: self.entries[session_id] for session_id in ids if session_id in self.entries
        }

    def live(self) -> list[Entry]:
        """In order of their ids."""
        entries = sorted(self.entries.values(), key=lambda entry: entry.session_id)
        return [entry for entry in entries if entry.handle != ENDED]

    def expired(self, now: float) -> list[Entry]:
        return [entry for entry in self.live() if entry.expire_time <= now]

    def forget(self, now: float) -> None:
        self.entries = {
            session_id: entry
            for session_id, entry in self.entries.items()
            if entry.handle != ENDED or entry.expire_time > now
        }
