"""`quarry report -o` as a Ray job, for a run whose audio only the cluster can reach.

ray job submit --working-dir . -- python jobs/report.py s3://bucket/out/mine-0123456789ab -o s3://bucket/reports/mine.html
"""

from __future__ import annotations

import sys

from pipeline.cli import main

if __name__ == "__main__":
    sys.exit(main(["report", *sys.argv[1:]]))
