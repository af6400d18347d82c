//! Copies of a device: edits made before the copy are in both files, and count once.
//!
//! Invariant: a change is known by the identity that made it, its clock and its row. What one copy has delivered is
//! superseded when the other delivers it too, whichever comes first.

use crate::catch::SqlError;
use crate::client::Client;
use crate::guards::AsOwner;
use crate::sql::{self, Cells, Param};
use crate::work::AlreadyMade;
use fieldsync_core::limits::Limits;
use fieldsync_core::wire;

/// Changes that other copies of this client's database have delivered since the copy was made.
pub fn delivered_by_others(client: &Client, limits: &Limits) -> Result<AlreadyMade, SqlError> {
    let mut made = AlreadyMade::new();
    let rows = {
        let _owner = AsOwner::new();
        // The original, of which this is a copy: what it committed after the answer that the copy still had. And copies of
        // this one: all that they have committed.
        sql::run(
            "SELECT b.delta, b.batch_id FROM fieldsync.client c
             JOIN fieldsync.batch b ON b.client_no = c.copied_from AND b.status = 'committed' AND b.delta IS NOT NULL
             WHERE c.client_no = $1 AND b.committed_at > COALESCE(
                 (SELECT p.committed_at FROM fieldsync.batch p WHERE p.client_no = c.copied_from AND p.batch_id = c.copied_after),
                 '-infinity')
             UNION ALL
             SELECT b.delta, b.batch_id FROM fieldsync.client c
             JOIN fieldsync.batch b ON b.client_no = c.client_no AND b.status = 'committed' AND b.delta IS NOT NULL
             WHERE c.copied_from = $1",
            &[Param::Int(i64::from(client.number))],
        )?
    };
    for row in &rows.rows {
        // Its signature was checked when it arrived.
        let Ok(delta) = wire::decode_delta(row.bytes(0), None, limits) else { continue };
        for table in delta.body.tables {
            made.extend(table.changes.into_iter().map(|change| (table.table.clone(), change.key, change.clock)));
        }
    }
    Ok(made)
}
