"""Run a command beside a local S3 server that holds the demo archive, and stop the server afterwards.

    PYTHONPATH=tests python demos/with_s3.py COMMAND [ARGUMENT ...]

The server is the tests' own (SeaweedFS, on 127.0.0.1 and free ports). Its data lie in `demo/s3/` and outlive it, so a second
call resumes. The command finds it through the variables that every S3 client reads (AWS_ENDPOINT_URL and its like).
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from servers import S3Endpoint, Seaweed, connect, free_ports

DEMO = Path(__file__).resolve().parent.parent / "demo"
BUCKET = "quarry"


def main(command: list[str]) -> int:
    """Start, fill, run, stop; returns the command's exit code."""
    if not command:
        print("with_s3.py needs a command to run; example: with_s3.py python demos/run.py", file=sys.stderr)
        return 2
    folder = DEMO / "s3"
    folder.mkdir(parents=True, exist_ok=True)
    server = Seaweed(folder, free_ports(8))
    try:
        server.start()
        upload(server.endpoint)
        print(f"S3 server at {server.endpoint.endpoint_url}, archive in s3://{BUCKET}/archive", flush=True)
        return subprocess.run(command, env=os.environ | variables(server.endpoint), check=False).returncode
    finally:
        server.kill()
        print("The S3 server has ended; its data stay in demo/s3, and `make demo-s3` starts it again.", flush=True)


def upload(endpoint: S3Endpoint) -> None:
    """Create the bucket and put the archive into it; what is there with the same size stays."""
    filesystem = connect(endpoint)
    filesystem.mkdirs(BUCKET, exist_ok=True)
    there = filesystem.find(f"{BUCKET}/archive", detail=True)
    archive = DEMO / "archive"
    for path in sorted(it for it in archive.rglob("*") if it.is_file()):
        key = f"{BUCKET}/archive/{path.relative_to(archive).as_posix()}"
        if there.get(key, {}).get("size") != path.stat().st_size:
            filesystem.put_file(str(path), key)


def variables(endpoint: S3Endpoint) -> dict[str, str]:
    """The environment under which any S3 client finds the server."""
    return {
        "AWS_ENDPOINT_URL": endpoint.endpoint_url,
        "AWS_ACCESS_KEY_ID": endpoint.key,
        "AWS_SECRET_ACCESS_KEY": endpoint.secret,
        "AWS_DEFAULT_REGION": "us-east-1",
    }


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
