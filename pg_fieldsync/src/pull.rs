//! What a device has not seen.
//!
//! Invariants:
//! * All reads of one pull use one snapshot, and the new cursor is exactly that snapshot with this transaction seen too.
//!   What the cursor calls seen was therefore read here (or seen before); nothing is ever skipped.
//! * What this transaction itself wrote is looked at by its keys in the feed; rows that stand exactly as the device has just
//!   sent them are in no entry of the feed yet, and not looked at.

use crate::catalog::Table;
use crate::catch::SqlError;
use crate::gather::Gathering;
use crate::guards::{AsOwner, LatestSnapshot};
use crate::history::Floors;
use crate::keys;
use crate::sql::{self, Cells, Param};
use crate::withheld::Given;
use crate::work::Work;
use fieldsync_core::clocks::Origin;
use fieldsync_core::rules::{FieldStrategy, TableRules};
use fieldsync_core::travel::Reader;
use fieldsync_core::wire::{PackedRows, Shape};
use fieldsync_core::{Hlc, Key, Snapshot};
use std::collections::{HashMap, HashSet};
use std::rc::Rc;

/// The one snapshot of a pull, active until dropped.
pub struct Reading(LatestSnapshot);

impl Reading {
    /// Takes the latest snapshot, after this transaction's own writes.
    pub fn begin() -> Reading {
        Reading(LatestSnapshot::take())
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

/// What a pull is asked for.
pub struct Asked<'a> {
    /// This transaction's own version. What it wrote and noted in the feed is looked at by key; what it wrote exactly as the
    /// device sent it is in no entry yet, and not looked at.
    pub own: u64,
    /// Who asks.
    pub client: Origin,
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
    /// The same, of rows that there cannot be any more.
    pub gone: &'a [(i32, Key)],
    /// What it gets of each table.
    pub given: &'a HashMap<i32, Given>,
}

impl Asked<'_> {
    /// Who asks.
    pub fn reader(&self) -> Reader<'_> {
        Reader { cursor: self.cursor, deletions_too: self.deletions_too }
    }
}

/// What a pull gives.
pub struct Pulled {
    /// Tables, parents first.
    pub tables: Vec<(Shape, PackedRows)>,
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

/// What there is to look at, by table number.
pub struct Scopes(HashMap<i32, Scope>);

impl Scopes {
    /// The tables whose rows have to be read.
    pub fn to_read<'a>(
        &'a self,
        tables: &'a [(Rc<Table>, Rc<TableRules>)],
        asked: &'a Asked<'a>,
    ) -> impl Iterator<Item = &'a Rc<Table>> {
        let named = asked.wants.iter().chain(asked.settled).map(|(table_id, _)| *table_id);
        let sent = asked.work.tables.iter().map(|work| work.table.table_id);
        let looked_at: HashSet<i32> = named.chain(sent).chain(self.0.keys().copied()).collect();
        tables.iter().map(|(table, _)| table).filter(move |table| match asked.given.get(&table.table_id) {
            Some(Given::Nothing) => false,
            Some(Given::Everything) => true,
            Some(Given::News { .. }) | None => looked_at.contains(&table.table_id),
        })
    }
}

/// Gathers everything that the device has not seen. `tables` in the order parents first.
pub fn pull(
    tables: &[(Rc<Table>, Rc<TableRules>)],
    Scopes(mut scopes): Scopes,
    asked: &Asked<'_>,
) -> Result<Pulled, SqlError> {
    let mut pulled = Pulled { tables: Vec::new(), clock: Hlc::default(), rows: 0, per_table: Vec::new() };
    for (table, rules) in tables {
        let given = asked.given.get(&table.table_id).copied().unwrap_or(Given::News { whole: false, renamed: false });
        let from_nothing = Asked { cursor: None, deletions_too: true, ..*asked };
        let (asked, scope) = match given {
            Given::Nothing => continue,
            Given::Everything => (&from_nothing, Scope::Everything),
            Given::News { .. } => (asked, scopes.remove(&table.table_id).unwrap_or_else(|| Scope::Keys(Vec::new()))),
        };
        let mut gathering = Gathering::new(table, rules, asked, matches!(given, Given::News { whole: true, .. }));
        match scope {
            Scope::Whole(own) => gathering.whole(Some(own))?,
            Scope::Everything => gathering.whole(None)?,
            Scope::Keys(keys) => gathering.looked_at(keys)?,
        }
        let (rows, clock) = gathering.end();
        if rows.is_empty() && !matches!(given, Given::News { renamed: true, .. }) {
            continue;
        }
        pulled.clock = pulled.clock.max(clock);
        pulled.rows += rows.len() as u64;
        pulled.per_table.push((table.name.clone(), rows.len() as u64));
        pulled.tables.push((shape(table, rules), rows));
    }
    Ok(pulled)
}

/// Finds out by the feed.
pub fn scopes(tables: &[(Rc<Table>, Rc<TableRules>)], floors: &Floors, asked: &Asked<'_>) -> Result<Scopes, SqlError> {
    let known = asked.cursor.filter(|cursor| cursor.xmin >= floors.feed);
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
    Ok(Scopes(scopes))
}

/// What a table looks like in a reply.
fn shape(table: &Table, rules: &TableRules) -> Shape {
    let order = table.reply_order();
    let sums = order
        .iter()
        .enumerate()
        .filter(|(_, at)| rules.fields.get(&table.columns[**at].number) == Some(&FieldStrategy::Sum));
    Shape {
        table: table.name.clone(),
        columns: order.iter().map(|at| table.columns[*at].name.clone()).collect(),
        key_len: table.key.len() as u16,
        kinds: order.iter().map(|at| table.columns[*at].column_type.kind).collect(),
        sums: sums.map(|(place, _)| place as u16).collect(),
    }
}
