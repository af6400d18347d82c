-- What fieldsync keeps on a device. All of it is in the main database, beside the application's tables, so that a copy of
-- the file is a copy of everything. Run again, this changes nothing.

-- Settings and state by name: client_id, mac_key, history, cursor, watermark, parent, sequence, last_sync, attempts, …
-- 'real <text>': how entries spell this real in keys.
CREATE TABLE IF NOT EXISTS main.fs_state(
    name TEXT PRIMARY KEY NOT NULL,
    value
) WITHOUT ROWID;

-- The change log, layout 2 (fs_state: layout). clock is the place of an entry; its clock, milliseconds since 1970 * 65536 + a
-- counter, follows from the entries before, its place and its time: the greatest of the clock before + 1, the place, and
-- the time (more, where the wall clock is behind: sqlite_fieldsync/src/log/mod.rs). what = table_no * 8 + operation: 1 insert,
-- 2 update, 3 delete, 4 key change; 0 alone: a mark, whose place is its clock; 7 alone: the place of an entry that a person deleted. One row is one operation on one row. key: of tables with a
-- one-column key. field, old, new: the (first) changed field of an update; -1 for a row that was there when its table was tracked
-- again. All other values are in fs_side_<table_no>, by
-- the same place. at: the time of day, as julianday(). No column has a type: conversions and checks cost time in triggers.
CREATE TABLE IF NOT EXISTS main.fs_log(
    clock INTEGER PRIMARY KEY,
    what,
    key,
    field,
    old,
    new,
    at
);
-- The log begins with a mark and never becomes empty, so that the clock never goes back.
INSERT INTO main.fs_log(clock, what)
SELECT CAST((julianday('now') - 2440587.5) * 86400000.0 + 0.5 AS INTEGER) * 65536, 0
WHERE NOT EXISTS (SELECT 1 FROM main.fs_log);

-- Tracked tables. sql: the schema that the triggers were made for. state: tracked, untracked, missing. rebuilt: a program made
-- the table anew, and may have written to it without triggers: how far the search for that is (sqlite_fieldsync/src/made_anew.rs).
CREATE TABLE IF NOT EXISTS main.fs_table(
    table_no INTEGER PRIMARY KEY,
    name TEXT NOT NULL UNIQUE COLLATE NOCASE,
    state TEXT NOT NULL DEFAULT 'tracked',
    sql TEXT,
    options TEXT NOT NULL DEFAULT '{}',
    rebuilt INTEGER NOT NULL DEFAULT 0,
    last_synced_version INTEGER NOT NULL DEFAULT 0,
    last_synced_at TEXT
);

-- Their columns. slot: the number under which the log and the side table know the column, for ever. key_part: 1 and up
-- for the parts of the primary key. position: where the column stands now; NULL: it is gone.
CREATE TABLE IF NOT EXISTS main.fs_column(
    table_no INTEGER NOT NULL REFERENCES fs_table,
    slot INTEGER NOT NULL,
    name TEXT NOT NULL,
    key_part INTEGER NOT NULL DEFAULT 0,
    position INTEGER,
    PRIMARY KEY (table_no, slot)
) WITHOUT ROWID;

-- Exports. batch is the identity in the blob. Kept until a later one is answered. high: the last clock in it; high_place:
-- where that is in the log. shapes: tags of the tables whose names it carried, two bytes each.
CREATE TABLE IF NOT EXISTS main.fs_batch(
    sequence INTEGER PRIMARY KEY,
    batch INTEGER NOT NULL,
    high INTEGER NOT NULL,
    high_place INTEGER NOT NULL,
    history INTEGER NOT NULL DEFAULT 0,
    shapes BLOB,
    exported_at TEXT NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%fZ', 'now'))
);

-- Names of tables and columns that need not travel again. direction: 0 in deltas, 1 in replies. The first shape with a tag
-- stays. known: whether the other end has it for certain.
CREATE TABLE IF NOT EXISTS main.fs_shape(
    direction INTEGER NOT NULL,
    tag INTEGER NOT NULL,
    shape BLOB NOT NULL,
    known INTEGER NOT NULL DEFAULT 0,
    PRIMARY KEY (direction, tag)
) WITHOUT ROWID;

-- What the device had seen when it wrote changes up to a clock. snapshot NULL: nothing.
CREATE TABLE IF NOT EXISTS main.fs_base(
    until INTEGER PRIMARY KEY,
    snapshot TEXT
);

-- Conflicts and rejections, open and settled. hub_id: the hub's number; NULL: this device's own. kept: a row that
-- stepped aside, by column. first_clock, last_clock: the places of the logged changes behind it. told: 1 the hub knows how it
-- was settled; 0 it has to be told; below 0: told in the export of that sequence, not answered yet.
CREATE TABLE IF NOT EXISTS main.fs_conflict(
    conflict_id INTEGER PRIMARY KEY,
    hub_id INTEGER UNIQUE,
    table_name TEXT NOT NULL COLLATE NOCASE,
    row_id TEXT NOT NULL,
    row_key BLOB,
    operation TEXT NOT NULL,
    base TEXT,
    mine TEXT,
    theirs TEXT,
    rule TEXT NOT NULL,
    outcome TEXT NOT NULL,
    status TEXT NOT NULL,
    detail TEXT NOT NULL DEFAULT '',
    kept BLOB,
    first_clock INTEGER,
    last_clock INTEGER,
    choice TEXT,
    told INTEGER NOT NULL DEFAULT 1,
    created_at TEXT NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%fZ', 'now')),
    resolved_at TEXT
);
CREATE INDEX IF NOT EXISTS main.fs_conflict_open ON fs_conflict(table_name, row_id) WHERE status = 'open';

-- Rows and fields of the hub for tables and columns that this database does not have, or does not track, yet.
-- content: as it travelled. waits_for: schema (tried when the schema changes), rows (tried at every apply).
CREATE TABLE IF NOT EXISTS main.fs_later(
    later_no INTEGER PRIMARY KEY,
    table_name TEXT NOT NULL COLLATE NOCASE,
    row_id TEXT NOT NULL,
    waits_for TEXT NOT NULL,
    content BLOB NOT NULL
);
CREATE INDEX IF NOT EXISTS main.fs_later_row ON fs_later(table_name, row_id);

-- Rows that this device asks the hub for, whole.
CREATE TABLE IF NOT EXISTS main.fs_want(
    table_name TEXT NOT NULL COLLATE NOCASE,
    row_key BLOB NOT NULL,
    asked INTEGER, -- the sequence of the export that asked first
    PRIMARY KEY (table_name, row_key)
) WITHOUT ROWID;

-- Rows that the hub has sent since it lost history, or since a table was made anew (empty otherwise): their keys in the order of this
-- database's. differing: as the hub sent them, where this device has other values; empty: it had sent them before it lost history.
CREATE TABLE IF NOT EXISTS main.fs_arrived(
    table_name TEXT NOT NULL COLLATE NOCASE,
    row_key BLOB NOT NULL,
    differing BLOB,
    PRIMARY KEY (table_name, row_key)
) WITHOUT ROWID;

-- Things that a person should read: fs_status shows the latest.
CREATE TABLE IF NOT EXISTS main.fs_note(
    note_no INTEGER PRIMARY KEY,
    noted_at TEXT NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%fZ', 'now')),
    text TEXT NOT NULL
);
