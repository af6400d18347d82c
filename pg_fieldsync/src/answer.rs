//! Answers: what a device is told.
//!
//! Invariant: an answer acknowledges no more than its delta reached, and its cursor claims no more than its rows (and
//! what the device had before) bear out.

use crate::catalog::{self, Table};
use crate::catch::SqlError;
use crate::client;
use crate::convert;
use crate::error::HubError;
use crate::feed;
use crate::history::{self, Hub};
use crate::log;
use crate::notices::{self, News};
use crate::pull::{self, Asked, Pulled, Reading};
use crate::receive::Received;
use crate::schema::{KeyOrders, Schema};
use crate::shapes;
use crate::trigger::now_ms;
use crate::withheld;
use crate::work::Work;
use fieldsync_core::delta::Want;
use fieldsync_core::reply::{Notice, Outcomes, Reply, ReplyBody};
use fieldsync_core::rules::TableRules;
use fieldsync_core::{wire, Hlc, Key, Snapshot, Value};
use pgrx::pg_sys;
use std::collections::HashSet;
use std::rc::Rc;

/// Everything that the device has not seen, as a reply; its tables are in what was pulled.
///
/// What is read under a snapshot has to be described, and locked, no later than the snapshot was taken. A table that was enabled or
/// altered after it was described here, and before the snapshot, would be called seen and left out; and one that is rewritten or
/// truncated after the snapshot looks empty to it. So the tables are looked at under the snapshot, and where one of those that are to be
/// read was not held before, it is locked and all of it is done again.
pub fn answer(
    received: &Received<'_>,
    hub: &Hub,
    mut schema: Schema,
    work: &Work,
    outcomes: Outcomes,
    watermark: Hlc,
    version: u64,
) -> Result<(Reply, Snapshot, Pulled), HubError> {
    feed::flush();
    let mut held: HashSet<pg_sys::Oid> = HashSet::new();
    let mut to_hold: Vec<pg_sys::Oid> = work.tables.iter().map(|table| table.table.oid).collect();
    let (cursor, news, unreadable, pulled) = loop {
        for table in to_hold {
            catalog::lock(table, pg_sys::AccessShareLock)?;
            held.insert(table);
        }
        let reading = Reading::begin();
        if !schema.is_of_now()? {
            schema = Schema::load(&received.client)?;
        }
        match read(received, &schema, work, version, &held, &reading)? {
            Read::Well(read) => break *read,
            Read::NotHeld(tables) => to_hold = tables,
        }
    };
    let mut notices = news.notices;
    notices.extend(unreadable);
    feed::answered(received.client.number, received.batch_id);
    let unknown: HashSet<&str> = work.homeless.iter().map(|homeless| homeless.table.as_str()).collect();
    notices.extend(
        unknown.into_iter().map(|table| {
            Notice::Warning(format!("changes of table \"{table}\" were parked: the hub cannot take them"))
        }),
    );
    let reply = addressed(
        received,
        hub,
        ReplyBody {
            batch: received.batch_id,
            watermark,
            cursor: cursor.clone(),
            clock: pulled.clock,
            outcomes,
            more: false,
            notices,
            tables: Vec::new(),
        },
    );
    Ok((reply, cursor, pulled))
}

/// What came of reading under a snapshot.
enum Read {
    /// The cursor, what there is to tell, and the rows.
    Well(Box<(Snapshot, News, Vec<Notice>, Pulled)>),
    /// Tables have to be locked first.
    NotHeld(Vec<pg_sys::Oid>),
}

/// Reads everything under one snapshot, if the tables that have to be read are held.
fn read(
    received: &Received<'_>,
    schema: &Schema,
    work: &Work,
    version: u64,
    held: &HashSet<pg_sys::Oid>,
    reading: &Reading,
) -> Result<Read, HubError> {
    let body = &received.delta.body;
    let cursor = reading.cursor(version)?;
    // What was purged since this delta came is not there to be read.
    let floors = history::floors()?;
    let no_pull = |table: &str| matches!(schema.direction(table), "push" | "none");
    let tables: Vec<(Rc<Table>, Rc<TableRules>)> =
        schema.tables.iter().map(|(table, rules, _)| (Rc::clone(table), Rc::clone(rules))).collect();
    // A device whose cursor is older than the deletions that are still known must compare everything.
    let asked_cursor = body.cursor.as_ref().filter(|cursor| cursor.xmin >= floors.tombstones);
    let known: Vec<Rc<Table>> = schema.tables.iter().map(|(table, _, _)| Rc::clone(table)).collect();
    // This delta may name none of the tables whose keys it, or its answer, speaks of.
    let several_parts = known.iter().any(|table| table.key.len() > 1);
    let former = if several_parts { shapes::former(&received.client)? } else { shapes::Known::default() };
    let orders = schema.key_orders(former.shapes.iter().chain(received.known.shapes.iter()).chain(&received.shapes));
    let news = notices::conflicts(
        &received.client,
        &known,
        &orders,
        body.cursor.as_ref(),
        received.delta.history == 0,
        version,
    )?;
    let (wants, unreadable) = wants(schema, &orders, &body.wants)?;
    let given = withheld::given(&tables, received.client.number, body.cursor.as_ref(), version, &no_pull)?;
    let asked = Asked {
        own: version,
        client: received.client.number,
        settled: &news.settled,
        gone: &news.gone,
        cursor: asked_cursor,
        // A first answer may have been lost, or be on its way: only who was never answered holds nothing to delete.
        deletions_too: received.delta.history != 0 || received.client.last_batch != 0,
        work,
        wants: &wants,
        given: &given,
    };
    let scopes = pull::scopes(&tables, &floors, &asked)?;
    let not_held: Vec<pg_sys::Oid> =
        scopes.to_read(&tables, &asked).map(|table| table.oid).filter(|table| !held.contains(table)).collect();
    if !not_held.is_empty() {
        return Ok(Read::NotHeld(not_held));
    }
    let pulled = pull::pull(&tables, scopes, &asked)?;
    Ok(Read::Well(Box::new((cursor, news, unreadable, pulled))))
}

/// A reply to the sender, as of now.
fn addressed(received: &Received<'_>, hub: &Hub, body: ReplyBody) -> Reply {
    Reply { client: received.client.tag, history: hub.tag(), hub_now_ms: now_ms(), body }
}

/// An answer without rows; the device has more to send.
fn without_rows(
    received: &Received<'_>,
    hub: &Hub,
    watermark: Hlc,
    cursor: Option<&Snapshot>,
    notices: Vec<Notice>,
) -> Vec<u8> {
    let body = ReplyBody {
        batch: received.batch_id,
        watermark,
        cursor: cursor.cloned().unwrap_or_default(),
        more: true,
        notices,
        ..ReplyBody::default()
    };
    wire::encode_reply(&addressed(received, hub, body), received.client.key.as_ref())
}

/// Rows by table number and key.
type Wanted = Vec<(i32, Key)>;

/// Rows that the device asks for, by table number and key in the hub's form. What can be no row of the hub's is not looked for.
fn wants(schema: &Schema, orders: &KeyOrders, wants: &[Want]) -> Result<(Wanted, Vec<Notice>), SqlError> {
    let mut found = Vec::new();
    let mut notices = Vec::new();
    for want in wants {
        let Some((table, _, _)) = schema.find(&want.table) else { continue };
        let in_hub_order = orders.get(&table.table_id).filter(|order| order.len() == want.key.0.len()).map(|order| {
            let mut parts = vec![Value::Null; order.len()];
            for (at, part) in order.iter().zip(&want.key.0) {
                parts[*at] = part.clone();
            }
            Key(parts)
        });
        match convert::key(&table, in_hub_order.as_ref().unwrap_or(&want.key))? {
            Some(key) => found.push((table.table_id, key)),
            None => notices.push(Notice::Warning(format!(
                "the hub's table \"{}\" can have no row \"{}\"",
                want.table,
                want.key.row_id()
            ))),
        }
    }
    Ok((found, notices))
}

/// An answer without rows: the device's cursor stays where it is.
pub fn short(received: &Received<'_>, hub: &Hub, notices: Vec<Notice>) -> Vec<u8> {
    let body = &received.delta.body;
    let watermark = body.answered_up_to(received.client.watermark);
    without_rows(received, hub, watermark, body.cursor.as_ref(), notices)
}

/// The delta left out names that the hub does not know (any more): nothing of it can be read, and the device sends it again
/// with the names. Nothing is recorded of the batch: it has not been answered.
pub fn names_wanted(received: &Received<'_>, hub: &Hub) -> Result<Vec<u8>, HubError> {
    shapes::forget(&received.client)?;
    log::event(
        &received.client,
        "names_wanted",
        "the delta left out names of tables that the hub does not know; the device sends them again",
    )?;
    Ok(short(received, hub, vec![Notice::NamesWanted]))
}

/// The hub's history is another one: nothing is merged, the device offers again what it still holds.
pub fn new_history(received: &Received<'_>, hub: &Hub, reason: &str) -> Result<Vec<u8>, HubError> {
    shapes::forget(&received.client)?;
    log::event(&received.client, "new_epoch", reason)?;
    let watermark = received.client.watermark;
    let notice = Notice::NewHistory { watermark, last_batch: received.client.last_batch, reason: reason.to_owned() };
    Ok(without_rows(received, hub, watermark, None, vec![notice]))
}

/// The sender is a copy: it goes on under an identity of its own.
pub fn copied(received: &Received<'_>, hub: &Hub) -> Result<Vec<u8>, HubError> {
    let body = &received.delta.body;
    let client_id = client::split(&received.client, received.delta.device_now_ms, received.batch_id, body)?;
    let reason = format!(
        "this database is a copy of the one that is client \"{}\"; it goes on as \"{client_id}\"",
        received.client.client_id
    );
    log::event(&received.client, "new_identity", &reason)?;
    let notice = Notice::NewIdentity { client_id, reason };
    Ok(without_rows(received, hub, body.watermark, body.cursor.as_ref(), vec![notice]))
}
