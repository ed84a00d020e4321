"""The model code runs where nothing but torch, numpy, safetensors and tokenizers is installed."""

from __future__ import annotations

import importlib.metadata
import json
import re
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

REPO = Path(__file__).resolve().parents[3]
FOLDER = REPO / "pipeline" / "engines" / "granite_nar"
PACKAGES = ("torch", "numpy", "safetensors")  # with what they need; tokenizers needs its hub client for downloads alone
MODULES = sorted(path.stem for path in FOLDER.glob("*.py") if path.stem not in ("__init__", "engine"))

SCRIPT = """
import importlib, json, sys
from importlib.abc import MetaPathFinder

allowed, folders, modules, checkpoint = json.loads(sys.argv[1])

class Bare(MetaPathFinder):
    def find_spec(self, name, path, target=None):
        package = name.partition(".")[0]
        if package not in allowed and package not in sys.stdlib_module_names:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.path[:0] = folders
sys.meta_path.insert(0, Bare())
"""

TRANSCRIBE = """
from pathlib import Path
import torch
from tokenizers import Tokenizer
for module in modules:
    importlib.import_module(f"pipeline.engines.granite_nar.{module}")

from models import babble, transcribe
from pipeline.engines.granite_nar.loading import load_weights
from pipeline.engines.granite_nar.model import Model
from pipeline.engines.granite_nar.random_checkpoint import TINY, write_checkpoint

folder = Path(checkpoint)
write_checkpoint(folder, TINY, layout="B", seed=3)
weights, config, labels = load_weights(folder, dtype=torch.float32, device=torch.device("cpu"))
model = Model(weights, config, labels, backend="sdpa")
tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
texts = [tokenizer.decode(clip.final.tolist()) for clip in transcribe(model, [babble(16_000), babble(48_123)])]
print(json.dumps([texts, sorted(sys.modules)]))
"""


def needed(packages: tuple[str, ...]) -> set[str]:
    """Names to import of installed packages and of all they require."""
    found: set[str] = set()
    waiting = [normal(name) for name in packages]
    while waiting:
        name = waiting.pop()
        if name in found:
            continue
        found.add(name)
        try:
            requires = importlib.metadata.requires(name) or []
        except importlib.metadata.PackageNotFoundError:  # for another platform
            continue
        waiting += [normal(re.split(r"[^\w.-]", line)[0]) for line in requires if "extra ==" not in line]
    owners = importlib.metadata.packages_distributions()
    return {module for module, names in owners.items() if found & {normal(name) for name in names}}


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def run_bare(script: str, checkpoint: Path) -> subprocess.CompletedProcess[str]:
    """Run on this Python without its site: no installed package is there but by the folder it lies in."""
    allowed = sorted(needed(PACKAGES) | {"tokenizers", "pipeline", "models"})
    paths = sysconfig.get_paths()
    folders = [str(REPO), str(Path(__file__).parent), paths["purelib"], paths["platlib"]]
    given = json.dumps([allowed, folders, MODULES, str(checkpoint)])
    command = [sys.executable, "-S", "-c", SCRIPT + script, given]
    return subprocess.run(command, capture_output=True, text=True, cwd="/", timeout=150)


def test_the_model_transcribes_on_a_bare_machine(tmp_path: Path) -> None:
    done = run_bare(TRANSCRIBE, tmp_path)
    assert done.returncode == 0, done.stderr
    texts, loaded = json.loads(done.stdout.splitlines()[-1])
    assert len(texts) == 2
    assert all(texts)
    assert not {"pydantic", "ray", "transformers", "yaml"} & {name.partition(".")[0] for name in loaded}
    ours = {name for name in loaded if name.partition(".")[0] == "pipeline"}
    known = {"pipeline", "pipeline.errors", "pipeline.receipts", "pipeline.records"}
    known |= {"pipeline.engines", "pipeline.engines.granite_nar"}
    assert ours - known == {f"pipeline.engines.granite_nar.{module}" for module in MODULES}


@pytest.mark.parametrize("package", ["pydantic", "ray", "yaml"])
def test_the_bare_machine_lacks_what_quarry_needs(package: str, tmp_path: Path) -> None:
    """Else the test above could not fail."""
    done = run_bare(f"import {package}", tmp_path)
    assert done.returncode == 1
    assert f"No module named '{package}'" in done.stderr
