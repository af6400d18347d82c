//! Names that blobs leave out: what each client's deltas and replies have named before.
//!
//! Invariants:
//! * A delta's names are known from the commit of a batch that carried them on, in the same transaction.
//! * A reply's names are left out only once a delta has named the batch as its parent whose answer carried them: then the
//!   device has applied it, and keeps its shapes in the same transaction as its rows.
//! * Where one end may have forgotten (a lost history, a new identity, a device that asks) both forget, and names travel again.

use crate::catch::SqlError;
use crate::client::Client;
use crate::guards::AsOwner;
use crate::sql::{self, Cells, Param};
use fieldsync_core::clocks::Origin;
use fieldsync_core::delta::{BatchId, ClientTag};
use fieldsync_core::wire::{Shape, Shapes};
use fieldsync_core::Value;

/// Shapes, with their numbers.
#[derive(Debug, Default)]
pub struct Known {
    /// By their tags.
    pub shapes: Shapes,
    /// Their numbers, in the order in which they were learnt.
    pub numbers: Vec<i64>,
}

/// Which of a client's lists.
#[derive(Debug, Clone, Copy)]
enum List {
    Deltas,
    Former,
    Replies,
    /// What a reply may have left out or named: for looking into it.
    RepliesAndTold,
}

impl List {
    fn of_client(self) -> &'static str {
        match self {
            List::Deltas => "c.delta_shapes",
            List::Former => "c.former_shapes",
            List::Replies => "c.reply_shapes",
            List::RepliesAndTold => "c.reply_shapes || c.told_shapes",
        }
    }
}

fn read(list: List, whose: &str, key: i64) -> Result<Known, SqlError> {
    let _owner = AsOwner::new();
    let query = format!(
        "SELECT s.shape_id, s.shape FROM fieldsync.client c
         CROSS JOIN LATERAL unnest({}) WITH ORDINALITY AS k(shape_id, place) JOIN fieldsync.shape s USING (shape_id)
         WHERE c.{whose} = $1 ORDER BY k.place",
        list.of_client()
    );
    gather(sql::run(&query, &[Param::Int(key)])?.rows)
}

fn gather(rows: Vec<Vec<Value>>) -> Result<Known, SqlError> {
    let mut known = Known::default();
    for row in rows {
        let shape = Shape::from_bytes(row.bytes(1))
            .ok_or_else(|| SqlError::new("XX001", "fieldsync.shape holds bytes that are no shape"))?;
        known.shapes.add(shape);
        known.numbers.push(row.int(0));
    }
    Ok(known)
}

/// What this client's deltas may leave out.
pub fn of_deltas(client: Origin) -> Result<Known, SqlError> {
    read(List::Deltas, "client_no", i64::from(client))
}

/// What this client's deltas named once, or those of the database that it is a copy of. Nothing may be left out because of that.
pub fn former(client: &Client) -> Result<Known, SqlError> {
    read(List::Former, "client_no", i64::from(client.number))
}

/// What a batch may have left out when it came.
pub fn of_batch(batch: &[u8; 16]) -> Result<Known, SqlError> {
    let _owner = AsOwner::new();
    let rows = sql::run(
        "SELECT s.shape_id, s.shape FROM fieldsync.batch b
         CROSS JOIN LATERAL unnest(b.shapes) WITH ORDINALITY AS k(shape_id, place) JOIN fieldsync.shape s USING (shape_id)
         WHERE b.batch = $1::text::uuid ORDER BY k.place",
        &[Param::Text(&crate::types::uuid_text(batch))],
    )?;
    gather(rows.rows)
}

/// For looking into a blob of whoever bears this tag.
pub fn for_inspection(tag: ClientTag, of_reply: bool) -> Result<Known, SqlError> {
    read(if of_reply { List::RepliesAndTold } else { List::Deltas }, "tag", tag as i64)
}

/// What a reply to this client may leave out, now that its delta has named its parent.
pub fn of_replies(client: &Client, parent: BatchId, names_wanted: bool) -> Result<Known, SqlError> {
    if names_wanted {
        forget_replies(client)?;
        return Ok(Known::default());
    }
    {
        let _owner = AsOwner::new();
        sql::run(
            "UPDATE fieldsync.client c SET told_shapes = '{}', told_batch = 0,
                    reply_shapes = c.reply_shapes || ARRAY(SELECT k.shape_id FROM unnest(c.told_shapes) WITH ORDINALITY AS k(shape_id, place)
                                                           WHERE k.shape_id <> ALL (c.reply_shapes) ORDER BY k.place)
             WHERE c.client_no = $1 AND c.told_batch = $2 AND $2 <> 0 AND c.told_shapes <> '{}'",
            &[Param::Int(i64::from(client.number)), Param::Int(parent as i64)],
        )?;
    }
    read(List::Replies, "client_no", i64::from(client.number))
}

/// Gives shapes their numbers.
fn numbers(shapes: &[Shape]) -> Result<Vec<Option<i64>>, SqlError> {
    let bytes: Vec<Vec<u8>> = shapes.iter().map(Shape::to_bytes).collect();
    let list: Vec<Option<&[u8]>> = bytes.iter().map(|bytes| Some(bytes.as_slice())).collect();
    // In the order of the bytes, so that two syncs never wait for each other in a circle.
    sql::run(
        "INSERT INTO fieldsync.shape (shape) SELECT DISTINCT b FROM unnest($1::bytea[]) AS u(b) ORDER BY b
         ON CONFLICT (sha256(shape)) DO NOTHING",
        &[Param::Blobs(&list)],
    )?;
    let rows = sql::run(
        "SELECT s.shape_id FROM unnest($1::bytea[]) WITH ORDINALITY AS u(b, place) JOIN fieldsync.shape s ON sha256(s.shape) = sha256(u.b)
         ORDER BY u.place",
        &[Param::Blobs(&list)],
    )?;
    Ok(rows.rows.iter().map(|row| Some(row.int(0))).collect())
}

/// A batch that carried these shapes is committed.
pub fn learn(client: &Client, known: &Known, carried: &[Shape]) -> Result<(), SqlError> {
    let fresh: Vec<Shape> = carried.iter().filter(|shape| !known.shapes.knows(shape)).cloned().collect();
    if fresh.is_empty() {
        return Ok(());
    }
    let _owner = AsOwner::new();
    let numbers = numbers(&fresh)?;
    sql::run(
        "UPDATE fieldsync.client c SET delta_shapes = c.delta_shapes || ARRAY(
             SELECT k.shape_id::integer FROM unnest($2::bigint[]) WITH ORDINALITY AS k(shape_id, place)
             WHERE k.shape_id <> ALL (c.delta_shapes) ORDER BY k.place)
         WHERE c.client_no = $1",
        &[Param::Int(i64::from(client.number)), Param::Ints(&numbers)],
    )?;
    Ok(())
}

/// A reply goes out: what it names becomes known once the device says that it has applied it.
pub fn tell<'s>(
    client: &Client,
    known: &Known,
    batch: BatchId,
    tables: impl Iterator<Item = &'s Shape>,
) -> Result<(), SqlError> {
    let named: Vec<Shape> = tables.filter(|shape| !known.shapes.knows(shape)).cloned().collect();
    if named.is_empty() {
        return Ok(());
    }
    let _owner = AsOwner::new();
    let numbers = numbers(&named)?;
    sql::run(
        "UPDATE fieldsync.client SET told_shapes = $2::bigint[]::integer[], told_batch = $3 WHERE client_no = $1",
        &[Param::Int(i64::from(client.number)), Param::Ints(&numbers), Param::Int(batch as i64)],
    )?;
    Ok(())
}

/// The device asks for names.
fn forget_replies(client: &Client) -> Result<(), SqlError> {
    let _owner = AsOwner::new();
    sql::run(
        "UPDATE fieldsync.client SET reply_shapes = '{}', told_shapes = '{}', told_batch = 0 WHERE client_no = $1",
        &[Param::Int(i64::from(client.number))],
    )?;
    Ok(())
}

/// Nothing is known any more, in either direction: the history is another one.
pub fn forget(client: &Client) -> Result<(), SqlError> {
    forget_replies(client)?;
    let _owner = AsOwner::new();
    sql::run(
        "UPDATE fieldsync.client SET former_shapes = former_shapes || delta_shapes, delta_shapes = '{}' WHERE client_no = $1",
        &[Param::Int(i64::from(client.number))],
    )?;
    Ok(())
}
