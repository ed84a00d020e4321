"""`quarry backfill` as a Ray job: joins the cluster that it was submitted to.

ray job submit --working-dir . -- python jobs/backfill.py --config configs/mine.yaml --last-days 30
"""

from __future__ import annotations

import sys

from pipeline.cli import main

if __name__ == "__main__":
    sys.exit(main(["backfill", *sys.argv[1:], "runtime.address=auto"]))
