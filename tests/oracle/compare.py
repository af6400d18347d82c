"""Compares the core's decisions with the oracle's: JSON lines on standard input, as `oracle_cases` writes them.

    cargo run -p fieldsync_sim --bin oracle_cases -- --from 0 --count 5000 | python3 tests/oracle/compare.py
"""

import json
import sys

from rules import decide


def difference(case):
    """None, or what the oracle says instead."""
    said, thought = case["decision"], decide(case)
    if "*" in thought["won"] + thought["lost"] + thought["waiting"]:
        # The row itself is on record; the fields beside it are its details.
        said = {**said, **{side: [name for name in said[side] if name == "*"] for side in ("won", "lost", "waiting", "quiet")}}
    return None if said == thought else thought


def main():
    cases = differences = 0
    for line in sys.stdin:
        case = json.loads(line)
        cases += 1
        thought = difference(case)
        if thought is not None:
            differences += 1
            if differences <= 10:
                print(f"seed {case['seed']}: the oracle disagrees\n{json.dumps(case)}\noracle: {json.dumps(thought)}"
                      f"\nagain: cargo run -p fieldsync_sim --bin oracle_cases -- --from {case['seed']} --count 1"
                      " | python3 tests/oracle/compare.py\n")
    print(f"{cases} cases, {differences} differences")
    sys.exit(differences != 0 or cases == 0)


if __name__ == "__main__":
    main()
