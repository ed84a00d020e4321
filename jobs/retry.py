"""`quarry retry` as a Ray job: joins the cluster that it was submitted to.

ray job submit --working-dir . -- python jobs/retry.py --config configs/mine.yaml output=s3://bucket/out \\
    --flagged --engine granite
"""

from __future__ import annotations

import sys

from pipeline.cli import main

if __name__ == "__main__":
    sys.exit(main(["retry", *sys.argv[1:], "runtime.address=auto"]))
