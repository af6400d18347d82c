//! The application whose data the histories are about: text and integer keys, foreign keys (one to itself), a UNIQUE code,
//! a composite key that refers to a parent, a CHECK, a counter, exact money, a set, and a column that is added later. The same
//! application on real databases: tests/histories/schema.py.

use fastrand::Rng;
use fieldsync_core::rules::{Detection, FieldStrategy, OnDelete, OnReject, OnSameKey, Strategy, TableRules};
use fieldsync_core::value::Kind;
use fieldsync_core::{Key, Value};

/// Number of a table.
pub type Table = usize;
/// A row's name.
pub type RowName = (Table, Key);
/// A row's values by column; the key's places are unused.
pub type Row = Vec<Value>;

/// One table.
pub struct Shape {
    /// Its name.
    pub name: &'static str,
    /// The key's columns.
    pub key: &'static [(&'static str, Kind)],
    /// Columns after the key, with what the hub holds in them. A column's number is its place, the key's among them.
    pub columns: &'static [(&'static str, Kind)],
    /// Foreign keys: column number (a part of the key's, maybe), parent.
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
/// Attendance: a person on a day.
pub const ATTENDANCE: Table = 4;
/// Memos: by themselves, with a column that is added late.
pub const MEMO: Table = 5;

/// The column `person.code`, UNIQUE.
pub const CODE: u16 = 2;
/// The column `visit.amount`.
pub const AMOUNT: u16 = 2;
/// The column `memo.extra`, which is added during a history.
pub const EXTRA: u16 = 2;
/// The column `stock.quantity`.
pub const QUANTITY: u16 = 1;
/// What the hub's CHECK refuses in `person.name` and `visit.status`.
pub const REFUSED: &str = "refused";

/// All tables, parents first.
pub const TABLES: [Shape; 6] = [
    Shape {
        name: "person",
        key: &[("id", Kind::Text)],
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
        key: &[("id", Kind::Int)],
        columns: &[("person", Kind::Text), ("amount", Kind::Numeric), ("status", Kind::Text)],
        parents: &[(1, PERSON)],
    },
    Shape {
        name: "place",
        key: &[("id", Kind::Text)],
        columns: &[("parent", Kind::Text), ("title", Kind::Text)],
        parents: &[(1, PLACE)],
    },
    Shape { name: "stock", key: &[("id", Kind::Text)], columns: &[("quantity", Kind::Int)], parents: &[] },
    Shape {
        name: "attendance",
        key: &[("person", Kind::Text), ("day", Kind::Int)],
        columns: &[("status", Kind::Text), ("hours", Kind::Int)],
        parents: &[(0, PERSON)],
    },
    Shape {
        name: "memo",
        key: &[("id", Kind::Text)],
        columns: &[("body", Kind::Text), ("extra", Kind::Text)],
        parents: &[],
    },
];

/// The kinds of a table's columns, the key's first.
pub fn kinds(table: Table) -> Vec<Kind> {
    TABLES[table].key.iter().chain(TABLES[table].columns).map(|(_, kind)| *kind).collect()
}

/// The names of a table's first columns, the key's first.
pub fn names(table: Table, width: u16) -> Vec<String> {
    let all = TABLES[table].key.iter().chain(TABLES[table].columns);
    all.take(usize::from(width) + 1).map(|(name, _)| (*name).to_owned()).collect()
}

/// A column's name.
pub fn column_name(table: Table, number: u16) -> &'static str {
    let key = TABLES[table].key;
    let at = usize::from(number);
    key.get(at).unwrap_or_else(|| &TABLES[table].columns[at - key.len()]).0
}

/// The table that a column refers to.
pub fn parent_table(table: Table, number: u16) -> Option<Table> {
    TABLES[table].parents.iter().find(|(column, _)| *column == number).map(|(_, parent)| *parent)
}

/// The number of a table's last column.
pub fn width(table: Table) -> u16 {
    (TABLES[table].key.len() + TABLES[table].columns.len()) as u16 - 1
}

/// How many columns the key has.
pub fn key_len(table: Table) -> u16 {
    TABLES[table].key.len() as u16
}

/// The numbers of the columns after the key, up to the last known one.
pub fn fields(table: Table, width: u16) -> std::ops::RangeInclusive<u16> {
    key_len(table)..=width
}

/// A row of NULLs.
pub fn blank(table: Table) -> Row {
    vec![Value::Null; usize::from(width(table)) + 1]
}

/// The row that a value refers to.
fn parent_of(name: &RowName, column: u16, parent: Table, row: &Row) -> Option<RowName> {
    let in_key = column < key_len(name.0);
    let value = if in_key { &name.1 .0[usize::from(column)] } else { &row[usize::from(column)] };
    (!value.is_null()).then(|| (parent, Key(vec![value.clone()])))
}

/// All rows that a row refers to.
pub fn parents_of(name: &RowName, row: &Row) -> Vec<RowName> {
    TABLES[name.0].parents.iter().filter_map(|(column, parent)| parent_of(name, *column, *parent, row)).collect()
}

/// Whether a row refers to another one.
pub fn refers_to(name: &RowName, row: &Row, other: &RowName) -> bool {
    TABLES[name.0].parents.iter().any(|(column, parent)| {
        *parent == other.0 && {
            let in_key = *column < key_len(name.0);
            let value = if in_key { &name.1 .0[usize::from(*column)] } else { &row[usize::from(*column)] };
            *value == other.1 .0[0]
        }
    })
}

/// The UNIQUE value of a row.
pub fn code_of(table: Table, row: &Row) -> Option<&Value> {
    (table == PERSON).then(|| &row[usize::from(CODE)]).filter(|code| !code.is_null())
}

fn checked(table: Table) -> Option<u16> {
    match table {
        PERSON => Some(1),
        VISIT => Some(3),
        ATTENDANCE => Some(2),
        _ => None,
    }
}

/// Whether the hub has a CHECK on the column.
pub fn is_checked(table: Table, column: u16) -> bool {
    checked(table) == Some(column)
}

/// Whether the hub's CHECK refuses the row.
pub fn is_refused(table: Table, row: &Row) -> bool {
    checked(table).is_some_and(|at| matches!(&row[usize::from(at)], Value::Text(text) if text == REFUSED))
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
                if rng.u8(..6) == 0 {
                    rules.on_reject = OnReject::Strict;
                }
                if rng.u8(..3) == 0 {
                    rules.merge_fields = Some(fields(table, width(table)).filter(|_| rng.bool()).collect());
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
                    rules.fields.insert(key_len(table) + at as u16, pick(rng, fitting));
                }
            }
            rules
        })
        .collect()
}

/// The column, by table, whose greater value makes the hub's side the later one under `timestamp_compare`.
pub fn priorities(rng: &mut Rng) -> [Option<u16>; TABLES.len()] {
    let mut found = [None; TABLES.len()];
    for (table, column) in [(PERSON, 3), (ATTENDANCE, 3)] {
        found[table] = (rng.u8(..3) == 0).then_some(column);
    }
    found
}

/// Tables that nothing refers to, and that can therefore be marked as deleted row by row, or truncated.
pub const LEAVES: [Table; 3] = [VISIT, ATTENDANCE, MEMO];

/// Tables whose rows an application may give another key or REPLACE: nothing refers to them, and only their keys are unique.
pub const MOVING: [Table; 2] = [ATTENDANCE, MEMO];

/// Whether deletion is soft, by table.
pub fn soft(rng: &mut Rng) -> [bool; TABLES.len()] {
    let mut found = [false; TABLES.len()];
    for table in LEAVES {
        found[table] = rng.u8(..3) == 0;
    }
    found
}

/// One of several.
pub fn pick<T: Clone>(rng: &mut Rng, from: &[T]) -> T {
    from[rng.usize(..from.len())].clone()
}
