//! The application whose data the histories are about: text and integer keys, foreign keys (one to itself), a UNIQUE code,
//! a CHECK, a counter, exact money, a set, and a column that is added later.

use fastrand::Rng;
use fieldsync_core::rules::{Detection, FieldStrategy, OnDelete, OnSameKey, Strategy, TableRules};
use fieldsync_core::value::Kind;
use fieldsync_core::{Key, Value};

/// Number of a table.
pub type Table = usize;
/// A row's name.
pub type RowName = (Table, Key);
/// A row's values by column; the key's place is unused.
pub type Row = Vec<Value>;

/// One table.
pub struct Shape {
    /// Its name.
    pub name: &'static str,
    /// Columns after the key, with what the hub holds in them. The column's number is its place, from 1.
    pub columns: &'static [(&'static str, Kind)],
    /// Foreign keys: column number, parent.
    pub parents: &'static [(u16, Table)],
}

/// Persons: text keys, a UNIQUE code.
pub const PERSON: Table = 0;
/// Visits: integer keys, money, a person each.
pub const VISIT: Table = 1;
/// Places: text keys, a tree.
pub const PLACE: Table = 2;
/// Stock: counters that must come out exactly.
pub const STOCK: Table = 3;

/// The column `person.code`, UNIQUE.
pub const CODE: u16 = 2;
/// The column `visit.amount`.
pub const AMOUNT: u16 = 2;
/// The column `place.extra`, which is added during a history.
pub const EXTRA: u16 = 3;
/// The column `stock.quantity`.
pub const QUANTITY: u16 = 1;
/// What the hub's CHECK refuses in `person.name` and `visit.status`.
pub const REFUSED: &str = "refused";

/// All tables, parents first.
pub const TABLES: [Shape; 4] = [
    Shape {
        name: "person",
        columns: &[
            ("name", Kind::Text),
            ("code", Kind::Text),
            ("best", Kind::Int),
            ("tags", Kind::Array),
            ("note", Kind::Text),
        ],
        parents: &[],
    },
    Shape {
        name: "visit",
        columns: &[("person", Kind::Text), ("amount", Kind::Numeric), ("status", Kind::Text)],
        parents: &[(1, PERSON)],
    },
    Shape {
        name: "place",
        columns: &[("parent", Kind::Text), ("title", Kind::Text), ("extra", Kind::Int)],
        parents: &[(1, PLACE)],
    },
    Shape { name: "stock", columns: &[("quantity", Kind::Int)], parents: &[] },
];

/// The kinds of a table's columns, the key's first.
pub fn kinds(table: Table) -> Vec<Kind> {
    let key = if table == VISIT { Kind::Int } else { Kind::Text };
    std::iter::once(key).chain(TABLES[table].columns.iter().map(|(_, kind)| *kind)).collect()
}

/// The names of a table's first columns, the key's first.
pub fn names(table: Table, width: u16) -> Vec<String> {
    let columns = TABLES[table].columns.iter().take(usize::from(width)).map(|(name, _)| (*name).to_owned());
    std::iter::once("id".to_owned()).chain(columns).collect()
}

/// Columns after the key.
pub fn width(table: Table) -> u16 {
    TABLES[table].columns.len() as u16
}

/// The row that a value refers to.
pub fn parent_of(table: Table, column: u16, row: &Row) -> Option<RowName> {
    let (_, parent) = TABLES[table].parents.iter().find(|(child, _)| *child == column)?;
    let value = &row[usize::from(column)];
    (!value.is_null()).then(|| (*parent, Key(vec![value.clone()])))
}

/// All rows that a row refers to.
pub fn parents_of(table: Table, row: &Row) -> Vec<RowName> {
    TABLES[table].parents.iter().filter_map(|(column, _)| parent_of(table, *column, row)).collect()
}

/// The UNIQUE value of a row.
pub fn code_of(table: Table, row: &Row) -> Option<&Value> {
    (table == PERSON).then(|| &row[usize::from(CODE)]).filter(|code| !code.is_null())
}

/// Whether the hub's CHECK refuses the row.
pub fn is_refused(table: Table, row: &Row) -> bool {
    let checked = match table {
        PERSON => 1,
        VISIT => 3,
        _ => return false,
    };
    matches!(&row[checked], Value::Text(text) if text == REFUSED)
}

/// Rules for all tables.
pub fn rules(rng: &mut Rng) -> Vec<TableRules> {
    let plain = rng.bool();
    TABLES
        .iter()
        .enumerate()
        .map(|(table, shape)| {
            let mut rules = TableRules::default();
            if table == STOCK {
                rules.fields.insert(QUANTITY, FieldStrategy::Sum);
                return rules;
            }
            if !plain {
                rules.detection = pick(rng, Detection::ALL);
                rules.strategy = pick(rng, Strategy::ALL);
                rules.on_delete = pick(rng, OnDelete::ALL);
                rules.on_same_key = (rng.u8(..4) == 0).then(|| pick(rng, OnSameKey::ALL));
                if rng.u8(..3) == 0 {
                    rules.merge_fields = Some((1..=width(table)).filter(|_| rng.bool()).collect());
                }
            }
            for (at, (_, kind)) in shape.columns.iter().enumerate() {
                let fitting: &[FieldStrategy] = match kind {
                    Kind::Array => &[FieldStrategy::Union],
                    Kind::Int => &[FieldStrategy::Max, FieldStrategy::Min, FieldStrategy::ServerWins],
                    Kind::Numeric => &[FieldStrategy::Sum],
                    _ => &[FieldStrategy::LastWriteWins, FieldStrategy::ClientWins, FieldStrategy::Manual],
                };
                let chance = if matches!(kind, Kind::Text) { 8 } else { 2 };
                if rng.u8(..chance) == 0 {
                    rules.fields.insert(at as u16 + 1, pick(rng, fitting));
                }
            }
            rules
        })
        .collect()
}

/// One of several.
pub fn pick<T: Clone>(rng: &mut Rng, from: &[T]) -> T {
    from[rng.usize(..from.len())].clone()
}
