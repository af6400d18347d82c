//! What a device has not seen.
//!
//! Invariants:
//! * All reads of one pull use one snapshot, and the new cursor is exactly that snapshot with this transaction seen too.
//!   What the cursor calls seen was therefore read here (or seen before); nothing is ever skipped.
//! * A field travels if its stamp is not visible in the device's cursor; which writer it was does not matter. It is left
//!   out only if the device, by this very delta, has that value already.
//! * Whatever the device sent and the hub holds otherwise goes back, visible or not.
//! * Rows are read with the caller's privileges. A deletion reveals a key and no more.

use crate::arrays::Array;
use crate::catalog::Table;
use crate::catch::SqlError;
use crate::feed::Xxh3;
use crate::guards::AsOwner;
use crate::history::Hub;
use crate::keys;
use crate::sql::{self, ident, Cells, Param};
use crate::state::{key_arrays, key_join};
use crate::work::{Item, Work};
use fieldsync_core::clocks::RowClocks;
use fieldsync_core::delta::Op;
use fieldsync_core::merge::HubState;
use fieldsync_core::reply::{RowChange, TableRows};
use fieldsync_core::rules::{FieldStrategy, TableRules};
use fieldsync_core::{Hlc, Key, Snapshot, Value};
use pgrx::pg_sys;
use std::collections::{BTreeSet, HashMap, HashSet};
use std::hash::BuildHasherDefault;
use std::rc::Rc;

/// The one snapshot of a pull, active until dropped.
pub struct Reading(());

impl Reading {
    /// Takes the latest snapshot, after this transaction's own writes.
    pub fn begin() -> Reading {
        // SAFETY: inside a transaction; popped by Drop or by the abort.
        unsafe {
            pg_sys::CommandCounterIncrement();
            pg_sys::PushActiveSnapshot(pg_sys::GetLatestSnapshot());
        }
        Reading(())
    }

    /// The cursor that this snapshot is.
    pub fn cursor(&self, own: u64) -> Result<Snapshot, SqlError> {
        let rows = sql::read_set("SELECT pg_catalog.pg_current_snapshot()::pg_catalog.text", &[])?;
        let text = rows.rows.first().map(|row| row.text(0).to_owned()).unwrap_or_default();
        let snapshot: Snapshot = text
            .parse()
            .map_err(|error: fieldsync_core::snapshot::NotASnapshot| SqlError::new("XX000", error.to_string()))?;
        Ok(snapshot.with_own(own))
    }
}

impl Drop for Reading {
    fn drop(&mut self) {
        // After an error the (sub)transaction's abort pops it.
        if std::thread::panicking() {
            return;
        }
        // SAFETY: pushed by `begin`.
        unsafe { pg_sys::PopActiveSnapshot() }
    }
}

/// What a pull is asked for.
pub struct Asked<'a> {
    /// This transaction's own version. What it wrote and noted in the feed is looked at by key; what it wrote exactly as the
    /// device sent it is in no entry yet, and not looked at.
    pub own: u64,
    /// What the device has seen; None: nothing.
    pub cursor: Option<&'a Snapshot>,
    /// Deletions travel even to a device without a cursor: it holds rows of an earlier history.
    pub deletions_too: bool,
    /// What the device has just sent.
    pub work: &'a Work,
    /// Rows that it asks for whole.
    pub wants: &'a [(i32, Key)],
    /// Rows of which an entry in the conflicts has been settled: the device gets them whole, or drops them.
    pub settled: &'a [(i32, Key)],
    /// Tables that this client gets nothing of.
    pub no_pull: &'a dyn Fn(&str) -> bool,
}

/// What a pull gives.
pub struct Pulled {
    /// Tables, parents first.
    pub tables: Vec<TableRows>,
    /// The latest clock of what travels.
    pub clock: Hlc,
    /// Rows.
    pub rows: u64,
    /// Rows per table.
    pub per_table: Vec<(String, u64)>,
}

/// Keys to look at in one table.
enum Scope {
    /// These, possibly some of them twice.
    Keys(Vec<Key>),
    /// All rows of other transactions, and these.
    Whole(Vec<Key>),
    /// All.
    Everything,
}

/// Gathers everything that the device has not seen. `tables` in the order parents first.
pub fn pull(tables: &[(Rc<Table>, Rc<TableRules>)], hub: &Hub, asked: &Asked<'_>) -> Result<Pulled, SqlError> {
    let mut scopes = scopes(tables, hub, asked)?;
    let mut pulled = Pulled { tables: Vec::new(), clock: Hlc::default(), rows: 0, per_table: Vec::new() };
    for (table, rules) in tables {
        if (asked.no_pull)(&table.name) {
            continue;
        }
        let sent = Sent::of(table, rules, asked);
        let scope = scopes.remove(&table.table_id).unwrap_or_else(|| Scope::Keys(Vec::new()));
        let mut rows = match scope {
            Scope::Whole(own) => whole(table, Some(own), asked, &sent, &mut pulled.clock)?,
            Scope::Everything => whole(table, None, asked, &sent, &mut pulled.clock)?,
            Scope::Keys(keys) => {
                let news = keys.into_iter().chain(sent.to_compare());
                let keys: BTreeSet<Key> = news.filter(|key| !sent.exact.contains(key)).collect();
                by_keys(table, &keys, asked, &sent, &mut pulled.clock)?
            }
        };
        rows.extend(sent.misspelt());
        if rows.is_empty() {
            continue;
        }
        pulled.rows += rows.len() as u64;
        pulled.per_table.push((table.name.clone(), rows.len() as u64));
        pulled.tables.push(shape(table, rules, rows));
    }
    Ok(pulled)
}

fn scopes(
    tables: &[(Rc<Table>, Rc<TableRules>)],
    hub: &Hub,
    asked: &Asked<'_>,
) -> Result<HashMap<i32, Scope>, SqlError> {
    let known = asked.cursor.filter(|cursor| cursor.xmin >= hub.feed_floor);
    let mut scopes: HashMap<i32, Scope> = HashMap::new();
    if known.is_none() {
        scopes.extend(tables.iter().map(|(table, _)| (table.table_id, Scope::Whole(Vec::new()))));
    }
    let entries = {
        let _owner = AsOwner::new();
        sql::read_set(
            "SELECT version, table_id, keys FROM fieldsync.feed WHERE version >= $1 ORDER BY version",
            &[Param::Int(known.map_or(asked.own, |cursor| cursor.xmin) as i64)],
        )?
    };
    for entry in &entries.rows {
        let version = entry.int(0) as u64;
        if known.map_or(version != asked.own, |cursor| cursor.visible(version)) {
            continue;
        }
        let id = entry.int(1) as i32;
        let Some((table, _)) = tables.iter().find(|(table, _)| table.table_id == id) else { continue };
        let packed = entry.bytes(2);
        let scope = scopes.entry(id).or_insert_with(|| Scope::Keys(Vec::new()));
        if let Scope::Keys(keys) | Scope::Whole(keys) = scope {
            match keys::unpack(packed, table.key.len()) {
                Some(unpacked) if !packed.is_empty() => keys.extend(unpacked),
                // Noted for the whole table, or under an earlier key of it: everything is looked at.
                _ => *scope = Scope::Everything,
            }
        }
    }
    Ok(scopes)
}

/// What the device sent of one table.
struct Sent<'a> {
    items: HashMap<&'a Key, &'a Item, BuildHasherDefault<Xxh3>>,
    /// Columns under a `sum` rule: the device rebases them without a log entry, so what it sent is not what it shows.
    sums: HashSet<u16>,
    settled: HashSet<&'a Key>,
    wanted: HashSet<&'a Key>,
    /// Rows that were written exactly as sent: nothing to look at.
    exact: HashSet<&'a Key, BuildHasherDefault<Xxh3>>,
}

impl<'a> Sent<'a> {
    fn of(table: &Table, rules: &TableRules, asked: &Asked<'a>) -> Sent<'a> {
        let sums = rules.fields.iter().filter(|(_, rule)| **rule == FieldStrategy::Sum).map(|(number, _)| *number);
        let settled = asked.settled.iter().filter(|(table_id, _)| *table_id == table.table_id).map(|(_, key)| key);
        let mut sent = Sent {
            items: HashMap::default(),
            sums: sums.collect(),
            settled: settled.collect(),
            wanted: HashSet::new(),
            exact: HashSet::default(),
        };
        let wanted = asked.wants.iter().filter(|(table_id, _)| *table_id == table.table_id).map(|(_, key)| key);
        sent.wanted.extend(wanted);
        for work in asked.work.tables.iter().filter(|work| work.table.oid == table.oid) {
            let columns = table.travelling().count() - table.key.len();
            let has_generated = table.columns.iter().any(|column| column.generated);
            for item in &work.items {
                sent.items.insert(&item.key, item);
                let all_given = item.merged.fields.len() == columns;
                let new = matches!(item.merged.before, Some(HubState::Absent));
                if table.stores_as_written
                    && !has_generated
                    && new
                    && item.sent_as.is_none()
                    && all_given
                    && item.merged.rejected.is_none()
                    && item.inserted
                    && item.told.is_empty()
                    && item.merged.fields.iter().all(|(number, value)| item.echo(number) == Some(value))
                {
                    sent.exact.insert(&item.key);
                }
            }
        }
        let exact = &mut sent.exact;
        for key in sent.wanted.iter().chain(&sent.settled) {
            exact.remove(key);
        }
        sent
    }

    /// Rows under keys that the hub spells otherwise: they come back under the hub's spelling, and go under their own.
    fn misspelt(&self) -> impl Iterator<Item = RowChange> + '_ {
        let live =
            |item: &&&Item| item.merged.rejected.is_none() && matches!(item.merged.after, Some(HubState::Live(_)));
        let keys = self.items.values().filter(live).filter_map(|item| item.sent_as.clone());
        keys.map(|key| RowChange { op: Op::Delete, key, fields: Vec::new() })
    }

    /// Keys whose outcome may differ from what the device has.
    fn to_compare(&self) -> impl Iterator<Item = Key> + '_ {
        self.items
            .iter()
            .filter(|(key, item)| item.merged.rejected.is_none() && !self.exact.contains(*key))
            .map(|(key, _)| (*key).clone())
            .chain(self.wanted.iter().map(|key| (*key).clone()))
            .chain(self.settled.iter().map(|key| (*key).clone()))
    }
}

/// A row as the hub has it.
struct Row {
    key: Key,
    clocks: RowClocks,
    is_deleted: bool,
    values: Vec<(u16, Value)>,
}

/// Non-key columns that travel, in their order.
fn fields(table: &Table) -> Vec<usize> {
    table.travelling().filter(|(at, _)| !table.key.contains(at)).map(|(at, _)| at).collect()
}

fn select_list(table: &Table) -> String {
    let mut list = String::from("t.fieldsync_clocks, t.sync_deleted");
    for at in table.key.iter().copied().chain(fields(table)) {
        let column = &table.columns[at];
        list.push_str(", ");
        list.push_str(&column.column_type.to_wire(&format!("t.{}", ident(&column.name))));
    }
    list
}

fn read_row(table: &Table, cells: Vec<Value>, skip: usize, numbers: &[u16]) -> Result<Row, SqlError> {
    let clocks = table.clocks(cells.bytes(skip))?;
    let is_deleted = cells.truth(skip + 1);
    let mut rest = cells.into_iter().skip(skip + 2);
    let key = Key(rest.by_ref().take(table.key.len()).collect());
    Ok(Row { key, clocks, is_deleted, values: numbers.iter().copied().zip(rest).collect() })
}

/// Reads a table whole. `own`: what this transaction wrote is looked at by these keys only.
fn whole(
    table: &Table,
    own: Option<Vec<Key>>,
    asked: &Asked<'_>,
    sent: &Sent<'_>,
    clock: &mut Hlc,
) -> Result<Vec<RowChange>, SqlError> {
    let numbers: Vec<u16> = fields(table).iter().map(|at| table.columns[*at].number).collect();
    let mut rows = Vec::new();
    let mut seen: HashSet<Key> = HashSet::new();
    let query = format!(
        "SELECT {} FROM ONLY {} AS t WHERE (t.fieldsync_clocks IS NULL OR $1 OR t.sync_version OPERATOR(pg_catalog.>=) $2)
         AND (t.fieldsync_clocks IS NULL OR $3 OR t.sync_version OPERATOR(pg_catalog.<>) $4)",
        select_list(table),
        table.qualified
    );
    let params = [
        Param::Bool(asked.cursor.is_none()),
        Param::Int(asked.cursor.map_or(0, |cursor| cursor.xmin) as i64),
        Param::Bool(own.is_none()),
        Param::Int(asked.own as i64),
    ];
    sql::read_portions(&query, &params, |portion| {
        for cells in portion {
            let row = read_row(table, cells, 0, &numbers)?;
            if sent.items.contains_key(&row.key) {
                seen.insert(row.key.clone());
            }
            rows.extend(travels(table, row, asked, sent, clock));
        }
        Ok(())
    })?;
    drop_missing(table, asked, sent, &seen, clock, &mut rows)?;
    // Also what was sent and is not among the rows read (unchanged since the cursor, or gone).
    let own = own.into_iter().flatten().filter(|key| !sent.exact.contains(key));
    let rest: BTreeSet<Key> = sent.to_compare().chain(own).filter(|key| !seen.contains(key)).collect();
    if !rest.is_empty() {
        let known: HashSet<Key> = rows.iter().map(|row: &RowChange| row.key.clone()).collect();
        let rest: BTreeSet<Key> = rest.into_iter().filter(|key| !known.contains(key)).collect();
        rows.extend(by_keys(table, &rest, asked, sent, clock)?);
    }
    Ok(rows)
}

/// Deletions of a table that is read whole.
fn drop_missing(
    table: &Table,
    asked: &Asked<'_>,
    sent: &Sent<'_>,
    seen: &HashSet<Key>,
    clock: &mut Hlc,
    rows: &mut Vec<RowChange>,
) -> Result<(), SqlError> {
    let from = match asked.cursor {
        Some(cursor) => cursor.xmin,
        None if asked.deletions_too => 0,
        None => return Ok(()),
    };
    let buried = {
        let _owner = AsOwner::new();
        sql::read_set(
            "SELECT row_id, version, clock FROM fieldsync.tombstone WHERE table_id = $1 AND version >= $2",
            &[Param::Int(i64::from(table.table_id)), Param::Int(from as i64)],
        )?
    };
    if buried.rows.is_empty() {
        return Ok(());
    }
    let live: HashSet<Key> = rows.iter().map(|row| row.key.clone()).collect();
    let mut candidates = BTreeSet::new();
    for row in &buried.rows {
        if asked.cursor.is_some_and(|cursor| cursor.visible(row.int(1) as u64)) {
            continue;
        }
        let Some(key) = key_from_row_id(table, row.text(0)) else { continue };
        if !live.contains(&key) && !seen.contains(&key) {
            *clock = (*clock).max(Hlc::from_i64(row.int(2)));
            candidates.insert(key);
        }
    }
    rows.extend(by_keys(table, &candidates, asked, sent, clock)?);
    Ok(())
}

/// The key that a row id is the text of.
pub fn key_from_row_id(table: &Table, row_id: &str) -> Option<Key> {
    use crate::types::Canonical;
    let texts: Vec<Value> = if table.key.len() == 1 {
        vec![Value::Text(row_id.to_owned())]
    } else {
        let parts: Vec<serde_json::Value> = serde_json::from_str(row_id).ok()?;
        parts.iter().map(Value::from_json).collect()
    };
    if texts.len() != table.key.len() {
        return None;
    }
    let parts = table.key.iter().zip(texts).map(|(at, text)| {
        let column_type = &table.columns[*at].column_type;
        let text = match (column_type.kind, text) {
            // Blobs are shown as hexadecimal digits.
            (fieldsync_core::value::Kind::Bytes, Value::Text(digits)) => {
                let digits = digits.strip_prefix("\\x").unwrap_or(&digits).to_owned();
                Value::Blob(
                    (0..digits.len() / 2)
                        .filter_map(|at| u8::from_str_radix(digits.get(2 * at..2 * at + 2)?, 16).ok())
                        .collect(),
                )
            }
            (_, text) => text,
        };
        match column_type.canonical(&text) {
            Canonical::Done(value) => Some(value),
            // Row ids are made of canonical values.
            Canonical::Ask(text) => Some(Value::Text(text)),
            Canonical::Bad(_) => None,
        }
    });
    parts.collect::<Option<Vec<_>>>().map(Key)
}

fn by_keys(
    table: &Table,
    keys: &BTreeSet<Key>,
    asked: &Asked<'_>,
    sent: &Sent<'_>,
    clock: &mut Hlc,
) -> Result<Vec<RowChange>, SqlError> {
    if keys.is_empty() {
        return Ok(Vec::new());
    }
    let numbers: Vec<u16> = fields(table).iter().map(|at| table.columns[*at].number).collect();
    let keys: Vec<&Key> = keys.iter().collect();
    let arrays: Vec<Array<'_>> = key_arrays(table, &keys)?;
    let params: Vec<Param<'_>> = arrays.iter().map(Array::param).collect();
    let join = key_join(table, 1);
    let found = sql::read_set(
        &format!(
            "SELECT u.place, {} FROM ONLY {} AS t JOIN {} ON {}",
            select_list(table),
            table.qualified,
            join.source,
            join.condition
        ),
        &params,
    )?;
    let mut there = vec![false; keys.len()];
    let mut rows = Vec::new();
    for cells in found.rows {
        if let Some(slot) = usize::try_from(cells.int(0) - 1).ok().and_then(|place| there.get_mut(place)) {
            *slot = true;
        }
        let row = read_row(table, cells, 1, &numbers)?;
        rows.extend(travels(table, row, asked, sent, clock));
    }
    let gone: Vec<&Key> = keys.iter().zip(&there).filter(|(_, there)| !**there).map(|(key, _)| *key).collect();
    rows.extend(deletions(table, &gone, asked, sent, clock)?);
    Ok(rows)
}

/// Deletions among keys whose rows are not to be seen.
fn deletions(
    table: &Table,
    keys: &[&Key],
    asked: &Asked<'_>,
    sent: &Sent<'_>,
    clock: &mut Hlc,
) -> Result<Vec<RowChange>, SqlError> {
    if keys.is_empty() {
        return Ok(Vec::new());
    }
    let by_row_id: HashMap<String, &Key> = keys.iter().map(|key| (table.row_id(key), *key)).collect();
    let ids: Vec<Option<&str>> = by_row_id.keys().map(|id| Some(id.as_str())).collect();
    let buried = {
        let _owner = AsOwner::new();
        sql::read_set(
            "SELECT d.row_id, d.version, d.clock FROM fieldsync.tombstone d
             JOIN unnest($2::text[]) AS u(row_id) ON u.row_id = d.row_id WHERE d.table_id = $1",
            &[Param::Int(i64::from(table.table_id)), Param::Texts(&ids)],
        )?
    };
    let mut rows = Vec::new();
    let mut told: HashSet<&Key> = HashSet::new();
    for row in &buried.rows {
        let Some(key) = by_row_id.get(row.text(0)).copied() else { continue };
        let item = sent.items.get(key);
        let knows = item.is_some_and(|item| item.last_op == Op::Delete && item.merged.rejected.is_none());
        let unseen = asked.cursor.map_or(asked.deletions_too, |cursor| !cursor.visible(row.int(1) as u64));
        // A row that the device has just written, and that stays deleted, goes from the device as well.
        let returns = item.is_some_and(|item| item.merged.rejected.is_none() && has_news(item));
        if !knows && (unseen || returns || sent.wanted.contains(key) || sent.settled.contains(key)) {
            *clock = (*clock).max(Hlc::from_i64(row.int(2)));
            rows.push(RowChange { op: Op::Delete, key: key.clone(), fields: Vec::new() });
            told.insert(key);
        }
    }
    for key in keys {
        if sent.settled.contains(*key) && !told.contains(*key) && !sent.items.contains_key(*key) {
            rows.push(RowChange { op: Op::Delete, key: (*key).clone(), fields: Vec::new() });
        }
    }
    Ok(rows)
}

/// Whether the delta holds any change of the row, answered before or not.
fn has_news(item: &Item) -> bool {
    !item.changes.is_empty() || item.repeated_whole || !item.repeated.is_empty()
}

/// What of a row travels, if anything. Fields by number.
fn travels(table: &Table, row: Row, asked: &Asked<'_>, sent: &Sent<'_>, clock: &mut Hlc) -> Option<RowChange> {
    let unseen = |version: u64| asked.cursor.is_none_or(|cursor| !cursor.visible(version));
    let item = sent.items.get(&row.key).copied();
    let accepted = item.filter(|item| item.merged.rejected.is_none());
    let deletion = row.clocks.field(table.deleted_number);
    if row.is_deleted {
        let knows = accepted.is_some_and(|item| item.last_op == Op::Delete);
        let tells = asked.cursor.is_some() || asked.deletions_too;
        let returns = accepted.is_some_and(has_news);
        if knows
            || !((tells && unseen(deletion.version))
                || returns
                || sent.wanted.contains(&row.key)
                || sent.settled.contains(&row.key))
        {
            return None;
        }
        *clock = (*clock).max(deletion.clock);
        return Some(RowChange { op: Op::Delete, key: row.key, fields: Vec::new() });
    }
    let inserted_unseen = unseen(row.clocks.insert.version)
        // Marked as deleted and back again: the device may have dropped it.
        || row.clocks.stamped().any(|(number, stamp)| number == table.deleted_number && unseen(stamp.version));
    let has_whole = accepted.is_some_and(|item| item.inserted && item.last_op != Op::Delete);
    let wants_whole = sent.wanted.contains(&row.key)
        || sent.settled.contains(&row.key)
        || accepted.is_some_and(|item| {
            item.repeated_whole
                || item.merged.whole
                || item.sent_as.is_some()
                || (item.last_op == Op::Delete && !item.changes.is_empty())
        });
    let whole = wants_whole || (inserted_unseen && !has_whole);
    let mut fields = Vec::new();
    for (number, value) in row.values {
        let stamp = row.clocks.field(number);
        let echoed = accepted.and_then(|item| item.echo(number));
        let travels = match echoed {
            _ if whole || accepted.is_some_and(|item| item.told.contains(&number)) => true,
            Some(_) if sent.sums.contains(&number) => true,
            Some(echoed) => *echoed != value,
            None if accepted.is_some_and(|item| item.repeated.contains(&number)) => true,
            None => unseen(stamp.version),
        };
        if travels {
            *clock = (*clock).max(stamp.clock);
            fields.push((number, value));
        }
    }
    if whole {
        return Some(RowChange { op: Op::Insert, key: row.key, fields });
    }
    (!fields.is_empty()).then_some(RowChange { op: Op::Update, key: row.key, fields })
}

/// Rows with fields by number become rows with fields by column of the reply.
fn shape(table: &Table, rules: &TableRules, rows: Vec<RowChange>) -> TableRows {
    let order: Vec<usize> = table.key.iter().copied().chain(fields(table)).collect();
    let place: HashMap<u16, u16> =
        order.iter().enumerate().map(|(place, at)| (table.columns[*at].number, place as u16)).collect();
    let mut sums: Vec<u16> = rules
        .fields
        .iter()
        .filter(|(_, rule)| **rule == FieldStrategy::Sum)
        .filter_map(|(number, _)| place.get(number).copied())
        .collect();
    sums.sort_unstable();
    TableRows {
        table: table.name.clone(),
        columns: order.iter().map(|at| table.columns[*at].name.clone()).collect(),
        kinds: order.iter().map(|at| table.columns[*at].column_type.kind).collect(),
        key_len: table.key.len() as u16,
        sums,
        rows: rows
            .into_iter()
            .map(|row| RowChange {
                fields: row
                    .fields
                    .into_iter()
                    .filter_map(|(number, value)| Some((*place.get(&number)?, value)))
                    .collect(),
                ..row
            })
            .collect(),
    }
}
