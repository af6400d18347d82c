"""What befalls devices and hub: files copied and restored from backups, a hub restored from its backup, ALTER TABLE on either,
and persons who settle and tidy up."""

import shutil
import sqlite3
from pathlib import Path

import psycopg

from .edits import LOCK_TIMEOUT
from .schema import TEXTS, key_columns, key_of, row_id


class Troubles:
    def do_copy(self, step):
        number = self.phone(step)
        if len(self.devices) > 5:
            return
        self.stock_exact &= self.devices[number].pending == 0
        made = self.make_device(f"copy{len(self.devices)}")
        self.copy_file(number, made.path)
        made.sql(f"PRAGMA foreign_keys = {self.enforcing[number]}")
        self.devices.append(made)
        self.enforcing.append(self.enforcing[number])
        self.origin[len(self.devices) - 1] = self.origin.get(number, number)
        if number in self.wide:
            self.wide.add(len(self.devices) - 1)
        self.say(f"phone {number} is copied to {len(self.devices) - 1}")

    def copy_file(self, number, path):
        """Closes the connection, and with it goes its setting."""
        self.devices[number].copy(path)
        self.devices[number].sql(f"PRAGMA foreign_keys = {self.enforcing[number]}")

    def do_back_up(self, step):
        number = self.phone(step)
        path = self.devices[number].path.with_suffix(".backup")
        self.copy_file(number, path)
        self.backups[number] = (path, number in self.wide)
        self.say(f"phone {number} is backed up")

    def do_restore(self, step):
        number = self.phone(step)
        if number not in self.backups:
            return
        path, wide = self.backups.pop(number)
        device = self.devices[number]
        device.close()
        for suffix in ("-wal", "-shm", "-journal"):
            Path(f"{device.path}{suffix}").unlink(missing_ok=True)
        shutil.copy(path, device.path)
        device.sql(f"PRAGMA foreign_keys = {self.enforcing[number]}")
        (self.wide.add if wide else self.wide.discard)(number)
        self.cursors.pop(number, None)
        self.stock_exact = False
        # What was edited since is gone with the phone.
        self.last_edits = {name: value for name, value in self.last_edits.items() if name[0] != number}
        self.left_behind = [edit for edit in self.left_behind if edit[0][0] != number]
        self.say(f"phone {number} is restored")

    # -- the hub

    def open_hub(self):
        self.hub.sql(f"SET lock_timeout = '{LOCK_TIMEOUT}'")

    def close_hub(self):
        """No other connection may be open while a database is copied or dropped."""
        for writer in self.writers:
            writer.rollback()
            writer.close()
        self.writers = []
        self.hub.close()

    @property
    def backup_database(self):
        return f"{self.hub.database}_backup"

    def do_back_up_hub(self, step):
        if self.hub_backup is None:
            self.close_hub()
            self.hub.server.psql(f"CREATE DATABASE {self.backup_database} TEMPLATE {self.hub.database}")
            self.hub_backup = self.hub_wide
            self.open_hub()
            self.say("the hub is backed up")

    def do_restore_hub(self, step):
        """Days of the hub's are lost; it sees so by the database's number."""
        if self.hub_backup is None:
            return
        self.close_hub()
        self.hub.server.psql(f"DROP DATABASE {self.hub.database}")
        self.hub.server.psql(f"ALTER DATABASE {self.backup_database} RENAME TO {self.hub.database}")
        self.hub_wide, self.hub_backup = self.hub_backup, None
        self.hub_was_restored, self.prepared = True, []
        self.open_hub()
        self.say("the hub is restored")

    def drop_backups(self):
        if self.hub_backup is not None:
            self.hub.server.psql(f"DROP DATABASE {self.backup_database}")

    # -- schemas

    def do_widen(self, step):
        self.widen(self.phone(step))

    def do_widen_hub(self, step):
        self.widen_hub()

    def widen(self, number):
        """ALTER TABLE on one device: what the hub had in that column shows."""
        if number not in self.wide:
            self.say(f"phone {number}: ALTER TABLE memo ADD COLUMN extra")
            self.devices[number].sql("ALTER TABLE memo ADD COLUMN extra TEXT")
            self.wide.add(number)

    def widen_hub(self):
        """ALTER TABLE on the hub, which may give its rows a value that no trigger sees."""
        if self.hub_wide:
            return
        default = " DEFAULT 'made by ALTER TABLE'" if self.plan["late_default"] else ""
        try:
            self.hub.sql(f"ALTER TABLE memo ADD COLUMN extra text{default}")
            self.hub_wide = True
            self.say(f"hub: ALTER TABLE memo ADD COLUMN extra{default}")
        except psycopg.errors.LockNotAvailable:
            self.say("hub: ALTER TABLE has to wait")

    def do_lose_shapes(self, step):
        number = self.phone(step)
        if step["which"] == 0:
            self.devices[number].sql("DELETE FROM fs_shape WHERE direction = 1")
        else:
            column = "delta_shapes" if step["which"] == 1 else "reply_shapes"
            self.hub.sql(f"UPDATE fieldsync.client SET {column} = '{{}}' WHERE client_id = %s", self.devices[number].client)
        self.say(f"{step['at']}: shapes of phone {number} are lost ({step['which']})")

    # -- persons

    def do_purge(self, step):
        self.devices[self.phone(step)].sql("SELECT fs_purge(0)")
        self.say(f"{step['at']}: phone {self.phone(step)}: purge")

    def do_purge_hub(self, step):
        self.hub.sql("SELECT * FROM sync_control.purge(interval '0')")
        self.hub_was_purged = True
        self.say(f"{step['at']}: hub: purge")

    def do_settle(self, step):
        """On a device, or the next one that has any: an open conflict or any other."""
        first, count = self.phone(step), len(self.devices)
        for number in [(first + further) % count for further in range(count)]:
            device = self.devices[number]
            entries = device.sql("SELECT conflict_id, table_name, row_id FROM fs_conflicts WHERE row_id <> '' ORDER BY status, conflict_id")
            if entries:
                break
        else:
            return
        conflict, table, row = entries[step["pick"] % len(entries)]
        key, choice = key_of(table, row), step["choice"]
        if choice == "edited" and table in TEXTS:
            choice = {TEXTS[table]: step["value"]}
        elif choice == "another" and table in TEXTS:
            last, at = key_columns(table)[-1], 10 + step["pick"] % 3
            choice = {last: at if isinstance(key[-1], int) else f"{key[-1][0]}{at}", TEXTS[table]: step["value"]}
            key = (*key[:-1], choice[last])
        elif choice in ("edited", "another"):
            choice = "mine"
        self.say(f"{step['at']}: phone {number}: resolve {(conflict, table, row)} {choice}")
        try:
            device.resolve(conflict, choice)
        except sqlite3.Error as error:
            self.say(f"phone {number}: {error}")
            return
        # As if its user had written the row again: what it wrote before need not be anywhere.
        is_other = lambda name: (name[0], name[1], row_id(name[2])) != (number, table, row)
        self.last_edits = {name: value for name, value in self.last_edits.items() if is_other(name)}
        self.left_behind = [edit for edit in self.left_behind if is_other(edit[0])]
        if isinstance(choice, dict):
            shown = self.row(device, table, key) or {}
            self.last_edits.update({(number, table, key, name): value for name, value in shown.items() if value == step["value"]})

    def do_settle_on_hub(self, step):
        entries = self.hub.sql("SELECT conflict_id, table_name, row_id FROM sync_control.conflicts ORDER BY status, conflict_id")
        if entries:
            entry, choice = entries[step["pick"] % len(entries)], "client" if step["client"] else "server"
            self.say(f"{step['at']}: hub: resolve {entry} {choice}")
            try:
                self.hub.resolve(entry[0], choice)
            except psycopg.Error as error:
                self.say(f"hub: {error.sqlstate} {error}")

    def do_drop_rejections(self, step):
        try:
            self.say(f"{step['at']}: hub: {self.drop_rejections()} rejections dropped")
        except psycopg.Error as error:
            self.say(f"hub: {error.sqlstate} {error}")

    def drop_rejections(self):
        """Changes that wait on their device, as they are: what the hub refused, and children of a deleted parent."""
        dropped = self.hub.sql("""SELECT conflict_id FROM sync_control.conflicts
            WHERE status = 'open' AND (outcome = 'rejected' OR rule LIKE 'on\\_delete/%' AND outcome = 'manual')""")
        for (conflict,) in dropped:
            self.hub.resolve(conflict, "server")
        return len(dropped)
