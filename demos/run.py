"""Transcribe the demo archive, check that every row is there, and say whether it came out as it should.

python demos/run.py [a.b=c ...]        (overrides of configs/demo.yaml)
"""

from __future__ import annotations

import sys

from make_archive import BROKEN

from pipeline.cli import main as quarry
from pipeline.config.file import load_config
from pipeline.prepare import open_ledger
from pipeline.store.parts import table_of
from pipeline.store.snapshot import latest_snapshot

CONFIG = "configs/demo.yaml"


def main(overrides: list[str]) -> int:
    """`quarry run`, then `quarry verify`; 0 when the broken recording, and no other, has failed."""
    settings = ["--config", CONFIG, *overrides]
    code = quarry(["run", *settings])
    if code not in (0, 1):
        return code
    print("\n$ quarry verify", *settings, flush=True)
    incomplete = quarry(["verify", *settings])
    failed = failed_files(overrides)
    if failed == [BROKEN] and not incomplete:
        print(
            f"\nThe demo came out as it should. `quarry run` itself ended with exit code {code}, for finished with failed rows:"
            f"\n{BROKEN} is broken on purpose."
            "\nFor the commands above, first type:  . .venv/bin/activate"
        )
        return 0
    print(f"\nOnly {BROKEN} should have failed, but it was: {', '.join(failed) or 'none'}.", file=sys.stderr)
    return 1


def failed_files(overrides: list[str]) -> list[str]:
    """File names of the recordings that failed, from the run's own table of failures."""
    store = open_ledger(load_config(CONFIG, overrides)).store
    snapshot = latest_snapshot(store)
    keys = [file["key"] for file in snapshot.files["failures"]] if snapshot else []
    uris = [uri for key in keys for uri in table_of(store.get(key))["uri"].to_pylist()]
    return sorted({uri.rpartition("/")[2] for uri in uris})


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
