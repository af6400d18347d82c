"""A sync carried by the two shells alone: `sqlite3` writes and reads binary files, `psql` carries them to the hub.

No driver, no fixture and no Python in the path of the bytes: what a field team with two command lines would type.
"""

import subprocess

from .private_hub import CHECKOUT

EXAMPLES = CHECKOUT / "sql" / "examples"


def sync_by_hand(device, hub, directory):
    """One sync through files. The sizes of the two blobs in bytes, and what fs_apply_delta printed."""
    up, down = directory / f"{device.path.stem}.up", directory / f"{device.path.stem}.down"
    device.close()
    device.shell(f"SELECT writefile('{up}', fs_export_delta());", extension=True)
    hub.psql("", "-v", f"delta={up}", "-v", f"reply={down}", "-f", str(EXAMPLES / "sync_files.sql"))
    report = device.shell(f"SELECT fs_apply_delta(readfile('{down}'));", extension=True)
    sizes = up.stat().st_size, down.stat().st_size
    up.unlink()
    down.unlink()
    return sizes, report


def run(command, directory, environment):
    """A line of shell, as a person would paste it."""
    return subprocess.run(["bash", "-euo", "pipefail", "-c", command], cwd=directory, env=environment,
                          stdin=subprocess.DEVNULL, capture_output=True, text=True, encoding="utf-8")
