"""How long the blob takes, and how much memory beside the rows: 100,000 rows of nine columns, inserts and updates.

Milliseconds are processor time, so that other work on the machine does not count.
"""

import json
import subprocess

MS_MAX = 150
EXTRA_MB_MAX = 64


def run(context):
    """Rows of the table."""
    rows = []
    program = context.example("twin")
    for operation in ("insert", "update"):
        told = json.loads(subprocess.run([program, operation], check=True, capture_output=True, text=True).stdout)
        more = {"bytes": told["bytes"]}
        rows += [
            context.row("wire", f"100k {operation}s: encode, ms", told["encode_ms"], MS_MAX, **more),
            context.row("wire", f"100k {operation}s: decode, ms", told["decode_ms"], MS_MAX, **more),
            context.row("wire", f"100k {operation}s: encode, MB above the rows", told["encode_mb"], EXTRA_MB_MAX),
            context.row("wire", f"100k {operation}s: decode, MB above the rows", told["decode_mb"], EXTRA_MB_MAX,
                        rows_mb=told["decoded_mb"]),
        ]
    return rows
