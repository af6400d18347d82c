//! Reading one table's rows for a device.
//!
//! Invariants:
//! * Rows are read in portions under the pull's one snapshot, and kept packed: a first sync is no larger in memory than what
//!   travels.
//! * Rows are read with the caller's privileges. A deletion reveals a key and no more, also where a policy hides rows that are marked.

use crate::arrays::Array;
use crate::catalog::Table;
use crate::catch::SqlError;
use crate::guards::{AsOwner, AsUser};
use crate::hidden::has_policies;
use crate::keys::{self, Recorded};
use crate::pull::Asked;
use crate::sent::{travels, Row, Sent};
use crate::sql::{self, ident, Cells, Param};
use crate::state::{key_arrays, key_join};
use crate::tombstone;
use fieldsync_core::delta::Op;
use fieldsync_core::merge::HubState;
use fieldsync_core::reply::RowChange;
use fieldsync_core::rules::TableRules;
use fieldsync_core::wire::PackedRows;
use fieldsync_core::{Hlc, Key, Value};
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

/// What has been gathered of one table.
pub struct Gathering<'a> {
    table: &'a Table,
    asked: &'a Asked<'a>,
    sent: Sent<'a>,
    /// Rows with any news travel whole.
    whole_rows: bool,
    /// Numbers of the fields that travel, in their order.
    numbers: Vec<u16>,
    /// Where a field stands in the reply.
    places: HashMap<u16, u16>,
    rows: PackedRows,
    clock: Hlc,
}

impl<'a> Gathering<'a> {
    /// Nothing yet.
    pub fn new(table: &'a Table, rules: &TableRules, asked: &'a Asked<'a>, whole_rows: bool) -> Gathering<'a> {
        let order = table.reply_order();
        let number = |at: &usize| table.columns[*at].number;
        Gathering {
            table,
            asked,
            sent: Sent::of(table, rules, asked),
            whole_rows,
            numbers: order[table.key.len()..].iter().map(number).collect(),
            places: order.iter().enumerate().map(|(place, at)| (number(at), place as u16)).collect(),
            rows: PackedRows::default(),
            clock: Hlc::default(),
        }
    }

    /// What was gathered, and the latest clock in it.
    pub fn end(mut self) -> (PackedRows, Hlc) {
        let gone = self.asked.gone.iter().filter(|(table_id, _)| *table_id == self.table.table_id);
        let gone = gone.map(|(_, key)| RowChange::deletion(key.clone()));
        for row in self.sent.misspelt().chain(gone).collect::<Vec<_>>() {
            self.add(row);
        }
        (self.rows, self.clock)
    }

    /// Looks at some rows, and at those that were sent.
    pub fn looked_at(&mut self, keys: Vec<Key>) -> Result<(), SqlError> {
        let news = keys.into_iter().chain(self.sent.to_compare());
        let keys: BTreeSet<Key> = news.filter(|key| !self.sent.exact.contains(key)).collect();
        self.by_keys(&keys)
    }

    /// Reads the table whole. `own`: what this transaction wrote is looked at by these keys only.
    pub fn whole(&mut self, own: Option<Vec<Key>>) -> Result<(), SqlError> {
        let (table, asked) = (self.table, self.asked);
        let query = format!(
            "SELECT {} FROM ONLY {} AS t WHERE (t.fieldsync_clocks IS NULL OR $1 OR t.sync_version OPERATOR(pg_catalog.>=) $2)
             AND (t.fieldsync_clocks IS NULL OR $3 OR t.sync_version OPERATOR(pg_catalog.<>) $4)",
            self.select_list(),
            table.qualified
        );
        let params = [
            Param::Bool(asked.cursor.is_none()),
            Param::Int(asked.cursor.map_or(0, |cursor| cursor.xmin) as i64),
            Param::Bool(own.is_none()),
            Param::Int(asked.own as i64),
        ];
        // What is not among the rows read is looked at by its key: what was sent or written by this transaction, and what is gone.
        let own = own.into_iter().flatten().filter(|key| !self.sent.exact.contains(key));
        let mut rest: BTreeSet<Key> = self.sent.to_compare().chain(own).collect();
        let mut buried = self.buried()?;
        let mut marked = self.marked()?;
        sql::read_portions(&query, &params, |portion| {
            for cells in portion {
                let row = self.row(cells, 0)?;
                rest.remove(&row.key);
                buried.remove(&row.key);
                marked.remove(&row.key);
                self.consider(row);
            }
            Ok(())
        })?;
        for (key, clock) in buried {
            self.clock = self.clock.max(clock);
            rest.insert(key);
        }
        rest.extend(marked);
        self.by_keys(&rest)
    }

    /// Rows that are marked as deleted and may be hidden by a policy.
    fn marked(&self) -> Result<BTreeSet<Key>, SqlError> {
        let tells = self.asked.cursor.is_some() || self.asked.deletions_too;
        if !tells || !has_policies(self.table)? {
            return Ok(BTreeSet::new());
        }
        let key = self.table.key.iter().map(|at| &self.table.columns[*at]);
        let parts: Vec<String> =
            key.map(|column| column.column_type.to_wire(&format!("t.{}", ident(&column.name)))).collect();
        let _owner = AsUser::owner_of_oid(self.table.oid);
        let rows = sql::read_set(
            &format!(
                "SELECT {} FROM ONLY {} AS t
                 WHERE t.sync_deleted AND (t.fieldsync_clocks IS NULL OR t.sync_version OPERATOR(pg_catalog.>=) $1)",
                parts.join(", "),
                self.table.qualified
            ),
            &[Param::Int(self.asked.cursor.map_or(0, |cursor| cursor.xmin) as i64)],
        )?;
        Ok(rows.rows.into_iter().map(Key).collect())
    }

    /// Those of some hidden rows that are marked as deleted, by their places.
    fn marked_among(&self, keys: &[&Key]) -> Result<Vec<(usize, Row)>, SqlError> {
        if !has_policies(self.table)? {
            return Ok(Vec::new());
        }
        let arrays: Vec<Array<'_>> = key_arrays(self.table, keys)?;
        let params: Vec<Param<'_>> = arrays.iter().map(Array::param).collect();
        let join = key_join(self.table, 1);
        let rows = {
            let _owner = AsUser::owner_of_oid(self.table.oid);
            sql::read_set(
                &format!(
                    "SELECT u.place, t.fieldsync_clocks FROM ONLY {} AS t JOIN {} ON {} WHERE t.sync_deleted",
                    self.table.qualified, join.source, join.condition
                ),
                &params,
            )?
        };
        let mut marked = Vec::with_capacity(rows.rows.len());
        for row in &rows.rows {
            let place = usize::try_from(row.int(0) - 1).unwrap_or(usize::MAX);
            let Some(key) = keys.get(place) else { continue };
            let clocks = self.table.clocks(row.bytes(1))?;
            marked.push((place, Row { key: Key::clone(key), clocks, is_deleted: true, values: Vec::new() }));
        }
        Ok(marked)
    }

    /// Deletions that the device has not seen, each with its clock. What was deleted under a key of other types than the table's travels as
    /// it was written down.
    fn buried(&mut self) -> Result<BTreeMap<Key, Hlc>, SqlError> {
        let from = match self.asked.cursor {
            Some(cursor) => cursor.xmin,
            None if self.asked.deletions_too => 0,
            None => return Ok(BTreeMap::new()),
        };
        let buried = {
            let _owner = AsOwner::new();
            sql::read_set(
                "SELECT row_id, version, clock FROM fieldsync.tombstone WHERE table_id = $1 AND version >= $2",
                &[Param::Int(i64::from(self.table.table_id)), Param::Int(from as i64)],
            )?
        };
        let mut unseen = BTreeMap::new();
        for row in &buried.rows {
            if self.asked.cursor.is_some_and(|cursor| cursor.visible(row.int(1) as u64)) {
                continue;
            }
            match keys::of_record(self.table, row.text(0))? {
                Recorded::Key(key) => drop(unseen.insert(key, Hlc::from_i64(row.int(2)))),
                Recorded::Former(key) if key.0.len() == self.table.key.len() => self.add(RowChange::deletion(key)),
                Recorded::Former(_) => {}
            }
        }
        Ok(unseen)
    }

    /// A row that was looked at under another spelling of its key (1.0 and 1.00 are one number, and two texts on a device): it travels
    /// under its own, and goes under the other.
    fn respelt(&mut self, asked: &Key, row: Row) {
        if !row.is_deleted {
            self.clock = self.clock.max(row.clocks.latest().clock);
            self.add(RowChange { op: Op::Insert, key: row.key, fields: row.values });
        }
        self.add(RowChange::deletion(asked.clone()));
    }

    /// Looks at rows by their keys; those that are gone may travel as deletions.
    fn by_keys(&mut self, keys: &BTreeSet<Key>) -> Result<(), SqlError> {
        if keys.is_empty() {
            return Ok(());
        }
        let keys: Vec<&Key> = keys.iter().collect();
        let arrays: Vec<Array<'_>> = key_arrays(self.table, &keys)?;
        let params: Vec<Param<'_>> = arrays.iter().map(Array::param).collect();
        let join = key_join(self.table, 1);
        let query = format!(
            "SELECT u.place, {} FROM ONLY {} AS t JOIN {} ON {}",
            self.select_list(),
            self.table.qualified,
            join.source,
            join.condition
        );
        let mut there = vec![false; keys.len()];
        sql::read_portions(&query, &params, |portion| {
            for cells in portion {
                let place = usize::try_from(cells.int(0) - 1).unwrap_or(usize::MAX);
                if let Some(slot) = there.get_mut(place) {
                    *slot = true;
                }
                let row = self.row(cells, 1)?;
                match keys.get(place) {
                    Some(asked) if **asked != row.key => self.respelt(asked, row),
                    _ => self.consider(row),
                }
            }
            Ok(())
        })?;
        let gone: Vec<&Key> = keys.iter().zip(&there).filter(|(_, there)| !**there).map(|(key, _)| *key).collect();
        self.deletions(&gone)
    }

    /// Deletions among keys whose rows are not to be seen.
    fn deletions(&mut self, keys: &[&Key]) -> Result<(), SqlError> {
        if keys.is_empty() {
            return Ok(());
        }
        let table = self.table;
        let by_row_id: HashMap<String, &Key> = keys.iter().map(|key| (table.row_id(key), *key)).collect();
        let ids: Vec<Option<&str>> = by_row_id.keys().map(|id| Some(id.as_str())).collect();
        let buried = {
            let _owner = AsOwner::new();
            sql::read_set(
                &format!(
                    "SELECT d.row_id, d.version, d.clock FROM fieldsync.tombstone d
                     JOIN unnest($2::text[]) AS u(row_id) ON {} WHERE d.table_id = $1",
                    tombstone::FOUND
                ),
                &[Param::Int(i64::from(table.table_id)), Param::Texts(&ids)],
            )?
        };
        let mut told: HashSet<&Key> = HashSet::new();
        for (place, row) in self.marked_among(keys)? {
            told.insert(keys[place]);
            self.consider(row);
        }
        for row in &buried.rows {
            let Some(key) = by_row_id.get(row.text(0)).copied().filter(|key| !told.contains(*key)) else { continue };
            let (named, accepted) = (self.sent.is_named(key), self.sent.accepted(key));
            if self.asked.reader().hears_of_deletion(row.int(1) as u64, named, accepted) {
                self.clock = self.clock.max(Hlc::from_i64(row.int(2)));
                self.add(RowChange::deletion(Key::clone(key)));
                told.insert(key);
            }
        }
        // Of some rows the hub has neither the row nor a tombstone.
        let mut absent: Vec<&Key> = Vec::new();
        for key in keys.iter().filter(|key| !told.contains(**key)) {
            // Repeating what was refused makes no row of it. What another copy made and took away in one delta left nothing here.
            let item = self.sent.items.get(*key);
            let news = item.is_some_and(|item| !item.changes.is_empty());
            // A trigger of the application's has given what was taken another key: it comes under that one.
            let rekeyed = !self.whole_rows
                && self.sent.accepted(key).is_some_and(|item| matches!(item.merged.after, Some(HubState::Live(_))));
            if (!news && self.sent.is_named(key)) || item.is_some_and(|item| item.is_a_copys()) || rekeyed {
                absent.push(key);
            }
        }
        let waiting = self.waiting(&absent)?;
        for key in absent.iter().filter(|key| !waiting.contains(&table.row_id(key))) {
            self.add(RowChange::deletion(Key::clone(key)));
        }
        Ok(())
    }

    /// Rows, among some, of which something of this client's waits for a person: on their device they stay as they are.
    fn waiting(&self, keys: &[&Key]) -> Result<HashSet<String>, SqlError> {
        if keys.is_empty() {
            return Ok(HashSet::new());
        }
        let ids: Vec<String> = keys.iter().map(|key| self.table.row_id(key)).collect();
        let ids: Vec<Option<&str>> = ids.iter().map(|id| Some(id.as_str())).collect();
        let _owner = AsOwner::new();
        let rows = sql::read_set(
            "SELECT row_id FROM fieldsync.conflict
             WHERE client_no = $1 AND table_id = $2 AND row_id = ANY ($3::text[]) AND status = 'open'",
            &[Param::Int(i64::from(self.asked.client)), Param::Int(i64::from(self.table.table_id)), Param::Texts(&ids)],
        )?;
        Ok(rows.rows.iter().map(|row| row.text(0).to_owned()).collect())
    }

    fn select_list(&self) -> String {
        let mut list = String::from("t.fieldsync_clocks, t.sync_deleted");
        for at in self.table.reply_order() {
            let column = &self.table.columns[at];
            list.push_str(", ");
            list.push_str(&column.column_type.to_wire(&format!("t.{}", ident(&column.name))));
        }
        list
    }

    fn row(&self, cells: Vec<Value>, skip: usize) -> Result<Row, SqlError> {
        let clocks = self.table.clocks(cells.bytes(skip))?;
        let is_deleted = cells.truth(skip + 1);
        let mut rest = cells.into_iter().skip(skip + 2);
        let key = Key(rest.by_ref().take(self.table.key.len()).collect());
        Ok(Row { key, clocks, is_deleted, values: self.numbers.iter().copied().zip(rest).collect() })
    }

    fn consider(&mut self, row: Row) {
        if let Some(row) = travels(self.table, row, self.asked, &self.sent, self.whole_rows, &mut self.clock) {
            self.add(row);
        }
    }

    /// Fields by number become fields by column of the reply.
    fn add(&mut self, mut row: RowChange) {
        row.fields.retain_mut(|(number, _)| match self.places.get(number) {
            Some(place) => {
                *number = *place;
                true
            }
            None => false,
        });
        self.rows.push(row);
    }
}
