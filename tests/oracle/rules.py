"""The merge rules a second time, from the words of the contract alone.

Nothing here looks at how the core does it. Where the core keeps stamps per field, this reads the row's whole history: a
list of hub transactions, each with its version, its clock, who made it and what it wrote. A case is one change of one
device against one row; `decide` says what the row becomes, and what is to be told about it.
"""

import json
from decimal import Decimal, localcontext

HUB = 0
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

def same(kind, a, b):
    """Equal in the hub's type."""
    if a is None or b is None:
        return a is b
    if kind == "jsonb":
        return json.loads(a) == json.loads(b)
    if kind == "numeric":
        return Decimal(a) == Decimal(b)
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
            return Decimal(hub or 0) + Decimal(new or 0) - Decimal(old or 0)
    if kind == "int":
        total = (hub or 0) + (new or 0) - (old or 0)
        if not INT_MIN <= total <= INT_MAX:
            raise NotAcceptable("out of range")
        return total
    return (hub or 0) + ((new or 0) - (old or 0))


def elements(text):
    found = [] if text is None else json.loads(text)
    if not isinstance(found, list):
        raise NotAcceptable("not an array")
    return found


def united(hub, old, new):
    """Three-way: what either side added, without what either side removed."""
    hub, old, new = elements(hub), elements(old), elements(new)
    kept = [element for element in hub if element in new or element not in old]
    return kept + [element for element in new if element not in old and element not in kept]


# ---- the decision --------------------------------------------------------------------------------------------------

class Row:
    """The row as it will be, with a note of what happened to each field of the change."""

    def __init__(self, values):
        self.values = dict(values)
        self.written, self.combined, self.won, self.lost, self.waiting = set(), set(), set(), set(), set()

    def verdict(self):
        if self.won or self.lost or self.waiting:
            return "conflict"
        if self.combined:
            return "merged"
        return "applied" if self.written else "superseded"


def decide(case):
    """What becomes of `case["change"]`: verdict, exists, values, and of the record in `conflicts` who won and who waits."""
    change, history = case["change"], case["history"]
    alive = case["alive"]
    try:
        if change["op"] == "delete":
            return decide_delete(case)
        if not alive:
            return decide_on_nothing(case)
        if change["op"] == "insert" and two_records(case, history):
            return answer("conflict", True, case["values"], waiting=set(change["fields"]))
        return decide_fields(case)
    except NotAcceptable:
        return answer("rejected", alive, case["values"] if alive else {})


def answer(verdict, exists, values, won=(), lost=(), waiting=()):
    return {"verdict": verdict, "exists": exists, "values": dict(values) if exists else {},
            "won": sorted(won), "lost": sorted(lost), "waiting": sorted(waiting)}


def two_records(case, history):
    """Two origins inserted one key, neither having seen the other: for integer keys, two different records."""
    change, rules = case["change"], case["rules"]
    makings = [event for event in history if event["op"] == "insert"]
    made_by_another = makings and makings[-1]["origin"] != change["origin"] \
        and not has_seen(change["base"], makings[-1]["version"])
    if not made_by_another:
        return False
    choice = rules["on_same_key"] or ("separate" if case["integer_key"] else "merge")
    return choice == "separate"


def decide_delete(case):
    change, rules = case["change"], case["rules"]
    if not case["alive"]:
        return answer("superseded", False, {})
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
    unseen_deletion = deletion is not None and deletion["origin"] != change["origin"] \
        and not has_seen(change["base"], deletion["version"])
    if change["op"] == "insert":
        if not unseen_deletion:
            return answer("applied", True, new)
    elif not unseen_deletion:
        return answer("rejected", False, {})
    # An update meets a deletion that it did not know of.
    if rules["on_delete"] == "delete_wins":
        return answer("conflict", False, {}, lost={"*"})
    if rules["on_delete"] == "manual":
        return answer("conflict", False, {}, waiting={"*"})
    return answer("conflict", True, {**case["values"], **new}, won={"*"})


def decide_fields(case):
    """A change of a row that is there. A field's own rule beats the table's; the table's rule decides the rest."""
    change, rules, kinds = case["change"], case["rules"], case["kinds"]
    row = Row(case["values"])
    by_row = []
    for field in sorted(change["fields"]):
        if field in rules["fields"]:
            decide_field(case, row, field, rules["fields"][field])
        elif by_field(rules, field):
            decide_field(case, row, field, "last_write_wins", table_rule=True)
        else:
            by_row.append(field)
    decide_rest(case, row, by_row)
    # Nothing of the record to show where both sides say the same.
    return answer(row.verdict(), True, row.values, row.won, row.lost, row.waiting)


def by_field(rules, field):
    """Whether the table's rule lets this field merge by itself."""
    if rules["merge_fields"] is not None:
        return field in rules["merge_fields"]
    return rules["strategy"] == "field_merge"


def decide_field(case, row, field, rule, table_rule=False):
    change, kind = case["change"], case["kinds"][field]
    old, new, hub = change["fields"][field]["old"], change["fields"][field]["new"], case["values"][field]
    others = unseen(case["history"], change["origin"], change["base"], field)
    if rule == "sum" and new is not None:
        total = added_up(kind, hub, old, new)
        row.values[field] = total
        (row.combined if others else row.written).add(field)
        return
    if same(kind, hub, new):
        return
    if not others:
        row.values[field] = new
        row.written.add(field)
        return
    if rule in ("max", "min") and hub is not None and new is not None:
        pick = max if rule == "max" else min
        row.values[field] = pick(hub, new, key=lambda value: compared(kind, value))
        row.combined.add(field)
    elif rule in ("max", "min"):
        row.values[field] = new if hub is None else hub
        row.combined.add(field)
    elif rule == "union":
        row.values[field] = united(hub, old, new)
        row.combined.add(field)
    elif rule == "manual":
        row.waiting.add(field)
    else:
        wins = rule == "client_wins" or (rule in ("last_write_wins", "sum") and later_than_all(change, others))
        settle(row, field, new, wins)


def later_than_all(change, others):
    return all(later(change["clock"], change["origin"], event) for event in others)


def settle(row, field, new, wins):
    if wins:
        row.values[field] = new
        row.won.add(field)
    else:
        row.lost.add(field)


def decide_rest(case, row, fields):
    """The fields over which the table's strategy decides, as one."""
    change, rules, kinds = case["change"], case["rules"], case["kinds"]
    history, device, base = case["history"], change["origin"], change["base"]
    collisions = colliding(case, fields)
    different = [field for field in fields if not same(kinds[field], case["values"][field], change["fields"][field]["new"])]
    strategy = rules["strategy"]
    # The fields that merge_fields does not name go to the server.
    if strategy == "field_merge":
        strategy = "server_wins"
    if strategy == "last_write_wins":
        others = [event for field in collisions for event in unseen(history, device, base, field)] \
            if rules["detection"] == "field_compare" else unseen(history, device, base)
        strategy = "client_wins" if later_than_all(change, others) else "server_wins"
    for field in different:
        new = change["fields"][field]["new"]
        if field in collisions:
            if strategy == "manual":
                row.waiting.add(field)
            else:
                settle(row, field, new, strategy == "client_wins")
        elif unseen(history, device, base, field):
            # Overwritten without being called a conflict: on record all the same.
            row.values[field] = new
            row.won.add(field)
        else:
            row.values[field] = new
            row.written.add(field)


def colliding(case, fields):
    """Which of the fields are in conflict, by the table's detection."""
    change, rules = case["change"], case["rules"]
    history, device, base = case["history"], change["origin"], change["base"]
    if rules["detection"] == "field_compare":
        return [field for field in fields if unseen(history, device, base, field)]
    if rules["detection"] == "version_compare":
        return list(fields) if unseen(history, device, base) else []
    return list(fields) if hub_is_later(case) else []


def hub_is_later(case):
    """timestamp_compare: the hub's priority field is later than the device's."""
    change, field = case["change"], case["rules"]["priority_field"]
    if field is None:
        return case["modified_ms"] > change["clock"] >> 16
    hub = case["values"][field]
    mine = change["fields"][field]["new"] if field in change["fields"] else None
    if hub is None or mine is None:
        return hub is not None and mine is None
    return compared(case["kinds"][field], hub) > compared(case["kinds"][field], mine)
