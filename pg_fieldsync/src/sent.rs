//! What the device has just sent, as far as it decides what travels back: the rules are in [`fieldsync_core::travel`].

use crate::catalog::Table;
use crate::feed::Xxh3;
use crate::pull::Asked;
use crate::work::Item;
use fieldsync_core::clocks::RowClocks;
use fieldsync_core::delta::Op;
use fieldsync_core::merge::HubState;
use fieldsync_core::reply::RowChange;
use fieldsync_core::rules::{FieldStrategy, TableRules};
use fieldsync_core::{travel, Hlc, Key, Value};
use std::collections::{HashMap, HashSet};
use std::hash::BuildHasherDefault;

/// What the device sent of one table.
pub struct Sent<'a> {
    /// Its rows.
    pub items: HashMap<&'a Key, &'a Item, BuildHasherDefault<Xxh3>>,
    /// Columns under a `sum` rule: the device rebases them without a log entry, so what it sent is not what it shows.
    sums: HashSet<u16>,
    /// Rows that travel because an entry in the conflicts has been settled.
    pub settled: HashSet<&'a Key>,
    /// Rows that the device asks for.
    pub wanted: HashSet<&'a Key>,
    /// Rows that were written exactly as sent: nothing to look at.
    pub exact: HashSet<&'a Key, BuildHasherDefault<Xxh3>>,
}

impl<'a> Sent<'a> {
    /// Looks through a delta's changes of one table.
    pub fn of(table: &Table, rules: &TableRules, asked: &Asked<'a>) -> Sent<'a> {
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
    pub fn misspelt(&self) -> impl Iterator<Item = RowChange> + '_ {
        let live =
            |item: &&&Item| item.merged.rejected.is_none() && matches!(item.merged.after, Some(HubState::Live(_)));
        let keys = self.items.values().filter(live).filter_map(|item| item.sent_as.clone());
        keys.map(RowChange::deletion)
    }

    /// What the delta has to do with a row, if anything, and if the hub took it.
    pub fn accepted(&self, key: &Key) -> Option<&'a Item> {
        self.items.get(key).copied().filter(|item| item.merged.rejected.is_none())
    }

    /// Whether a row travels for itself: the device asks for it, or an entry about it has been settled.
    pub fn is_named(&self, key: &Key) -> bool {
        self.wanted.contains(key) || self.settled.contains(key)
    }

    /// Keys whose outcome may differ from what the device has.
    pub fn to_compare(&self) -> impl Iterator<Item = Key> + '_ {
        self.items
            .iter()
            .filter(|(key, item)| item.merged.rejected.is_none() && !item.is_taken_back && !self.exact.contains(*key))
            .map(|(key, _)| (*key).clone())
            .chain(self.wanted.iter().map(|key| (*key).clone()))
            .chain(self.settled.iter().map(|key| (*key).clone()))
    }
}

/// A row as the hub has it.
pub struct Row {
    /// Its key.
    pub key: Key,
    /// Its clocks.
    pub clocks: RowClocks,
    /// Whether it is marked as deleted.
    pub is_deleted: bool,
    /// Its other values, by field number.
    pub values: Vec<(u16, Value)>,
}

impl travel::Sent for Item {
    fn says_anything(&self) -> bool {
        !self.changes.is_empty() || self.repeated_whole || !self.repeated.is_empty()
    }

    fn made_it(&self) -> bool {
        self.inserted && !self.took_it_away()
    }

    fn took_it_away(&self) -> bool {
        Item::took_it_away(self)
    }

    fn needs_it_whole(&self) -> bool {
        self.repeated_whole || self.merged.whole || self.sent_as.is_some()
    }

    fn says(&self, field: u16) -> Option<&Value> {
        self.echo(field)
    }

    fn repeats(&self, field: u16) -> bool {
        self.repeated.contains(&field)
    }

    fn must_hear(&self, field: u16) -> bool {
        self.told.contains(&field)
    }
}

/// What of a row travels, if anything; `whole_rows`: all of it then. Fields by number.
pub fn travels(
    table: &Table,
    row: Row,
    asked: &Asked<'_>,
    sent: &Sent<'_>,
    whole_rows: bool,
    clock: &mut Hlc,
) -> Option<RowChange> {
    let reader = asked.reader();
    let named = sent.is_named(&row.key);
    let accepted = sent.accepted(&row.key);
    let mark = row.clocks.stamped().find(|(number, _)| *number == table.deleted_number).map(|(_, stamp)| stamp);
    if row.is_deleted {
        let deletion = row.clocks.field(table.deleted_number);
        if !reader.hears_of_deletion(deletion.version, named, accepted) {
            return None;
        }
        *clock = (*clock).max(deletion.clock);
        return Some(RowChange::deletion(row.key));
    }
    let hears = |(number, value): &(u16, Value)| {
        reader.hears_of_field(&row.clocks, *number, value, sent.sums.contains(number), accepted)
    };
    let whole = reader.needs_whole(&row.clocks, mark.map(|stamp| stamp.version), named, accepted)
        || (whole_rows && row.values.iter().any(&hears));
    let fields: Vec<(u16, Value)> = row.values.into_iter().filter(|field| whole || hears(field)).collect();
    for (number, _) in &fields {
        *clock = (*clock).max(row.clocks.field(*number).clock);
    }
    if whole {
        return Some(RowChange { op: Op::Insert, key: row.key, fields });
    }
    (!fields.is_empty()).then_some(RowChange { op: Op::Update, key: row.key, fields })
}
