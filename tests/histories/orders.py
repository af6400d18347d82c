"""Any order and repetition of deliveries gives the same state: on copies of a device, and in transactions of the hub's that
are rolled back. The simulator's fieldsync_sim/src/orders.rs on real databases."""

import sqlite3

import psycopg

from .network import room_for
from .schema import COLUMNS, Finding


class NotComparable(Exception):
    """Something meets a turning point, or a half is refused where the whole is not."""


class Orders:
    def do_orders(self, step):
        number = self.phone(step)
        device = self.devices[number]
        # The answer to the first of its exports would bring something for the second one.
        if device.sql("SELECT 1 FROM fs_state WHERE name IN ('reconciling', 'names_wanted', 'recovery_until', 'repull') AND value <> 0"):
            return
        copy, files = self.copy_aside(number, "sender"), []
        part, whole = copy.export(room_for(step["most"])), copy.export()
        expected = None
        try:
            for blobs in ([part, whole], [whole], [part, part, whole, whole], [whole, part, whole]):
                self.hub.sql("BEGIN")
                try:
                    found, replies = self.after(copy, blobs)
                    expected = expected or found
                    if found != expected:
                        raise Finding(f"{len(blobs)} deliveries of two exports of phone {number} come out otherwise than [part, whole]: "
                                      f"{difference(expected, found)}")
                    if blobs == [part, whole]:
                        self.compare_answers(number, copy, replies, files)
                finally:
                    self.hub.sql("ROLLBACK")
            self.say(f"{step['at']}: orders of phone {number} compared")
        except (NotComparable, psycopg.Error) as why:
            self.say(f"{step['at']}: orders of phone {number} not compared: {why!r}")
        finally:
            for made in [copy, *files]:
                made.close()

    def copy_aside(self, number, name, of=None):
        path = self.devices[number].path.with_suffix(f".{name}")
        if of is None:
            self.copy_file(number, path)
        else:
            of.copy(path)
        made = type(self.devices[number])(path, self.devices[number].extension)
        made.sql(f"PRAGMA foreign_keys = {self.enforcing[number]}")
        return made

    def after(self, device, blobs):
        """The hub after some deliveries, and its answers."""
        before = self.hub.one("SELECT coalesce(max(conflict_id), 0) FROM sync_control.conflicts")
        replies = [self.hub.sync(blob) for blob in blobs]
        notices = str([self.shown(device, reply)["notices"] for reply in replies])
        if "new_" in notices or "names_wanted" in notices:
            raise NotComparable("a turning point")
        # The final state of a delta counts: half of it may be refused, or bring a parent back, where the whole does not.
        if self.hub.sql("SELECT 1 FROM sync_control.conflicts WHERE conflict_id > %s AND (outcome = 'rejected' OR rule LIKE 'on\\_%%')", before):
            raise NotComparable("something is refused")
        ledger = self.hub.sql("SELECT acknowledged FROM sync_control.ledger WHERE client_id = %s", device.client)
        return {"acknowledged": ledger, **{table: self.rows(self.hub, table) for table in COLUMNS if table != "memo" or self.hub_wide}}, replies

    def compare_answers(self, number, sender, replies, files):
        """Both answers, in several orders and numbers, to copies of the device that sent."""
        first, second = replies
        expected = None
        for at, answers in enumerate(([first, second], [second], [second, first], [first, first, second, first, second])):
            copy = self.copy_aside(number, f"receiver{at}", sender)
            files.append(copy)
            for answer in answers:
                self.try_to_apply(copy, answer)
            self.hub.sql("SAVEPOINT answers")
            for _ in range(8):
                if not copy.apply(self.hub.sync(copy.export()))["more"]:
                    break
            self.hub.sql("ROLLBACK TO answers")
            found = {"pending": copy.pending, **{table: copy.sql(f"SELECT * FROM {table} ORDER BY 1, 2") for table in COLUMNS}}
            expected = expected or found
            if found != expected:
                raise Finding(f"answers of phone {number} in another order ({at}) come out otherwise: {difference(expected, found)}")

    def try_to_apply(self, device, answer):
        try:
            device.apply(answer)
        except sqlite3.Error as error:
            self.say(f"an answer in another order: {error}")


def difference(one, other):
    return [(name, one[name], other[name]) for name in one if one[name] != other[name]]
