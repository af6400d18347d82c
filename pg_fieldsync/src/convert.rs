//! A device's values, in the hub's form.
//!
//! Invariants:
//! * Values are compared only after they took the hub's own form, so what went there and back counts as unchanged.
//! * Only Postgres reads what only Postgres can read; each distinct value is asked once, in one statement per column.

use crate::catalog::{Table, SYNC_COLUMNS};
use crate::catch::SqlError;
use crate::guards::{subtransaction, Settings};
use crate::sql::{self, Param};
use crate::types::{uuid_text, Canonical, ColumnType};
use fieldsync_core::delta::TableChanges;
use fieldsync_core::merge::values;
use fieldsync_core::value::Kind;
use fieldsync_core::{Key, Value};
use std::collections::{BTreeMap, HashMap, HashSet};

/// A column of the delta, as the hub has it.
pub enum Target {
    /// A field of the hub's.
    Field(usize),
    /// Nothing of the application's: the sync columns of a hand-made device, or a generated column.
    Ignored,
    /// The hub has no such column.
    Unknown,
}

/// What each column of a delta's table is on the hub.
pub fn targets(table: &Table, columns: &[String]) -> Vec<Target> {
    columns
        .iter()
        .map(|name| match table.column(name) {
            Some(at) if table.columns[at].generated => Target::Ignored,
            Some(at) => Target::Field(at),
            None if SYNC_COLUMNS.contains(&name.as_str()) => Target::Ignored,
            None => Target::Unknown,
        })
        .collect()
}

/// Gives values of one table's changes in the hub's form.
pub struct Converter<'a> {
    table: &'a Table,
    asked: Asked,
}

impl<'a> Converter<'a> {
    /// For these changes: what only Postgres can read, it reads now.
    pub fn of(table: &'a Table, targets: &[Target], changes: &TableChanges) -> Result<Converter<'a>, SqlError> {
        Ok(Converter { table, asked: ask(changes, targets, table)? })
    }

    /// The value in the hub's form, or why it has none, with the value.
    pub fn value(&self, at: usize, value: Value) -> Result<Value, (SqlError, Value)> {
        let column = &self.table.columns[at];
        if column.column_type.holds(&value) {
            return Ok(value);
        }
        let named = |error: SqlError| SqlError {
            table: Some(self.table.name.clone()),
            column: Some(column.name.clone()),
            message: format!("{} in column \"{}\" of table \"{}\"", error.message, column.name, self.table.name),
            ..error
        };
        match column.column_type.canonical(&value) {
            Canonical::Done(value) => Ok(value),
            Canonical::Bad(error) => Err((named(error), value)),
            Canonical::Ask(text) => match self.asked.get(&(at, text)) {
                Some(Ok(answer)) => Ok(answer.clone()),
                Some(Err(error)) => Err((named(error.clone()), value)),
                None => Err((named(SqlError::new("XX000", "a value was not converted")), value)),
            },
        }
    }
}

/// Whether the hub holds something else than what the device sent (rounded, padded, spelled in another way) and keeps. The device is
/// told, or it would differ from all others for ever. JSON and arrays go by their meaning.
pub fn is_told(kind: Kind, sent: &Value, held: &Value) -> bool {
    match (kind, sent, held) {
        (Kind::Uuid, Value::Text(sent), Value::Blob(held)) => *sent != uuid_text(held),
        (Kind::Json | Kind::Jsonb | Kind::Array, _, _) => !values::same(Kind::Jsonb, sent, held),
        // A column of the device's makes another number of it, or bytes of text; it would do so again.
        (_, Value::Int(whole), Value::Real(real)) | (_, Value::Real(real), Value::Int(whole)) => *whole as f64 != *real,
        (Kind::Bytes, Value::Text(_), _) => false,
        _ => sent != held,
    }
}

type Asked = HashMap<(usize, String), Result<Value, SqlError>>;

/// Has Postgres read all values that only it can read, each distinct one once, in one statement per column.
fn ask(changes: &TableChanges, targets: &[Target], table: &Table) -> Result<Asked, SqlError> {
    let mut questions: BTreeMap<usize, HashSet<String>> = BTreeMap::new();
    let mut note = |target: Option<&Target>, value: &Value| {
        if let Some(Target::Field(at)) =
            target.filter(|target| !matches!(target, Target::Field(at) if table.columns[*at].column_type.holds(value)))
        {
            if let Canonical::Ask(text) = table.columns[*at].column_type.canonical(value) {
                questions.entry(*at).or_default().insert(text);
            }
        }
    };
    for change in &changes.changes {
        for (part, target) in change.key.0.iter().zip(targets) {
            note(Some(target), part);
        }
        for field in &change.fields {
            let target = targets.get(usize::from(field.column));
            note(target, &field.new);
            if let Some(old) = &field.old {
                note(target, old);
            }
        }
    }
    let mut asked = HashMap::new();
    for (at, texts) in questions {
        let mut texts: Vec<String> = texts.into_iter().collect();
        texts.sort_unstable();
        let answers = convert(&table.columns[at].column_type, &texts)?;
        for (text, answer) in texts.into_iter().zip(answers) {
            asked.insert((at, text), answer);
        }
    }
    Ok(asked)
}

/// Each text read by the type's own input and given back in the wire's form. Where a set fails it is halved, so that few
/// bad values cost little.
fn convert(column_type: &ColumnType, texts: &[String]) -> Result<Vec<Result<Value, SqlError>>, SqlError> {
    if texts.is_empty() {
        return Ok(Vec::new());
    }
    let whole = subtransaction(|| {
        let _settings = Settings::for_text();
        let list: Vec<Option<&str>> = texts.iter().map(|text| Some(text.as_str())).collect();
        let read = column_type.text_to_sql("u.x", true);
        let shown = column_type.to_wire(&read);
        sql::run_set(
            &format!(
                "SELECT {shown} FROM pg_catalog.unnest($1::pg_catalog.text[]) WITH ORDINALITY AS u(x, place) ORDER BY u.place"
            ),
            &[Param::Texts(&list)],
        )
    });
    match whole {
        Ok(rows) => Ok(rows.rows.into_iter().map(|row| Ok(row.into_iter().next().unwrap_or_default())).collect()),
        Err(error) if error.is_transient() => Err(error),
        Err(error) if texts.len() == 1 => Ok(vec![Err(error)]),
        Err(_) => {
            let (left, right) = texts.split_at(texts.len() / 2);
            let mut answers = convert(column_type, left)?;
            answers.extend(convert(column_type, right)?);
            Ok(answers)
        }
    }
}

/// A key in the hub's form. `None`: there can be no such row.
pub fn key(table: &Table, key: &Key) -> Result<Option<Key>, SqlError> {
    if key.0.len() != table.key.len() {
        return Ok(None);
    }
    let mut parts = Vec::with_capacity(key.0.len());
    for (at, part) in table.key.iter().zip(&key.0) {
        let column_type = &table.columns[*at].column_type;
        parts.push(match column_type.canonical(part) {
            Canonical::Done(part) => part,
            Canonical::Bad(_) => return Ok(None),
            Canonical::Ask(text) => match convert(column_type, &[text])?.pop() {
                Some(Ok(part)) => part,
                _ => return Ok(None),
            },
        });
    }
    Ok(Some(Key(parts)))
}
