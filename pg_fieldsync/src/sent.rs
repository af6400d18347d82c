//! What of a row travels, given what the device has just sent.
//!
//! Invariants:
//! * A field travels if its stamp is not visible in the device's cursor; which writer it was does not matter. It is left
//!   out only if the device, by this very delta, has that value already.
//! * Whatever the device sent and the hub holds otherwise goes back, visible or not.

use crate::catalog::Table;
use crate::feed::Xxh3;
use crate::pull::Asked;
use crate::work::Item;
use fieldsync_core::clocks::RowClocks;
use fieldsync_core::delta::Op;
use fieldsync_core::merge::HubState;
use fieldsync_core::reply::RowChange;
use fieldsync_core::rules::{FieldStrategy, TableRules};
use fieldsync_core::{Hlc, Key, Value};
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

    /// Keys whose outcome may differ from what the device has.
    pub fn to_compare(&self) -> impl Iterator<Item = Key> + '_ {
        self.items
            .iter()
            .filter(|(key, item)| item.merged.rejected.is_none() && !self.exact.contains(*key))
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

/// Whether the delta holds any change of the row, answered before or not.
pub fn has_news(item: &Item) -> bool {
    !item.changes.is_empty() || item.repeated_whole || !item.repeated.is_empty()
}

/// What of a row travels, if anything. Fields by number.
pub fn travels(table: &Table, row: Row, asked: &Asked<'_>, sent: &Sent<'_>, clock: &mut Hlc) -> Option<RowChange> {
    let unseen = |version: u64| asked.cursor.is_none_or(|cursor| !cursor.visible(version));
    let item = sent.items.get(&row.key).copied();
    let accepted = item.filter(|item| item.merged.rejected.is_none());
    let deletion = row.clocks.field(table.deleted_number);
    if row.is_deleted {
        let knows = accepted.is_some_and(|item| item.took_it_away());
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
        return Some(RowChange::deletion(row.key));
    }
    let inserted_unseen = unseen(row.clocks.insert.version)
        // Marked as deleted and back again: the device may have dropped it.
        || row.clocks.stamped().any(|(number, stamp)| number == table.deleted_number && unseen(stamp.version));
    let has_whole = accepted.is_some_and(|item| item.inserted && !item.took_it_away());
    let wants_whole = sent.wanted.contains(&row.key)
        || sent.settled.contains(&row.key)
        || accepted.is_some_and(|item| {
            item.repeated_whole
                || item.merged.whole
                || item.sent_as.is_some()
                || (item.took_it_away() && !item.changes.is_empty())
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
