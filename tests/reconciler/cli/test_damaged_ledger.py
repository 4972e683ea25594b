"""Commands on a ledger that can't be read: words and an exit code, never a traceback."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from tests.support.filled import filled
from tests.support.service import run


@pytest.mark.parametrize("command", ["status", "gaps", "events list", "dead list", "prune", "dead replay --all -y"])
def test_a_damaged_file(tmp_path: Path, command: str) -> None:
    ledger = tmp_path / "ledger.db"
    filled(ledger, 200)
    content = bytearray(ledger.read_bytes())
    content[4096 * 3 :] = b"\xff" * len(content[4096 * 3 :])
    ledger.write_bytes(content)
    config = {"receiver": {"hooks": [{"token": "t"}]}, "ledger": {"path": "ledger.db"}}
    config["destinations"] = [{"name": "a", "url": "https://x"}]  # type: ignore[assignment]
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    done = run(*command.split(), "-c", str(tmp_path / "config.yaml"))
    assert done.returncode == 1, done.stdout + done.stderr
    assert "the file is damaged: stop the service and restore a backup" in done.stderr
    assert "Traceback" not in done.stderr
