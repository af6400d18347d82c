"""A network that drops, doubles, delays, reorders, truncates and damages, and brings old blobs again."""

import sqlite3

import psycopg

from .schema import Finding


class Network:
    def export(self, number):
        limit = self.random.choice([None, None, None, 300])
        blob = self.devices[number].export(limit)
        if self.trace:
            shown = self.devices[number].inspect(blob)
            self.say(f"phone {number}: export, limit {limit}: {shown['parent']} {shown['unanswered']} {shown['cursor']} "
                     f"{shown['watermark']} {shown['high']} {shown['tables']} {shown['wants']}")
        self.archive.append((number, blob))
        self.network.append(("hub", number, blob))

    def damaged(self, blob):
        roll = self.random.randrange(40)
        if roll == 0:
            return blob[:self.random.randrange(len(blob))]
        if roll == 1:
            at = self.random.randrange(len(blob))
            return blob[:at] + bytes([blob[at] ^ (1 << self.random.randrange(8))]) + blob[at + 1:]
        return blob

    def deliver(self):
        if not self.network:
            return
        at = self.random.randrange(len(self.network)) if self.random.random() < 0.3 else 0
        to, number, blob = self.network.pop(at)
        if self.random.random() < 0.12:
            self.network.append((to, number, blob))
        damaged = self.damaged(blob)
        if to == "hub":
            self.to_hub(number, damaged, damaged != blob)
        else:
            self.to_device(number, damaged, damaged != blob)

    def to_hub(self, number, blob, is_damaged=False):
        dies = self.random.random() < 0.05
        try:
            if dies:
                self.hub.sql("BEGIN")
            if self.random.random() < 0.3:
                verdict = self.hub.prepare(blob)
                if self.random.random() < 0.2:
                    return  # never committed
                reply = self.hub.commit(verdict["batch"])
            else:
                reply = self.hub.sync(blob)
        except psycopg.Error as error:
            self.say(f"hub refuses phone {number}: {error.sqlstate} {error}")
            transient = error.sqlstate in ("55P03", "40P01", "40001")
            if transient or is_damaged and error.sqlstate in ("22P03", "28000", "54000"):
                return
            if self.hub_was_restored and error.sqlstate == "28000":
                return  # an identity that was given since the backup
            raise Finding(f"the hub refused phone {number}: {error.sqlstate} {error}") from error
        finally:
            if dies:
                self.hub.sql("ROLLBACK")
        if dies:
            self.say(f"hub: dies before the commit of phone {number}'s")
            return
        self.syncs += 1
        self.say(f"hub: sync of phone {number}")
        self.network.append(("device", number, reply))

    def to_device(self, number, blob, is_damaged=False):
        device, dies = self.devices[number], self.random.random() < 0.05
        try:
            if dies:
                device.sql("BEGIN")
            report = device.apply(blob)
            if self.trace:
                shown = device.inspect(blob)
                self.say(f"phone {number}: apply {shown['batch']} {shown['cursor']} {shown['watermark']} {shown['tables']} {shown['notices']}: {report}")
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
