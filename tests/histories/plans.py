"""Plans of histories: the simulator draws them (fieldsync_sim/src/plan), the same for both worlds."""

import json
import os
import shutil
import subprocess
from pathlib import Path

from kit.private_hub import CHECKOUT


def build():
    """The program that draws."""
    cargo = shutil.which("cargo") or os.path.expanduser("~/.cargo/bin/cargo")
    subprocess.run([cargo, "build", "--quiet", "--locked", "--release", "-p", "fieldsync_sim", "--bin", "simulate"], cwd=CHECKOUT, check=True)
    return Path(CHECKOUT, os.environ.get("CARGO_TARGET_DIR", "target"), "release", "simulate")


def plan(simulator, seed):
    """A seed's. FIELDSYNC_STEPS=n and FIELDSYNC_ONLY=at,at,... take steps out, to make a failure small."""
    steps = os.environ.get("FIELDSYNC_STEPS", str(30 + seed % 5 * 30))
    only = os.environ.get("FIELDSYNC_ONLY")
    done = subprocess.run(
        [simulator, "--from", str(seed), "--count", "1", "--steps", steps, "--plan", "1", *(["--only", only] if only else [])],
        check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(done.stdout)
