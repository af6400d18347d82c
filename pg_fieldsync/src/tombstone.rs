//! Rows that were deleted for good: kept whole, because a device may still hold an edit of one.
//!
//! Invariant: a tombstone is written in the (sub)transaction of its deletion and goes with it if that is rolled back. A
//! tombstone says something only while its row is absent; a row that came back makes it void.

use crate::catalog;
use crate::catch::SqlError;
use crate::guards::AsOwner;
use crate::sql::{self, Param};
use fieldsync_core::clocks::{RowClocks, Stamp};
use fieldsync_core::jsonb;

/// SQL for joining tombstones (alias `d`) of a table with row ids in `u(row_id)`, by their index.
pub const FOUND: &str = "fieldsync.indexed(d.row_id) = fieldsync.indexed(u.row_id) AND d.row_id = u.row_id";

/// Writes (or renews) one tombstone; `row` is the row as JSON text. Kept is what jsonb can hold: of a value of type json that it cannot, what
/// conflicts hold of it ([`jsonb::fitting`]).
pub fn write(table_id: i32, row_id: &str, stamp: Stamp, row: &str, clocks: &RowClocks) -> Result<(), SqlError> {
    let _owner = AsOwner::new();
    let bytes = clocks.to_bytes();
    let row = jsonb::fitting(row);
    sql::run(
        "INSERT INTO fieldsync.tombstone (table_id, row_id, version, clock, origin, \"foreign\", \"row\", clocks)
         VALUES ($1, $2, $3, $4, $5, $6, $7::jsonb - $9::text[], $8)
         ON CONFLICT (table_id, fieldsync.indexed(row_id)) DO UPDATE SET version = EXCLUDED.version, clock = EXCLUDED.clock,
             origin = EXCLUDED.origin, \"foreign\" = EXCLUDED.\"foreign\", \"row\" = EXCLUDED.\"row\",
             clocks = EXCLUDED.clocks, deleted_at = EXCLUDED.deleted_at",
        &[
            Param::Int(i64::from(table_id)),
            Param::Text(row_id),
            Param::Int(stamp.version as i64),
            Param::Int(stamp.clock.as_i64()),
            Param::Int(i64::from(stamp.origin)),
            Param::Int(stamp.foreign as i64),
            Param::Text(&row),
            Param::Bytes(&bytes),
            Param::Texts(&catalog::SYNC_COLUMNS.map(Some)),
        ],
    )
    // The one thing that a tombstone refers to is its table, which a transaction with an older snapshot cannot do.
    .map_err(|error| match error.sqlstate.as_str() {
        "23503" => SqlError::new("40001", "the row's table was enabled for sync after this transaction began"),
        _ => error,
    })?;
    Ok(())
}

/// The stamp of a deletion on top of a row's clocks: `foreign` is the latest change by anybody else.
pub fn stamp_on(clocks: &RowClocks, version: u64, clock: fieldsync_core::Hlc, origin: u32) -> Stamp {
    let foreign = clocks
        .stamped()
        .map(|(_, stamp)| stamp)
        .chain([clocks.insert])
        .map(|stamp| stamp.latest_foreign_to(origin))
        .max()
        .unwrap_or(0);
    Stamp { version, clock, origin, foreign }
}
