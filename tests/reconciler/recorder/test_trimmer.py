"""The trimmer: what was recorded leaves the intake, and the disk gets its place back."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from reconciler.ledger.intake import shrinking
from reconciler.ledger.intake.file import PAGE_SIZE, intake_path
from reconciler.ledger.intake.places import opener
from reconciler.recorder.trimmer import Trimmer
from tests.reconciler.recorder.world import append, life, make, titles, webhook


async def test_the_file_shrinks_while_webhooks_are_received(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shrinking, "SPARE_PAGES", 20)
    path = tmp_path / "ledger.db"
    make(path)
    await append(path, *(webhook(n, at=n, padding="x" * 200_000) for n in range(50)))
    async with life(path) as made:
        await made.recorded()
        size = intake_path(path).stat().st_size
        assert size > 10_000_000
        trimming = asyncio.create_task(Trimmer(opener(path), ledger=made.ledger).run())

        async def append_more() -> int:
            number = 50
            while intake_path(path).stat().st_size > 60 * PAGE_SIZE and not trimming.done():
                await append(path, webhook(number, at=number))
                number += 1
            return number

        last = await asyncio.wait_for(append_more(), 60)
        await made.recorded()
        assert not trimming.done()
        trimming.cancel()
        await asyncio.gather(trimming, return_exceptions=True)
    assert titles(path) == [f"{n}" for n in range(last)]
