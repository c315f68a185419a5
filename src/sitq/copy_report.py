"""What a copy did: counted while it goes on, and reported."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

from .store import Written

NAMED = 100
"""How many ids of a kind a report names, so that it stays small."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CopyReport:
    """What a copy did. Ids are named up to a hundred of a kind.

    Attributes:
        copied: tasks that were written, since the target lacked them or had them less far in their lives.
        skipped: tasks that were in the target, equal in every column.
        kept: tasks of the target that have got further in their lives than the source's; they were left alone.
        kept_ids: which.
        requeued: of the copied ones, running tasks that were copied as ``queued``; they may run twice.
        conflicts: tasks that were not copied, since another unfinished task of the target bears their unique key.
        conflict_ids: which.
        results: results that were written with their tasks.
        paused: queues that were paused in the target, since they are in the source.
        seconds: how long it took, without verifying.
        verify_seconds: how long verifying took.
        verified: whether all that was copied or skipped was read back from the target and is what had been read
            from the source. ``False`` also where ``verify=False`` left that out.
        checked: how many tasks were read back.
        differing_ids: tasks that came back otherwise, or not at all.
        checksum: a sum over all that was read back, 32 hexadecimal digits. It is the same for the same tasks and
            results on every kind of database, in whatever order; ``None`` if nothing was to be verified.
    """

    copied: int
    skipped: int
    kept: int
    kept_ids: tuple[str, ...]
    requeued: int
    conflicts: int
    conflict_ids: tuple[str, ...]
    results: int
    paused: int
    seconds: float
    verify_seconds: float
    verified: bool
    checked: int
    differing_ids: tuple[str, ...]
    checksum: str | None

    @property
    def complete(self) -> bool:
        """Whether the target has every task of the source, verified, and none of its own was in the way."""
        return self.verified and not self.kept and not self.conflicts


@dataclass
class Tally:
    """What a copy has done so far."""

    copied: int = 0
    skipped: int = 0
    kept: int = 0
    requeued: int = 0
    conflicts: int = 0
    results: int = 0
    checked: int = 0
    checksum: int = 0
    verify_seconds: float = 0.0
    kept_ids: list[str] = field(default_factory=list)
    conflict_ids: list[str] = field(default_factory=list)
    differing_ids: list[str] = field(default_factory=list)

    @property
    def done(self) -> int:
        """How many tasks have been dealt with."""
        return self.copied + self.skipped + self.kept + self.conflicts

    def add(self, written: Written, given_up: Collection[str]) -> None:
        """Count what became of a batch; ``given_up`` are the ids of running tasks in it."""
        new = [*written.plan.new, *(record for record, _ in written.plan.changed)]
        self.copied += len(new)
        self.skipped += len(written.plan.same)
        self.kept += len(written.plan.kept)
        self.conflicts += len(written.held)
        self.requeued += sum(record.id in given_up for record in new) if given_up else 0
        self.results += sum(record.result is not None for record in new)
        name_some(self.kept_ids, [record.id for record in written.plan.kept])
        name_some(self.conflict_ids, [record.id for record, _ in written.held])

    def report(self, *, seconds: float, paused: int, verify: bool) -> CopyReport:
        """What it came to."""
        return CopyReport(
            copied=self.copied,
            skipped=self.skipped,
            kept=self.kept,
            kept_ids=tuple(self.kept_ids),
            requeued=self.requeued,
            conflicts=self.conflicts,
            conflict_ids=tuple(self.conflict_ids),
            results=self.results,
            paused=paused,
            seconds=seconds - self.verify_seconds,
            verify_seconds=self.verify_seconds,
            verified=verify and not self.differing_ids,
            checked=self.checked,
            differing_ids=tuple(self.differing_ids),
            checksum=f"{self.checksum % 2**128:032x}" if verify else None,
        )


def name_some(names: list[str], more: Sequence[str]) -> None:
    """Add ids, as long as there are few."""
    names += more[: max(0, NAMED - len(names))]
