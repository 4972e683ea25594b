"""The arithmetic of docs/sizing.md."""

from __future__ import annotations

from benchmarks.copies import Figures
from benchmarks.sizing import BEGIN, END, PAGE, tables, written


def test_the_tables() -> None:
    slow = Figures("SQLite", 1, acknowledged=50, p99_ms=9, recorded=50, delivered=50, event_bytes=4_000)
    fast = Figures("PostgreSQL", 3, acknowledged=500, p99_ms=9, recorded=500, delivered=1_500, event_bytes=5_000)
    made = tables([slow, fast])
    # 20,000 events a day are 0.23/s, at the peak 2.3/s: a half of 50/3 deliveries to each is enough, of 16 too few.
    assert "| 1,000 | 20,000 | 0.2/s | 2/s | SQLite; PostgreSQL, 3 copies | 34 GiB |" in made
    assert "| 10,000 | 200,000 | 2.3/s | 23/s | PostgreSQL, 3 copies | 340 GiB |" in made
    assert "| 100,000 | 2,000,000 | 23.1/s | 231/s | PostgreSQL, 3 copies | 3,399 GiB |" in made
    assert "| 1,000 | 667 | 10 minutes |" in made
    assert "| 100,000 | 66,667 | 1,000 minutes |" in made


def test_the_page_keeps_its_words() -> None:
    page = PAGE.read_text(encoding="utf-8")
    again = written(written(page, "| a |"), "| b |")
    assert again.count("| b |") == 1 and "| a |" not in again
    assert again.partition(BEGIN)[0] == page.partition(BEGIN)[0]
    assert again.partition(END)[2] == page.partition(END)[2]
