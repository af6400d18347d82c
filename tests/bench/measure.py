"""Contenders measured against each other: in turns, in changing order, several times.

The machine may be busy with other things, so a figure is CPU time where one process does all of the work, and the time
that passes where waiting (for the disk) is part of the matter. A ratio is the median of the ratios of the turns, in each
of which both contenders ran one right after the other.
"""

import contextlib
import gc
import statistics
import time
from pathlib import Path


def cpu_seconds(process):
    """CPU time that this process ("self"), or another one that waits for its next command, has used."""
    if process == "self":
        return time.process_time()
    return int(Path(f"/proc/{process}/schedstat").read_text().split()[0]) / 1e9


class Watch:
    """`with watch:` around what is to be measured."""

    def __init__(self, process="self", waiting=False):
        self.process = process
        self.waiting = waiting
        self.seconds = None
        self.passed = None

    def __enter__(self):
        gc.collect()
        gc.disable()
        self._cpu = cpu_seconds(self.process)
        self._begun = time.perf_counter()
        return self

    def __exit__(self, *_):
        self.passed = time.perf_counter() - self._begun
        self.seconds = self.passed if self.waiting else cpu_seconds(self.process) - self._cpu
        gc.enable()


class Turns:
    """What came of it: seconds per contender and turn."""

    def __init__(self, names):
        self.seconds = {name: [] for name in names}
        self.passed = {name: [] for name in names}

    def median(self, name):
        return statistics.median(self.seconds[name])

    def ratio(self, one, other, seconds=None):
        seconds = seconds or self.seconds
        return statistics.median(a / b for a, b in zip(seconds[one], seconds[other]))

    def shown(self, one, other, scale=1000.0, unit="ms"):
        """Both medians, and the ratio of the time that passed, for the last columns of the table."""
        return {one: f"{self.median(one) * scale:.4g} {unit}", other: f"{self.median(other) * scale:.4g} {unit}",
                "passed": round(self.ratio(one, other, self.passed), 2)}


def alternate(turns, process="self", waiting=False, **contenders):
    """Runs contenders in turns. Each is called with a watch and uses it around what counts."""
    result = Turns(contenders)
    names = list(contenders)
    for turn in range(turns + 1):
        for name in names if turn % 2 else reversed(names):
            watch = Watch(process, waiting)
            contenders[name](watch)
            if turn:  # the first turn only warms up
                result.seconds[name].append(watch.seconds)
                result.passed[name].append(watch.passed)
    return result


@contextlib.contextmanager
def peak_memory(process, interval=0.002):
    """Measures by how many megabytes a process's own (anonymous) memory rises above what it has now, at the most."""
    import threading

    def own():
        for line in Path(f"/proc/{process}/status").read_text().splitlines():
            if line.startswith("RssAnon:"):
                return int(line.split()[1]) / 1024
        return 0.0

    before = own()
    found = {"mb": 0.0}
    done = threading.Event()

    def watch():
        while not done.wait(interval):
            found["mb"] = max(found["mb"], own() - before)

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield found
    finally:
        done.set()
        thread.join()
        found["mb"] = max(found["mb"], own() - before)
