//! Copies of a device: edits made before the copy are in both files, and count once.
//!
//! Invariant: a change is known by the identity that made it, its clock and its row. What one copy has delivered is
//! superseded when the other delivers it too, whichever comes first. Two copies that edit one row in the same millisecond give
//! both edits the same clock: these are told apart by what they say.

use crate::catch::SqlError;
use crate::client::Client;
use crate::guards::AsOwner;
use crate::read;
use crate::schema::Schema;
use crate::shapes;
use crate::sql::{self, Cells, Param};
use crate::work::{AlreadyMade, Said};
use fieldsync_core::coalesce::is_difference;
use fieldsync_core::delta::{Change, Op, TableChanges};
use fieldsync_core::limits::Limits;
use fieldsync_core::{wire, Hlc};
use std::collections::{HashMap, HashSet};

/// What a change says, by the names of its columns. Of a new row the clock says enough: its values are read when it is sent.
fn said(columns: &[String], change: &Change) -> Said {
    let fields = change.fields.iter().filter(|_| change.op == Op::Update);
    let name = |column: u16| columns.get(usize::from(column)).map(|name| name.to_ascii_lowercase()).unwrap_or_default();
    fields.map(|field| (name(field.column), field.old.clone(), field.new.clone())).collect()
}

/// Whether another copy has delivered the very change. Either may have folded other fields into it; a difference never folds,
/// so it has the same value before it as well.
pub fn is_made(made: &AlreadyMade, table: &TableChanges, change: &Change, clock: Hlc) -> bool {
    let Some(delivered) = made.get(&(table.table.clone(), change.key.clone(), clock)) else { return false };
    let own = said(&table.columns, change);
    delivered.iter().any(|other| {
        let shared = || own.iter().filter_map(|field| Some((field, other.iter().find(|(name, ..)| *name == field.0)?)));
        (own.is_empty() || other.is_empty() || shared().next().is_some())
            && shared().all(|((_, old, new), (_, other_old, other_new))| {
                new == other_new && (old == other_old || !is_difference(old.as_ref(), new))
            })
    })
}

/// Changes that other copies of this client's database have delivered since the copy was made.
pub fn delivered_by_others(client: &Client, schema: &Schema, limits: &Limits) -> Result<AlreadyMade, SqlError> {
    let mut made = AlreadyMade::new();
    let rows = {
        let _owner = AsOwner::new();
        // All that the identities of this database's copies have committed, near and far; but for what the copy's direct
        // original had been answered before the copy was made: the copy knows of that itself. (A batch that came late, after one that
        // held it too, tells no time: the copy has heard of nothing beyond it.)
        sql::run(
            "WITH RECURSIVE family(client_no) AS (
                 SELECT $1::integer
                 UNION
                 SELECT CASE WHEN c.copied_from = f.client_no THEN c.client_no ELSE c.copied_from END
                 FROM family f JOIN fieldsync.client c
                      ON c.copied_from = f.client_no OR (c.client_no = f.client_no AND c.copied_from IS NOT NULL))
             SELECT b.delta, b.batch, b.client_no FROM family f JOIN fieldsync.batch b USING (client_no)
             JOIN fieldsync.client own ON own.client_no = $1
             WHERE f.client_no <> $1 AND b.status = 'committed' AND b.delta IS NOT NULL
               AND (b.client_no IS DISTINCT FROM own.copied_from OR b.committed_at > COALESCE(
                   (SELECT p.committed_at FROM fieldsync.batch p
                    WHERE p.client_no = own.copied_from AND p.batch_id = own.copied_after AND p.status = 'committed'), '-infinity'))",
            &[Param::Int(i64::from(client.number))],
        )?
    };
    if rows.rows.is_empty() {
        return Ok(made);
    }
    let refused = refused()?;
    for row in &rows.rows {
        // Its signature was checked when it arrived.
        let Ok(batch) = <[u8; 16]>::try_from(row.bytes(1)) else { continue };
        let known = shapes::of_batch(&batch)?;
        let Ok(delta) = wire::decode_delta_with(row.bytes(0), None, limits, &known.shapes) else { continue };
        for mut table in delta.body.tables {
            schema.spell(&mut table);
            let is_refused = refused_among(&refused, row.int(2), schema, &table)?;
            for (change, is_refused) in table.changes.iter().zip(is_refused) {
                if is_refused {
                    continue;
                }
                // A new row folds with later edits of it: its own making is the first of them.
                for clock in [change.first_clock, change.clock] {
                    let place = (table.table.clone(), change.key.clone(), clock);
                    made.entry(place).or_default().push(said(&table.columns, change));
                }
            }
        }
    }
    Ok(made)
}

/// By client and table, row ids.
type Refused = HashMap<(i64, i64), HashSet<String>>;

/// Which of a client's changes were refused.
fn refused_among(
    refused: &Refused,
    client: i64,
    schema: &Schema,
    changes: &TableChanges,
) -> Result<Vec<bool>, SqlError> {
    let none = vec![false; changes.changes.len()];
    let Some((table, _, _)) = schema.find(&changes.table) else { return Ok(none) };
    let Some(refused) = refused.get(&(client, i64::from(table.table_id))) else { return Ok(none) };
    let row_ids = read::row_ids(&table, changes)?;
    Ok(row_ids.map_or(none, |row_ids| row_ids.iter().map(|row_id| refused.contains(row_id)).collect()))
}

/// Rows of which the hub has not taken a client's changes. What was rejected was not made: whoever
/// delivers it again gets a verdict of its own. Nor was a record that a person dropped since: the rule of such an entry is still the
/// SQLSTATE of its refusal.
fn refused() -> Result<Refused, SqlError> {
    let _owner = AsOwner::new();
    let rows = sql::run(
        "SELECT DISTINCT c.client_no, c.table_id, c.row_id FROM fieldsync.conflict c
         WHERE (c.outcome = 'rejected' AND (c.status = 'open' OR c.resolution ->> 'choice' IS DISTINCT FROM 'client'))
            OR (c.outcome = 'server' AND c.operation = 'insert' AND c.rule ~ '^[0-9A-Z]{5}( |$)')",
        &[],
    )?;
    let mut refused = Refused::new();
    for row in &rows.rows {
        refused.entry((row.int(0), row.int(1))).or_default().insert(row.text(2).to_owned());
    }
    Ok(refused)
}
