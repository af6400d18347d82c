//! Copies of a device: edits made before the copy are in both files, and count once.
//!
//! Invariant: a change is known by the identity that made it, its clock and its row. What one copy has delivered is
//! superseded when the other delivers it too, whichever comes first.

use crate::catch::SqlError;
use crate::client::Client;
use crate::guards::AsOwner;
use crate::shapes;
use crate::sql::{self, Cells, Param};
use crate::work::AlreadyMade;
use fieldsync_core::limits::Limits;
use fieldsync_core::wire;

/// Changes that other copies of this client's database have delivered since the copy was made.
pub fn delivered_by_others(client: &Client, limits: &Limits) -> Result<AlreadyMade, SqlError> {
    let mut made = AlreadyMade::new();
    let rows = {
        let _owner = AsOwner::new();
        // All that the identities of this database's copies have committed, near and far; but for what the copy's direct
        // original had been answered before the copy was made: the copy knows of that itself.
        sql::run(
            "WITH RECURSIVE family(client_no) AS (
                 SELECT $1::integer
                 UNION
                 SELECT CASE WHEN c.copied_from = f.client_no THEN c.client_no ELSE c.copied_from END
                 FROM family f JOIN fieldsync.client c
                      ON c.copied_from = f.client_no OR (c.client_no = f.client_no AND c.copied_from IS NOT NULL))
             SELECT b.delta, b.batch FROM family f JOIN fieldsync.batch b USING (client_no)
             JOIN fieldsync.client own ON own.client_no = $1
             WHERE f.client_no <> $1 AND b.status = 'committed' AND b.delta IS NOT NULL
               AND (b.client_no IS DISTINCT FROM own.copied_from OR b.committed_at > COALESCE(
                   (SELECT p.committed_at FROM fieldsync.batch p
                    WHERE p.client_no = own.copied_from AND p.batch_id = own.copied_after), '-infinity'))",
            &[Param::Int(i64::from(client.number))],
        )?
    };
    for row in &rows.rows {
        // Its signature was checked when it arrived.
        let Ok(batch) = <[u8; 16]>::try_from(row.bytes(1)) else { continue };
        let known = shapes::of_batch(&batch)?;
        let Ok(delta) = wire::decode_delta_with(row.bytes(0), None, limits, &known.shapes) else { continue };
        for table in delta.body.tables {
            for change in table.changes {
                // A new row folds with later edits of it: its own making is the first of them.
                made.insert((table.table.clone(), change.key.clone(), change.first_clock));
                made.insert((table.table.clone(), change.key, change.clock));
            }
        }
    }
    Ok(made)
}
