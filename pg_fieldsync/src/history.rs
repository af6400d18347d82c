//! Which hub this is and which history it is in.
//!
//! Invariant: transaction ids are compared only within one epoch. Whatever may have set them back (another cluster, a
//! promoted standby, a restored backup) opens a new epoch before anything is merged or answered, and no stored version is
//! ahead of this cluster's clock afterwards.

use crate::applying::Engine;
use crate::catalog;
use crate::catch::SqlError;
use crate::feed;
use crate::guards::{AsOwner, AsUser, Settings};
use crate::sql::{self, ident, Cells, Param};
use fieldsync_core::clocks::{RowClocks, Stamp};
use fieldsync_core::Value;

/// What is stored and what holds now.
#[derive(Debug, Clone)]
pub struct Hub {
    /// The hub's identity.
    pub hub_id: [u8; 16],
    /// The epoch, from 1.
    pub epoch: u32,
    /// The next transaction id of this cluster, less one.
    pub highest_version: u64,
}

/// What `purge` has removed.
pub struct Floors {
    /// Feed entries of versions below this may be gone.
    pub feed: u64,
    /// Tombstones of versions below this may be gone.
    pub tombstones: u64,
}

/// The floors as the active snapshot shows them: what it does not show as purged, it shows.
pub fn floors() -> Result<Floors, SqlError> {
    let _owner = AsOwner::new();
    let rows = sql::read("SELECT feed_floor, tombstone_floor FROM fieldsync.hub", &[])?;
    let floor = |at: usize| rows.rows.first().map_or(0, |row| row.int(at).max(0) as u64);
    Ok(Floors { feed: floor(0), tombstones: floor(1) })
}

impl Hub {
    /// The tag of the present history.
    pub fn tag(&self) -> u32 {
        fieldsync_core::delta::history_tag(&self.hub_id, self.epoch)
    }
}

/// Where this server stands.
struct Here {
    system_identifier: i64,
    database_oid: i64,
    timeline: i64,
}

fn here() -> Result<Here, SqlError> {
    let rows = sql::run(
        "SELECT s.system_identifier, d.oid::bigint,
                -- The control file knows of a promotion only after a checkpoint; the WAL's file name knows at once.
                CASE WHEN pg_is_in_recovery() THEN 0
                     ELSE ('x' || substr(pg_walfile_name(pg_current_wal_insert_lsn()), 1, 8))::bit(32)::bigint END
         FROM pg_control_system() s, pg_database d WHERE d.datname = current_database()",
        &[],
    )?;
    let row = rows.rows.first().ok_or_else(|| SqlError::new("XX000", "the control file cannot be read"))?;
    Ok(Here { system_identifier: row.int(0), database_oid: row.int(1), timeline: row.int(2) })
}

/// Gives the hub its identity: when its first table is enabled, so that every backup of a hub in use has it.
/// A database that was only copied from a template is another hub.
fn insert_identity(here: &Here) -> Result<(), SqlError> {
    sql::run(
        "INSERT INTO fieldsync.hub (hub_id, epoch, system_identifier, database_oid, timeline, highest_version)
         VALUES (gen_random_uuid(), 1, $1, $2::oid, $3, 0) ON CONFLICT DO NOTHING",
        &[Param::Int(here.system_identifier), Param::Int(here.database_oid), Param::Int(here.timeline)],
    )
    .map(|_| ())
}

/// The hub as it is. Opens a new epoch if the server is not the one that stored what is stored.
pub fn hub() -> Result<Hub, SqlError> {
    let _owner = AsOwner::new();
    let here = here()?;
    loop {
        let rows = sql::run(
            "SELECT h.hub_id, h.epoch, h.system_identifier, h.database_oid::bigint, h.timeline, h.highest_version,
                    (SELECT max(version) FROM fieldsync.feed),
                    pg_snapshot_xmax(pg_current_snapshot())
             FROM fieldsync.hub h",
            &[],
        )?;
        let Some(row) = rows.rows.first() else {
            insert_identity(&here)?;
            continue;
        };
        let mut hub_id = [0u8; 16];
        hub_id.copy_from_slice(row.bytes(0).get(..16).unwrap_or(&[0; 16]));
        let hub = Hub { hub_id, epoch: row.int(1).max(1) as u32, highest_version: highest_given(row.int(7)) };
        let elsewhere = row.int(2) != here.system_identifier
            || row.int(3) != here.database_oid
            || (here.timeline != 0 && row.int(4) != here.timeline);
        let stored = row.int(5).max(row.int(6)).max(0) as u64;
        if elsewhere || stored > hub.highest_version {
            let reason = if elsewhere {
                "this database has been restored into another server, or the server was promoted"
            } else {
                "this database holds versions that are ahead of the server's transaction ids"
            };
            return open_epoch(reason, 0);
        }
        return Ok(hub);
    }
}

/// The greatest id that may have been given out: the transaction's own may lie beyond the snapshot's horizon.
fn highest_given(snapshot_xmax: i64) -> u64 {
    // SAFETY: reads the shared counter.
    let next = unsafe { pgrx::pg_sys::ReadNextFullTransactionId() }.value;
    next.saturating_sub(1).max((snapshot_xmax.max(1) - 1) as u64)
}

/// Opens a new epoch, of at least this number, and brings stored versions behind this cluster's clock.
pub fn open_epoch(reason: &str, number_min: u32) -> Result<Hub, SqlError> {
    let _owner = AsOwner::new();
    let here = here()?;
    let version = feed::own_version();
    // One at a time: whoever comes second finds the new epoch.
    sql::run("SELECT 1 FROM fieldsync.hub FOR UPDATE", &[])?;
    let stored = sql::scalar(
        "SELECT greatest(h.highest_version, (SELECT max(version) FROM fieldsync.feed)) FROM fieldsync.hub h",
        &[],
    )?;
    let is_behind = matches!(stored, Value::Int(stored) if stored + REMEMBERED_EVERY >= version as i64);
    sql::run(
        "UPDATE fieldsync.hub SET epoch = greatest(epoch + 1, $5), system_identifier = $1, database_oid = $2::oid, timeline = $3,
                highest_version = $4, feed_floor = least(feed_floor, $4), tombstone_floor = least(tombstone_floor, $4)",
        &[
            Param::Int(here.system_identifier),
            Param::Int(here.database_oid),
            Param::Int(here.timeline),
            Param::Int(version as i64),
            Param::Int(i64::from(number_min)),
        ],
    )?;
    let own = [Param::Int(version as i64)];
    for statement in [
        "DELETE FROM fieldsync.feed WHERE version >= $1",
        "UPDATE fieldsync.tombstone SET version = least(version, $1), \"foreign\" = least(\"foreign\", $1)
         WHERE version > $1 OR \"foreign\" > $1",
        "UPDATE fieldsync.tracked_table SET baseline_version = least(baseline_version, $1), remade_version = least(remade_version, $1),
                renamed_version = least(renamed_version, $1)
         WHERE greatest(baseline_version, remade_version, renamed_version) > $1",
        "UPDATE fieldsync.conflict SET told = $1 WHERE told > $1",
        "UPDATE fieldsync.unseen SET cursor = NULL, given_since = CASE WHEN given_since > $1 THEN $1 ELSE given_since END",
    ] {
        sql::run(statement, &own)?;
    }
    // No cursor of the old history means anything now. Until its device shows one of the new history, a client has seen nothing: it needs
    // every deletion, though it hold rows.
    sql::run("UPDATE fieldsync.client SET seen = NULL, held = '3:3:', of_earlier_epoch = true", &[])?;
    let lost = sql::run(
        "SELECT t.table_id, c.oid::bigint FROM fieldsync.tracked_table t
         JOIN pg_catalog.pg_namespace n ON n.nspname = t.schema_name
         JOIN pg_catalog.pg_class c ON c.relnamespace = n.oid AND c.relname = t.table_name AND c.relkind = 'r'
         WHERE t.enabled AND t.relid IS DISTINCT FROM c.oid
           AND NOT EXISTS (SELECT 1 FROM pg_catalog.pg_class o WHERE o.oid = t.relid AND o.relname = t.table_name
                           AND o.relnamespace = n.oid)",
        &[],
    )?;
    for row in &lost.rows {
        sql::run(
            "UPDATE fieldsync.tracked_table SET relid = NULL WHERE relid = $2::oid AND table_id <> $1",
            &[Param::Int(row.int(0)), Param::Int(row.int(1))],
        )?;
        sql::run(
            "UPDATE fieldsync.tracked_table
             SET relid = $2::oid, columns = fieldsync.columns_of($2::oid), key_columns = fieldsync.key_columns_of($2::oid),
                 column_types = fieldsync.column_types_of($2::oid)
             WHERE table_id = $1",
            &[Param::Int(row.int(0)), Param::Int(row.int(1))],
        )?;
        catalog::announce_change(catalog::oid(row.int(1)));
    }
    // A disabled table is known by the columns that it kept.
    sql::run(
        "WITH candidate AS (
             SELECT a.attrelid AS relid, n.nspname, c.relname FROM pg_catalog.pg_attribute a
             JOIN pg_catalog.pg_class c ON c.oid = a.attrelid AND c.relkind = 'r'
             JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
             WHERE a.attname = 'sync_origin_client' AND NOT a.attisdropped)
         UPDATE fieldsync.tracked_table t SET disabled_relid = c.relid FROM candidate c
         WHERE NOT t.enabled AND t.disabled_relid IS NOT NULL AND (c.nspname, c.relname) = (t.schema_name, t.table_name)
           AND t.disabled_relid NOT IN (SELECT o.relid FROM candidate o)",
        &[],
    )?;
    // SAFETY: makes the registry's new OIDs visible.
    unsafe { pgrx::pg_sys::CommandCounterIncrement() };
    for table in catalog::tables()? {
        restamp(&table, version, is_behind)?;
    }
    sql::run(
        "INSERT INTO sync_control.sync_log (operation, status, error_message) VALUES ('new_epoch', 'success', $1)",
        &[Param::Text(reason)],
    )?;
    hub()
}

/// Rows whose versions lie ahead of this cluster's clock get this transaction's: no cursor could ever call them seen.
/// Clocks and origins stay, so that edits made on devices meanwhile are still ordered. `is_behind`: this cluster's ids are behind what is
/// stored. Then a row that an application has written here since is of this cluster by its last change only.
fn restamp(table: &catalog::Table, version: u64, is_behind: bool) -> Result<(), SqlError> {
    let keys: Vec<String> = table.key.iter().map(|at| ident(&table.columns[*at].name)).collect();
    // Only fieldsync's own trigger (ENABLE ALWAYS) fires: nothing happens that applications should react to.
    let _quiet = Settings::pin_as_superuser(c"session_replication_role", c"replica");
    let _owner = AsUser::owner_of_oid(table.oid);
    let _engine = Engine::writes();
    let rows = sql::run(
        &format!(
            "SELECT ctid::text, fieldsync_clocks, sync_version > $1 FROM ONLY {}
             WHERE sync_version > $1 OR ($2 AND fieldsync_clocks IS NOT NULL) ORDER BY {}",
            table.qualified,
            keys.join(", ")
        ),
        &[Param::Int(version as i64), Param::Bool(is_behind)],
    )?;
    for portion in rows.rows.chunks(5_000) {
        let mut places = Vec::with_capacity(portion.len());
        let mut clocks = Vec::with_capacity(portion.len());
        for row in portion {
            let stored = table.clocks(row.bytes(1))?;
            let lowered = lowered(&stored, version);
            if row.truth(2) || lowered != stored {
                places.push(Some(row.text(0)));
                clocks.push(lowered.to_bytes());
            }
        }
        let clocks: Vec<Option<&[u8]>> = clocks.iter().map(|bytes| Some(bytes.as_slice())).collect();
        sql::run_set(
            &format!(
                "UPDATE ONLY {} t SET fieldsync_clocks = u.clocks
                 FROM ROWS FROM (pg_catalog.unnest($1::pg_catalog.text[]), pg_catalog.unnest($2::pg_catalog.bytea[])) AS u(place, clocks)
                 WHERE t.ctid OPERATOR(pg_catalog.=) u.place::pg_catalog.tid",
                table.qualified
            ),
            &[Param::Texts(&places), Param::Blobs(&clocks)],
        )?;
    }
    Ok(())
}

fn lowered(clocks: &RowClocks, version: u64) -> RowClocks {
    let lower =
        |stamp: Stamp| Stamp { version: stamp.version.min(version), foreign: stamp.foreign.min(version), ..stamp };
    let mut lowered = RowClocks::new(lower(clocks.insert));
    for (number, stamp) in clocks.stamped() {
        lowered.set(number, lower(stamp));
    }
    lowered
}

/// By how many transactions what is remembered may be behind.
const REMEMBERED_EVERY: i64 = 1000;

/// Remembers now and then how far the transaction ids have come, without making commits wait for each other.
pub fn remember_version(version: u64) -> Result<(), SqlError> {
    let _owner = AsOwner::new();
    sql::run(
        "UPDATE fieldsync.hub SET highest_version = $1
         WHERE only_row IN (SELECT only_row FROM fieldsync.hub WHERE highest_version < $1 - $2 FOR UPDATE SKIP LOCKED)",
        &[Param::Int(version as i64), Param::Int(REMEMBERED_EVERY)],
    )?;
    Ok(())
}
