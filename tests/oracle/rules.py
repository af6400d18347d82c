"""The merge rules a second time, from the words of the contract alone.

Nothing here looks at how the core does it. Where the core keeps stamps per field, this reads the row's whole history: a
list of hub transactions, each with its version, its clock, who made it and what it wrote. A case is one change of one
device against one row; `decide` says what the row becomes, and what is to be told about it.

Where the contract's words leave a choice, it is made here, once, and named:

* the table's detection says which fields are in conflict, a field's rule says who wins there; a change that nobody
  else's collides with is never lost to a field rule;
* both sides have the same value: nobody loses, nothing is on record;
* a field that went there and back on the device counts as unchanged, whatever others wrote meanwhile;
* NULL is neither earlier nor later than anything; under `max` and `min` it meets a number by the clock, on record;
* `timestamp_compare` asks only about changes that the device had not seen, as everything does;
* a new record under a key whose former, deleted record the device never saw is simply new where keys mean different
  records; where they mean the same record, `on_delete` decides, and nothing of anybody's is overwritten if it comes back;
* verdicts: `conflict` if anybody lost or waits; else `merged` if somebody else changed the row meanwhile; else `applied`.
"""

import json
from decimal import Decimal, localcontext

INT_MIN, INT_MAX = -(2 ** 63), 2 ** 63 - 1


class NotAcceptable(Exception):
    """The change cannot be taken at all (a counter out of range, an array that is none)."""


# ---- what has been seen --------------------------------------------------------------------------------------------

def has_seen(base, version):
    """A Postgres snapshot: seen is what had ended when it was taken."""
    if base is None:
        return False
    if version < base["xmin"]:
        return True
    return version < base["xmax"] and version not in base["xip"]


def unseen(history, device, base, field=None):
    """What others wrote that the device had not seen: of one field, or of the row at all."""
    found = []
    for event in history:
        if event["origin"] == device or has_seen(base, event["version"]):
            continue
        if field is None or event["op"] == "insert" or (event["op"] == "update" and field in event["fields"]):
            found.append(event)
    return found


def later(clock, device, event):
    """Whether the device's change is later than an event that it is concurrent with. Equal: the greater client."""
    return (clock, device) > (event["clock"], event["origin"])


# ---- combining values ----------------------------------------------------------------------------------------------

def same(a, b):
    """Equal as the hub writes them: values are canonical when they come here. `1.0` and `1.00` are two numerics."""
    return a == b


def compared(kind, value):
    """A value that Python compares as the hub's type would."""
    if kind == "numeric":
        return Decimal(value)
    if kind in ("jsonb", "array"):
        return json.dumps(json.loads(value), sort_keys=True)
    return value


def added_up(kind, hub, old, new):
    """The hub's value with one difference on top; NULL counts as 0."""
    if kind == "numeric":
        with localcontext() as context:
            context.prec = 1000
            return format(Decimal(hub or 0) + (Decimal(new or 0) - Decimal(old or 0)), "f")
    if kind == "int":
        total = (hub or 0) + (new or 0) - (old or 0)
        if not INT_MIN <= total <= INT_MAX:
            raise NotAcceptable("out of range")
        return total
    return (hub or 0) + ((new or 0) - (old or 0))


def elements(text):
    """An array's elements as text, so that 1, 1.0, true and "1" stay apart."""
    return [] if text is None else [json.dumps(element, ensure_ascii=False) for element in json.loads(text)]


def is_array(text):
    try:
        return text is None or isinstance(json.loads(text), list)
    except ValueError:
        return False


def united(hub, old, new):
    """Three-way: what either side added, without what either side removed."""
    hub, old, new = elements(hub), elements(old), elements(new)
    kept = [element for element in hub if element in new or element not in old]
    added = [element for element in new if element not in old]
    return "[" + ", ".join(dict.fromkeys(kept + added)) + "]"


# ---- the decision --------------------------------------------------------------------------------------------------

class Row:
    """The row as it will be, and what is on record about it."""

    def __init__(self, values):
        self.values = dict(values)
        self.won, self.lost, self.waiting, self.quiet = set(), set(), set(), set()

    def settle(self, field, new, wins):
        if wins:
            self.values[field] = new
            self.won.add(field)
        else:
            self.lost.add(field)


def decide(case):
    """What becomes of `case["change"]`: verdict, exists, values, and who is on record as winner, loser or waiting."""
    change = case["change"]
    try:
        if change["op"] == "delete":
            return decide_delete(case)
        if not case["alive"]:
            return decide_on_nothing(case)
        if change["op"] == "insert" and two_records(case):
            return answer("conflict", True, case["values"], waiting=set(change["fields"]))
        row = decide_fields(case)
        return answer(verdict(case, row), True, row.values, row.won, row.lost, row.waiting, row.quiet)
    except NotAcceptable:
        return answer("rejected", case["alive"], case["values"])


def answer(verdict, exists, values, won=(), lost=(), waiting=(), quiet=()):
    return {"verdict": verdict, "exists": exists, "values": dict(values) if exists else {},
            "won": sorted(won), "lost": sorted(lost), "waiting": sorted(waiting), "quiet": sorted(quiet)}


def verdict(case, row):
    if row.won or row.lost or row.waiting:
        return "conflict"
    return "merged" if unseen(case["history"], case["change"]["origin"], case["change"]["base"]) else "applied"


def means_two_records(case):
    """Whether one key, made twice, means two records."""
    return (case["rules"]["on_same_key"] or ("separate" if case["integer_key"] else "merge")) == "separate"


def two_records(case):
    """Two origins inserted one key, neither having seen the other."""
    change = case["change"]
    makings = [event for event in case["history"] if event["op"] == "insert"]
    made_by_another = makings[-1]["origin"] != change["origin"] and not has_seen(change["base"], makings[-1]["version"])
    return made_by_another and means_two_records(case)


def decide_delete(case):
    change, rules = case["change"], case["rules"]
    if not case["alive"]:
        deletion = case["history"][-1] if case["history"] else None
        both = deletion is not None and deletion["origin"] != change["origin"]
        return answer("merged" if both else "superseded", False, {})
    if not unseen(case["history"], change["origin"], change["base"]):
        return answer("applied", False, {})
    if rules["on_delete"] == "delete_wins":
        return answer("conflict", False, {}, won={"*"})
    if rules["on_delete"] == "manual":
        return answer("conflict", True, case["values"], waiting={"*"})
    return answer("conflict", True, case["values"], lost={"*"})


def decide_on_nothing(case):
    """The row is not there: never was, or was deleted."""
    change, rules = case["change"], case["rules"]
    deletion = case["history"][-1] if case["history"] else None
    new = {field: value["new"] for field, value in change["fields"].items()}
    if change["op"] == "insert":
        seen = deletion is None or deletion["origin"] == change["origin"] \
            or has_seen(change["base"], deletion["version"])
        if seen or means_two_records(case) or rules["on_delete"] == "update_wins":
            return answer("applied", True, new)
    elif deletion is None:
        return answer("rejected", False, {})
    # An update meets a deletion.
    if rules["on_delete"] == "delete_wins":
        return answer("conflict", False, {}, lost={"*"})
    if rules["on_delete"] == "manual":
        return answer("conflict", False, {}, waiting={"*"})
    # The record comes back, whole, and the fields meet what others had written in it while it lived.
    lived = {**case, "history": case["history"][:-1]}
    return answer("conflict", True, decide_fields(lived).values, won={"*"})


def decide_fields(case):
    """A change of a row that is there, field by field."""
    change, rules = case["change"], case["rules"]
    row = Row(case["values"])
    whole_row = row_in_conflict(case)
    for field in sorted(change["fields"]):
        rule = rules["fields"].get(field)
        old, new, hub = change["fields"][field]["old"], change["fields"][field]["new"], case["values"][field]
        others = unseen(case["history"], change["origin"], change["base"], field)
        if change["op"] == "update" and same(old, new):
            pass
        elif rule == "sum" and (new is not None or hub is None) and not offered_again(case):
            if new is not None:
                row.values[field] = added_up(case["kinds"][field], hub, old, new)
        elif same(hub, new):
            pass
        elif not others and (rule == "sum" or not whole_row):
            row.values[field] = new
            if change["op"] == "insert" and hub is not None:
                row.quiet.add(field)  # the maker of a record that it knew may have lost that, and mean another one
        elif others and rule in ("sum", "max", "min", "union"):
            join(case, row, field, rule, others)
        elif rules["detection"] == "timestamp_compare" and not whole_row and rule is None:
            # It is overwritten without being called a conflict: on record all the same.
            row.values[field] = new
            row.quiet.add(field)
        else:
            collide(case, row, field, others)
    return row


def offered_again(case):
    """An insert of a row that the device itself made (or knew), once more: it brings no difference of its own."""
    return case["change"]["op"] == "insert" and not unseen(
        [event for event in case["history"] if event["op"] in ("insert", "delete")],
        case["change"]["origin"], case["change"]["base"])


def row_in_conflict(case):
    """Whether the table's detection calls every changed field a conflict. `field_compare` looks at each by itself."""
    change, rules = case["change"], case["rules"]
    others = unseen(case["history"], change["origin"], change["base"])
    if not others or rules["detection"] == "field_compare":
        return False
    if rules["detection"] == "version_compare":
        return True
    if rules["priority"] is None:
        return change["clock"] < max(event["clock"] for event in others)
    device, hub = rules["priority"]
    return device is not None and hub is not None and hub > device


def join(case, row, field, rule, others):
    """Counters reset, maxima, minima, unions: joined where both sides have something to join."""
    change, kind = case["change"], case["kinds"][field]
    old, new, hub = change["fields"][field]["old"], change["fields"][field]["new"], case["values"][field]
    if rule in ("max", "min") and hub is not None and new is not None:
        pick = max if rule == "max" else min
        row.values[field] = pick(hub, new, key=lambda value: compared(kind, value))
    elif rule == "union" and is_array(hub) and is_array(old) and is_array(new):
        row.values[field] = united(hub, old, new)
    elif rule == "sum" and hub is None:
        row.values[field] = new
    else:
        row.settle(field, new, later_than_all(change, others))


def later_than_all(change, others):
    return all(later(change["clock"], change["origin"], event) for event in others)


def collide(case, row, field, others):
    """A field in conflict: its own rule decides, else the table's."""
    change, rules = case["change"], case["rules"]
    new = change["fields"][field]["new"]
    rule = rules["fields"].get(field)
    merges = rules["strategy"] == "field_merge" if rules["merge_fields"] is None else field in rules["merge_fields"]
    if rule in ("max", "min", "union", "sum"):
        row.settle(field, new, True)  # nobody else changed this field
    elif rule == "last_write_wins" or (rule is None and merges):
        row.settle(field, new, later_than_all(change, others))
    elif rule is None and rules["strategy"] == "last_write_wins":
        row.settle(field, new, later_than_all(change, unseen(case["history"], change["origin"], change["base"])))
    else:
        # Fields that `field_merge` does not name go to the server.
        decider = rule or rules["strategy"]
        if decider == "manual":
            row.waiting.add(field)
        else:
            row.settle(field, new, decider == "client_wins")
