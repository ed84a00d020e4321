"""`quarry evaluate` as a Ray job: joins the cluster that it was submitted to.

ray job submit --working-dir . -- python jobs/evaluate.py --config configs/evaluate.yaml output=s3://bucket/out
"""

from __future__ import annotations

import sys

from pipeline.cli import main

if __name__ == "__main__":
    sys.exit(main(["evaluate", *sys.argv[1:], "runtime.address=auto"]))
