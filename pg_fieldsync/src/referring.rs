//! How SQL finds the rows that refer to given values.

use crate::arrays::{unnest, Array};
use crate::catalog::{ForeignKey, Table};
use crate::catch::SqlError;
use crate::sql::{ident, Param};
use fieldsync_core::Key;

/// A join of the rows of a child table (alias `t`) with the values that they refer to (alias `u`, numbered from 1 by `u.place`).
pub struct Referring<'a> {
    /// What `u` is.
    pub source: String,
    /// How the two meet.
    pub condition: String,
    arrays: Vec<Array<'a>>,
}

impl<'a> Referring<'a> {
    /// `values`: what the parent's rows have in the columns of the reference, in its order. `None`: a column of it is gone.
    pub fn to(
        parent: &Table,
        child: &Table,
        reference: &ForeignKey,
        values: &'a [Key],
    ) -> Result<Option<Referring<'a>>, SqlError> {
        let mut arrays = Vec::new();
        let mut types = Vec::new();
        let mut names = Vec::new();
        let mut conditions = Vec::new();
        for (at, (number, own)) in reference.parent_columns.iter().zip(&reference.child_columns).enumerate() {
            let (Some(column), Some(own)) = (parent.by_number(*number), child.by_number(*own)) else {
                return Ok(None);
            };
            let in_key = parent.key.iter().position(|at| parent.columns[*at].number == *number);
            let equals = in_key.map_or("OPERATOR(pg_catalog.=)", |at| parent.key_equals[at].as_str());
            arrays.push(Array::of(&column.column_type, values.iter().map(|key| &key.0[at]))?);
            types.push(column.column_type.param_type());
            let value =
                format!("({})::{}", column.column_type.param_to_sql(&format!("u.k{at}")), column.column_type.sql);
            conditions.push(format!("t.{} {equals} {value}", ident(&own.name)));
            names.push(format!("k{at}"));
        }
        Ok(Some(Referring { source: unnest(&types, &names, 1), condition: conditions.join(" AND "), arrays }))
    }

    /// The values, from `$1` on.
    pub fn params(&self) -> Vec<Param<'_>> {
        self.arrays.iter().map(Array::param).collect()
    }
}
