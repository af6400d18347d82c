//! Columns of values as array parameters, for `unnest`.

use crate::catch::SqlError;
use crate::instants::instant;
use crate::sql::Param;
use crate::types::ColumnType;
use fieldsync_core::value::Kind;
use fieldsync_core::Value;

/// One column of values, in the form of its array parameter.
pub enum Array<'a> {
    /// bigint[]
    Ints(Vec<Option<i64>>),
    /// boolean[]
    Bools(Vec<Option<bool>>),
    /// double precision[]
    Reals(Vec<Option<f64>>),
    /// uuid[]
    Uuids(Vec<Option<[u8; 16]>>),
    /// bytea[]
    Blobs(Vec<Option<&'a [u8]>>),
    /// text[]
    Texts(Vec<Option<&'a str>>),
    /// timestamptz[]
    Instants(Vec<Option<i64>>),
}

impl<'a> Array<'a> {
    /// Values in the hub's form for a column of this type.
    pub fn of(column_type: &ColumnType, values: impl Iterator<Item = &'a Value>) -> Result<Array<'a>, SqlError> {
        let wrong = |value: &Value| {
            SqlError::new("22P02", format!("{} is no value of type {}", value.to_json(), column_type.sql))
        };
        Ok(match column_type.kind {
            Kind::Int => Array::Ints(gather(values, |value| match value {
                Value::Int(number) => Ok(*number),
                other => Err(wrong(other)),
            })?),
            Kind::Bool => Array::Bools(gather(values, |value| match value {
                Value::Int(number) => Ok(*number != 0),
                other => Err(wrong(other)),
            })?),
            Kind::Real => Array::Reals(gather(values, |value| match value {
                Value::Real(number) => Ok(*number),
                Value::Text(text) if text == "NaN" => Ok(f64::NAN),
                other => Err(wrong(other)),
            })?),
            Kind::Uuid => Array::Uuids(gather(values, |value| match value {
                Value::Blob(bytes) => <[u8; 16]>::try_from(bytes.as_slice()).map_err(|_| wrong(value)),
                other => Err(wrong(other)),
            })?),
            Kind::Bytes => Array::Blobs(gather(values, |value| match value {
                Value::Blob(bytes) => Ok(bytes.as_slice()),
                other => Err(wrong(other)),
            })?),
            _ => Array::Texts(gather(values, |value| match value {
                Value::Text(text) => Ok(text.as_str()),
                other => Err(wrong(other)),
            })?),
        })
    }

    /// Instants that need no reading by Postgres. `None`: one of them does.
    pub fn of_instants(values: impl Iterator<Item = &'a Value>) -> Option<Array<'a>> {
        let read = |value: &Value| match value {
            Value::Null => Some(None),
            Value::Text(text) => instant(text).map(Some),
            _ => None,
        };
        values.map(read).collect::<Option<Vec<_>>>().map(Array::Instants)
    }

    /// As a parameter.
    pub fn param(&self) -> Param<'_> {
        match self {
            Array::Ints(list) => Param::Ints(list),
            Array::Bools(list) => Param::Bools(list),
            Array::Reals(list) => Param::Reals(list),
            Array::Uuids(list) => Param::Uuids(list),
            Array::Blobs(list) => Param::Blobs(list),
            Array::Texts(list) => Param::Texts(list),
            Array::Instants(list) => Param::Instants(list),
        }
    }
}

fn gather<'a, T>(
    values: impl Iterator<Item = &'a Value>,
    read: impl Fn(&'a Value) -> Result<T, SqlError>,
) -> Result<Vec<Option<T>>, SqlError> {
    values.map(|value| if value.is_null() { Ok(None) } else { read(value).map(Some) }).collect()
}

/// `unnest` over parameters from `$first` on: SQL with the alias `u` and the column names given.
pub fn unnest(types: &[&str], names: &[String], first: usize) -> String {
    let arrays: Vec<String> =
        types.iter().enumerate().map(|(at, name)| format!("pg_catalog.unnest(${}::{name}[])", first + at)).collect();
    format!("ROWS FROM ({}) WITH ORDINALITY AS u({}, place)", arrays.join(", "), names.join(", "))
}
