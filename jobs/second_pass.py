"""`quarry second-pass` as a Ray job: joins the cluster that it was submitted to.

ray job submit --working-dir . -- python jobs/second_pass.py --config configs/mine.yaml second_pass.task=summary
"""

from __future__ import annotations

import sys

from pipeline.cli import main

if __name__ == "__main__":
    sys.exit(main(["second-pass", *sys.argv[1:], "runtime.address=auto"]))
