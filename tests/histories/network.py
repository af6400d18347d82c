"""A network that drops, doubles, delays, reorders, truncates and damages, and brings old blobs again."""

import sqlite3

import psycopg

from .schema import Finding


class Network:
    def do_export(self, step):
        number, most = self.phone(step), step["most"]
        blob = self.devices[number].export(None if most is None else room_for(most))
        if self.trace:
            shown = self.devices[number].inspect(blob)
            self.say(f"{step['at']}: phone {number}: export, most {most}: {shown['parent']} {shown['unanswered']} {shown['cursor']} "
                     f"{shown['watermark']} {shown['high']} {shown['tables']} {shown['wants']}")
        self.archive.append((number, blob))
        self.network.append(("hub", number, blob))

    def do_lose_export(self, step):
        """The blob never leaves."""
        self.devices[self.phone(step)].export()

    def do_deliver(self, step):
        if not self.network:
            return
        to, number, blob = self.network.pop((step["pick"] or 0) % len(self.network))
        if step["twice"]:
            self.network.append((to, number, blob))
        arrives = damaged(blob, step["damage"])
        if to == "hub":
            self.to_hub(number, arrives, step["hearing"], arrives != blob)
        else:
            self.to_device(number, arrives, step["dies"], arrives != blob)

    def do_lose_letters(self, step):
        del self.network[step["keep"] % (len(self.network) + 1):]

    def do_replay(self, step):
        if self.archive:
            self.to_hub(*self.archive[step["pick"] % len(self.archive)], step["hearing"])

    def to_hub(self, number, blob, hearing, is_damaged=False):
        """`later`: it is prepared, and committed when a step of its own comes. `never`: the hub dies before its commit."""
        fate, reply = hearing["fate"], None
        try:
            if fate == "never":
                self.hub.sql("BEGIN")
            if fate == "later" or hearing["prepared"]:
                batch = self.hub.prepare(blob)["batch"]
                reply = self.hub.commit(batch) if fate != "later" else self.prepared.append((number, batch))
            else:
                reply = self.hub.sync(blob)
        except psycopg.Error as error:
            self.refused(number, error, is_damaged)
        finally:
            if fate == "never":
                self.hub.sql("ROLLBACK")
        self.say(f"hub: sync of phone {number}: {hearing}")
        if reply and fate == "now":
            self.syncs += 1
            self.network.append(("device", number, reply))

    def do_finish(self, step):
        """A delta that was prepared is committed, maybe after others of its device: or never."""
        if not self.prepared:
            return
        number, batch = self.prepared.pop(0)
        if step["aborts"]:
            return
        try:
            self.network.append(("device", number, self.hub.commit(batch)))
            self.say(f"{step['at']}: hub commits the batch of phone {number}")
        except psycopg.Error as error:
            if not (self.hub_was_purged and error.sqlstate == "55000"):  # what was prepared and forgotten goes too
                self.refused(number, error, False)

    def refused(self, number, error, is_damaged):
        self.say(f"hub refuses phone {number}: {error.sqlstate} {error}")
        transient = error.sqlstate in ("55P03", "40P01", "40001")
        if transient or is_damaged and error.sqlstate in ("22P03", "28000", "54000"):
            return
        if self.hub_was_restored and error.sqlstate == "28000":
            return  # an identity that was given since the backup
        raise Finding(f"the hub refused phone {number}: {error.sqlstate} {error}") from error

    def to_device(self, number, blob, dies=False, is_damaged=False):
        device = self.devices[number]
        try:
            if dies:
                device.sql("BEGIN")
            report = device.apply(blob)
            if self.trace:
                self.say(f"phone {number}: apply {self.shown(device, blob)}: {report}")
        except sqlite3.Error as error:
            self.say(f"phone {number}: {error}")
            text = str(error)
            late = any(word in text for word in ("answer", "batch", "another", "stale", "history", "client"))
            if not is_damaged and not late:
                raise Finding(f"phone {number} refused an answer: {error}") from error
        finally:
            if dies:
                self.say(f"phone {number}: dies before the commit")
                device.sql("ROLLBACK")
        self.note_cursor(number)

    def note_cursor(self, number):
        """What a device has seen it has seen for good, within one history of the hub's."""
        ((now,),) = self.devices[number].sql("SELECT max(value) FROM fs_state WHERE name = 'cursor'")
        before = self.cursors.get(number)
        if before and now and not covers(now, before):
            raise Finding(f"the cursor of phone {number} went back from {before} to {now}")
        self.cursors[number] = now


def covers(one, other):
    """Whether a snapshot (xmin:xmax:running) sees all that the other one sees."""
    read = lambda text: (lambda xmin, xmax, running: (int(xmax), {int(xid) for xid in running.split(",") if xid}))(*text.split(":"))
    (xmax, running), (other_xmax, other_running) = read(one), read(other)
    unseen = running | set(range(xmax, other_xmax))
    return all(xid in other_running or xid >= other_xmax for xid in unseen)


def room_for(changes):
    """In how many bytes about so many changes leave, as the plan counts them."""
    return 200 + 40 * changes


def damaged(blob, damage):
    if "truncate" in damage:
        return blob[:damage["truncate"] % len(blob)]
    if "flip" in damage:
        at = damage["flip"] // 8 % len(blob)
        return blob[:at] + bytes([blob[at] ^ (1 << damage["flip"] % 8)]) + blob[at + 1:]
    return blob
