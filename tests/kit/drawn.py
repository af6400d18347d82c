"""Histories that are drawn from seeds."""

import os


def seeds(variable, count):
    """The seeds that the environment names as first:count; without it `count` of them, always the same."""
    first, count = (int(part) for part in os.environ.get(variable, f"0:{count}").split(":"))
    return range(first, first + count)


def carry_out(history, variable, seed):
    """Runs and checks one; a failure prints its steps, and how to see them again."""
    try:
        history.run()
        history.check()
    except BaseException:
        print(f"{variable}={seed}:1 replays this:", *history.steps, sep="\n  ")
        raise
