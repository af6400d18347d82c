"""Plans of histories: the simulator draws them (fieldsync_sim/src/plan), the same for both worlds."""

import json
import os
import shutil
import subprocess

from kit.private_hub import CHECKOUT

# A seed's history here; the simulator's may be longer. Fewer steps are the beginning of more.
MOST = 150


def steps_of(seed):
    return int(os.environ.get("FIELDSYNC_STEPS", 30 + seed % 5 * 30))


def plans(first, count):
    """By seed. FIELDSYNC_STEPS=n and FIELDSYNC_ONLY=at,at,... take steps out, to make a failure small."""
    cargo = shutil.which("cargo") or os.path.expanduser("~/.cargo/bin/cargo")
    done = subprocess.run(
        [cargo, "run", "--quiet", "--locked", "--release", "-p", "fieldsync_sim", "--bin", "simulate", "--",
         "--from", str(first), "--count", str(count), "--steps", str(max(MOST, *map(steps_of, range(first, first + count)), 0)), "--plan", "1"],
        cwd=CHECKOUT, check=True, stdout=subprocess.PIPE, text=True)
    only = {int(at) for at in os.environ.get("FIELDSYNC_ONLY", "").split(",") if at}
    found = {}
    for line in done.stdout.splitlines():
        plan = json.loads(line)
        plan["steps"] = [step for step in plan["steps"][:steps_of(plan["seed"])] if not only or step["at"] in only]
        found[plan["seed"]] = plan
    return found
