//! New rows: straight from a delta's columns into their table.
//!
//! Most rows of a large delta are rows that the hub has never had, and the rules have nothing to say about those: what was sent
//! is written, under one stamp per row, and nothing goes back. So they need not be taken apart one by one; and a block
//! of them is forgotten before the next one is read.
//!
//! Invariants:
//! * A block goes this way only if the long way ([`crate::merge`]) would write each of its rows exactly as sent. Whatever else is
//!   in it or about its table (an update, a parked row, a strict rule, an application's trigger, a parent that may be marked
//!   as deleted) sends it the long way.
//! * A block stands as a whole or leaves nothing behind: its statement overwrites nothing, and if it fails the long way finds
//!   out who is to blame.
//! * No row that was written here has other changes in the same delta ([`Fresh::wrote`]): the caller sees to it.

use crate::applying::{Engine, FinishedRows};
use crate::arrays::Array;
use crate::catalog::{self, Column, Table};
use crate::catch::SqlError;
use crate::client::Client;
use crate::convert::{self, Converter, Target};
use crate::decide::microseconds;
use crate::feed;
use crate::guards::subtransaction;
use crate::keys;
use crate::merge::probe;
use crate::read::key_places;
use crate::schema::Schema;
use crate::sql::{self, ident, Param};
use crate::state;
use crate::verdicts::Verdicts;
use fieldsync_core::clock::SkewCorrection;
use fieldsync_core::clocks::{RowClocks, Stamp};
use fieldsync_core::delta::{Op, TableChanges};
use fieldsync_core::rules::OnReject;
use fieldsync_core::{Hlc, Key, Value};
use std::collections::HashSet;
use std::rc::Rc;

/// Blocks of a table that may fail before no more of them are tried.
const FAILURES_MAX: u32 = 3;

/// The new rows of one delta.
pub struct Fresh<'a> {
    client: &'a Client,
    schema: &'a Schema,
    correction: &'a SkewCorrection,
    version: u64,
    /// Rows of this client that wait in the conflicts, by table and row id: a change of one of them means more than itself.
    waiting: &'a HashSet<(i32, String)>,
    /// Tables of the delta, as sent.
    targets: Vec<Into>,
    /// Blocks whose parents were not there yet.
    later: Vec<TableChanges>,
    /// Hashes of the keys that were written.
    written: Vec<u64>,
    has_deferrable: bool,
}

/// Where the rows of a table of the delta go.
struct Into {
    name: String,
    columns: Vec<String>,
    /// None: the long way.
    way: Option<Way>,
    failures: u32,
    /// Its rows came before their parents.
    waits: bool,
    /// Some of its rows were written.
    wrote: bool,
    /// The latest corrected clock so far.
    floor: Hlc,
}

/// How a delta's columns become a table's.
struct Way {
    table: Rc<Table>,
    targets: Vec<Target>,
    /// Where the hub's key columns stand in the delta's key.
    key_places: Vec<usize>,
    /// Where fields stand in a row of the delta, with the hub's column.
    fields: Vec<(usize, usize)>,
    /// Fields of a row of the delta.
    width: usize,
    has_tombstones: bool,
}

impl<'a> Fresh<'a> {
    /// For one delta.
    pub fn new(
        client: &'a Client,
        schema: &'a Schema,
        correction: &'a SkewCorrection,
        version: u64,
        waiting: &'a HashSet<(i32, String)>,
    ) -> Fresh<'a> {
        Fresh {
            client,
            schema,
            correction,
            version,
            waiting,
            targets: Vec::new(),
            later: Vec::new(),
            written: Vec::new(),
            has_deferrable: false,
        }
    }

    /// Writes a block if it can go this way, now or (once its parents are there) at the end. Gives it back if it cannot.
    pub fn offer(
        &mut self,
        mut block: TableChanges,
        verdicts: &mut Verdicts,
    ) -> Result<Option<TableChanges>, SqlError> {
        let at = self.target(&block)?;
        let target = &self.targets[at];
        if target.waits {
            self.later.push(block);
            return Ok(None);
        }
        if target.failures >= FAILURES_MAX || !self.suits(at, &mut block)? {
            return Ok(Some(block));
        }
        match self.write(at, &block, verdicts) {
            Ok(()) => Ok(None),
            Err(error) if error.is_transient() => Err(error),
            Err(error) if error.is_foreign_key() => {
                self.targets[at].waits = true;
                self.later.push(block);
                Ok(None)
            }
            Err(_) => {
                self.targets[at].failures += 1;
                Ok(Some(block))
            }
        }
    }

    /// Writes the blocks that waited for their parents, and gives back those that cannot go this way after all.
    pub fn finish(&mut self, verdicts: &mut Verdicts) -> Result<Vec<TableChanges>, SqlError> {
        let mut refused = Vec::new();
        let mut later = std::mem::take(&mut self.later);
        // Parents first; blocks of one table stay in their order.
        later.sort_by_key(|block| self.schema.tables.iter().position(|(table, _, _)| table.name == block.table));
        for target in &mut self.targets {
            target.waits = false;
        }
        for block in later {
            refused.extend(self.offer(block, verdicts)?);
        }
        refused.append(&mut self.later);
        if self.has_deferrable {
            probe()?;
        }
        Ok(refused)
    }

    /// Whether nothing was written.
    pub fn is_empty(&self) -> bool {
        self.written.is_empty()
    }

    /// Tables that rows written here may refer to.
    pub fn referred_to(&self) -> Result<Vec<Rc<Table>>, SqlError> {
        let mut tables: Vec<Rc<Table>> = Vec::new();
        for way in self.targets.iter().filter(|target| target.wrote).filter_map(|target| target.way.as_ref()) {
            for reference in &way.table.references {
                tables.extend(catalog::table(reference.parent)?);
            }
        }
        Ok(tables)
    }

    /// Whether a row was written here. Meant to be asked after `finish`; a false alarm (hashes) costs time and nothing else.
    pub fn wrote(&mut self) -> impl Fn(&Table, &Key) -> bool + '_ {
        self.written.sort_unstable();
        |table, key| {
            let mut packed = Vec::with_capacity(40);
            keys::pack(&mut packed, &key.0);
            self.written.binary_search(&hash(table, &packed)).is_ok()
        }
    }

    fn target(&mut self, block: &TableChanges) -> Result<usize, SqlError> {
        let known =
            self.targets.iter().position(|target| target.name == block.table && target.columns == block.columns);
        if let Some(at) = known {
            return Ok(at);
        }
        let way = self.way(block)?;
        self.targets.push(Into {
            name: block.table.clone(),
            columns: block.columns.clone(),
            way,
            failures: 0,
            waits: false,
            wrote: false,
            floor: Hlc::default(),
        });
        Ok(self.targets.len() - 1)
    }

    /// How rows of this table can be written without looking at each, if they can.
    fn way(&self, block: &TableChanges) -> Result<Option<Way>, SqlError> {
        let Some((table, rules, _)) = self.schema.find(&block.table) else { return Ok(None) };
        if matches!(self.schema.direction(&block.table), "pull" | "none")
            || rules.on_reject == OnReject::Strict
            || !table.stores_as_written
        {
            return Ok(None);
        }
        for reference in table.references.iter().filter(|reference| reference.parent != table.oid) {
            // A parent that is marked as deleted satisfies the foreign key, and is missing all the same.
            if catalog::table(reference.parent)?.is_some_and(|parent| parent.soft_delete) {
                return Ok(None);
            }
        }
        if table.soft_delete && table.references.iter().any(|reference| reference.parent == table.oid) {
            return Ok(None);
        }
        let Some(key_places) = key_places(&table, block) else { return Ok(None) };
        let targets = convert::targets(&table, &block.columns);
        let key_len = usize::from(block.key_len);
        let mut fields = Vec::new();
        for (place, target) in targets.iter().enumerate().skip(key_len) {
            match target {
                Target::Field(at) => fields.push((place - key_len, *at)),
                Target::Ignored => {}
                Target::Unknown => return Ok(None),
            }
        }
        // A column that the device does not have gets its default here, which the device would have to be told.
        let all = table.travelling().filter(|(at, _)| !table.key.contains(at)).count();
        let distinct: HashSet<usize> = fields.iter().map(|(_, at)| *at).collect();
        if distinct.len() != all || fields.len() != all || fields.iter().any(|(_, at)| table.key.contains(at)) {
            return Ok(None);
        }
        let has_tombstones = state::has_tombstones(&table)?;
        let width = targets.len() - key_len;
        Ok(Some(Way { table, targets, key_places, fields, width, has_tombstones }))
    }

    /// Whether a block is new rows and nothing else. Brings its values into the hub's form.
    fn suits(&self, at: usize, block: &mut TableChanges) -> Result<bool, SqlError> {
        let Some(way) = &self.targets[at].way else { return Ok(false) };
        let key_len = usize::from(block.key_len);
        let whole = block.changes.iter().all(|change| {
            change.op == Op::Insert
                && change.clock > self.client.watermark
                && change.fields.len() == way.width
                && change.fields.iter().zip(key_len..).all(|(field, place)| usize::from(field.column) == place)
        });
        if !whole || !take_hub_form(way, block)? {
            return Ok(false);
        }
        let table = &way.table;
        let has_news = |key: &Key| self.waiting.contains(&(table.table_id, table.row_id(key)));
        if !self.waiting.is_empty() && block.changes.iter().any(|change| has_news(&way.key(&change.key))) {
            return Ok(false);
        }
        if way.has_tombstones {
            let keys: Vec<Key> = block.changes.iter().map(|change| way.key(&change.key)).collect();
            return Ok(state::tombstones(table, keys.iter())?.is_empty());
        }
        Ok(true)
    }

    /// Writes a block and notes what came of it.
    fn write(&mut self, at: usize, block: &TableChanges, verdicts: &mut Verdicts) -> Result<(), SqlError> {
        let target = &mut self.targets[at];
        let Some(way) = &target.way else { return Ok(()) };
        let mut floor = target.floor;
        // In the device's order: a corrected clock is never behind the one before.
        let clocks: Vec<Hlc> = block
            .changes
            .iter()
            .map(|change| {
                floor = floor.max(self.correction.correct(change.clock));
                floor
            })
            .collect();
        // By ascending key, as everywhere; the index is glad of it, too.
        let mut order: Vec<usize> = (0..block.changes.len()).collect();
        order.sort_unstable_by(|one, other| block.changes[*one].key.cmp(&block.changes[*other].key));
        let written = subtransaction(|| insert(way, block, &order, &clocks, self.version, self.client))?;
        if written != block.changes.len() as u64 {
            return Err(SqlError::new("XX000", "a finished row was not written"));
        }
        target.floor = floor;
        target.wrote = true;
        self.has_deferrable |= way.table.has_deferrable;
        let mut packed = Vec::with_capacity(40);
        for change in &block.changes {
            packed.clear();
            keys::pack(&mut packed, way.key_parts(&change.key));
            self.written.push(hash(&way.table, &packed));
            feed::note_as_sent(way.table.table_id, &packed);
        }
        let mut rest = block.changes.iter();
        while verdicts.names_applied() {
            let Some(change) = rest.next() else { return Ok(()) };
            verdicts.applied(&way.table, &way.key(&change.key), Op::Insert, change.count);
        }
        let rows = rest.len() as u64;
        verdicts.applied_unnamed(&way.table, Op::Insert, rows, rest.map(|change| u64::from(change.count)).sum());
        Ok(())
    }
}

impl Way {
    /// The parts of a key, in the hub's order.
    fn key_parts<'k>(&'k self, key: &'k Key) -> impl Iterator<Item = &'k Value> {
        self.key_places.iter().filter_map(|place| key.0.get(*place))
    }

    fn key(&self, key: &Key) -> Key {
        Key(self.key_parts(key).cloned().collect())
    }
}

fn hash(table: &Table, packed: &[u8]) -> u64 {
    xxhash_rust::xxh3::xxh3_64_with_seed(packed, table.table_id as u64)
}

/// Puts the hub's form in the place of every value. False, and nothing is touched: one of them has none, or another one than the
/// device has, which it has to be told.
fn take_hub_form(way: &Way, block: &mut TableChanges) -> Result<bool, SqlError> {
    let table = &way.table;
    let holds = |at: usize, value: &Value| table.columns[at].column_type.holds(value);
    let ready = block.changes.iter().all(|change| {
        way.key_places
            .iter()
            .zip(&table.key)
            .all(|(place, at)| change.key.0.get(*place).is_some_and(|part| holds(*at, part)))
            && way.fields.iter().all(|(place, at)| holds(*at, &change.fields[*place].new))
    });
    if ready {
        return Ok(true);
    }
    let converter = Converter::of(table, &way.targets, block)?;
    let mut converted = Vec::new();
    let mut convert = |at: usize, value: &Value| {
        if holds(at, value) {
            return true;
        }
        let Ok(held) = converter.value(at, value.clone()) else { return false };
        let as_sent = !convert::is_told(table.columns[at].column_type.kind, value, &held);
        converted.push(held);
        as_sent
    };
    let all = block.changes.iter().all(|change| {
        way.key_places
            .iter()
            .zip(&table.key)
            .all(|(place, at)| change.key.0.get(*place).is_some_and(|part| convert(*at, part)))
            && way.fields.iter().all(|(place, at)| convert(*at, &change.fields[*place].new))
    });
    if !all {
        return Ok(false);
    }
    let mut converted = converted.into_iter();
    let mut put = |at: usize, value: &mut Value| {
        if !holds(at, value) {
            *value = converted.next().unwrap_or_default();
        }
    };
    for change in &mut block.changes {
        for (place, at) in way.key_places.iter().zip(&table.key) {
            change.key.0.get_mut(*place).into_iter().for_each(|part| put(*at, part));
        }
        way.fields.iter().for_each(|(place, at)| put(*at, &mut change.fields[*place].new));
    }
    Ok(true)
}

/// The parameters of the one statement.
#[derive(Default)]
struct Columns<'a> {
    arrays: Vec<Array<'a>>,
    unnested: Vec<String>,
    names: Vec<String>,
    sources: Vec<String>,
}

impl<'a> Columns<'a> {
    fn add(&mut self, column: &Column, values: impl Iterator<Item = &'a Value> + Clone) -> Result<(), SqlError> {
        let (array, form, source) = match form_of(column, values.clone()) {
            Some(instants) => (instants, "pg_catalog.timestamptz", None),
            None => {
                (Array::of(&column.column_type, values)?, column.column_type.param_type(), Some(&column.column_type))
            }
        };
        let place = self.arrays.len();
        let element = format!("s.c{place}");
        self.unnested.push(format!("pg_catalog.unnest(${}::{form}[]) AS c{place}", place + 1));
        self.sources.push(source.map_or_else(|| element.clone(), |column_type| column_type.param_to_sql(&element)));
        self.names.push(ident(&column.name));
        self.arrays.push(array);
        Ok(())
    }
}

/// Instants as numbers, where that is what they are: Postgres would have to read each text again.
fn form_of<'a>(column: &Column, values: impl Iterator<Item = &'a Value>) -> Option<Array<'a>> {
    column.column_type.is_plain_instant().then(|| Array::of_instants(values)).flatten()
}

/// Inserts a block's rows, finished. Overwrites nothing: a key that is taken is an error.
fn insert(
    way: &Way,
    block: &TableChanges,
    order: &[usize],
    clocks: &[Hlc],
    version: u64,
    client: &Client,
) -> Result<u64, SqlError> {
    let table = &way.table;
    let mut columns = Columns::default();
    for (place, at) in way.key_places.iter().zip(&table.key) {
        columns.add(&table.columns[*at], order.iter().map(|row| &block.changes[*row].key.0[*place]))?;
    }
    for (place, at) in &way.fields {
        columns.add(&table.columns[*at], order.iter().map(|row| &block.changes[*row].fields[*place].new))?;
    }
    let stamps: Vec<Vec<u8>> =
        order.iter().map(|row| RowClocks::new(Stamp::first(version, clocks[*row], client.number)).to_bytes()).collect();
    let stamps: Vec<Option<&[u8]>> = stamps.iter().map(|bytes| Some(bytes.as_slice())).collect();
    let times: Vec<Option<i64>> = order.iter().map(|row| Some(microseconds(clocks[*row]))).collect();
    let count = columns.arrays.len();
    let statement = format!(
        "INSERT INTO {} ({}, fieldsync_clocks, sync_modified_at, sync_version, sync_origin_client, sync_deleted)
         OVERRIDING SYSTEM VALUE
         SELECT {}, s.clocks, s.made, ${}, ${}, false
         FROM (SELECT {}, pg_catalog.unnest(${}::pg_catalog.bytea[]) AS clocks,
                      pg_catalog.unnest(${}::pg_catalog.timestamptz[]) AS made) AS s",
        table.qualified,
        columns.names.join(", "),
        columns.sources.join(", "),
        count + 3,
        count + 4,
        columns.unnested.join(", "),
        count + 1,
        count + 2,
    );
    let mut params: Vec<Param<'_>> = columns.arrays.iter().map(Array::param).collect();
    params.extend([
        Param::Blobs(&stamps),
        Param::Instants(&times),
        Param::Int(version as i64),
        Param::Text(&client.client_id),
    ]);
    let _engine = Engine::writes();
    let _finished = FinishedRows::into_table(table.oid);
    Ok(sql::run(&statement, &params)?.processed)
}
