//! Why changes were refused, in words that an app can show to whoever entered them.

use crate::catalog::{self, Table};
use crate::catch::SqlError;
use crate::entry::Entry;
use crate::sql::{self, Cells, Param};
use pgrx::pg_sys;
use serde_json::Value as Json;
use std::collections::HashMap;

/// A constraint in words, and the columns whose refused values belong to them.
struct Wording {
    words: String,
    columns: Vec<String>,
}

/// A table, the name of a constraint, and whether a deletion broke it.
type Place = (pg_sys::Oid, String, bool);

/// What the constraints that one delta broke say, each asked once.
#[derive(Default)]
pub struct Words(HashMap<Place, Option<Wording>>);

impl Words {
    /// Puts words into an entry whose change was refused; none where the error's own are the best there are.
    pub fn tell(&mut self, table: &Table, error: &SqlError, entry: &mut Entry) -> Result<(), SqlError> {
        match (error.sqlstate.as_str(), &error.constraint, &error.column) {
            ("23502", _, Some(column)) => entry.detail = Some(format!("\"{column}\" has to have a value")),
            (state, Some(constraint), _) if state.starts_with("23") => {
                let place = (table.oid, constraint.clone(), entry.operation == "delete");
                if !self.0.contains_key(&place) {
                    let wording = ask(&place)?;
                    self.0.insert(place.clone(), wording);
                }
                if let Some(Some(wording)) = self.0.get(&place) {
                    entry.detail = Some(wording.about(&entry.client));
                }
            }
            _ => {}
        }
        Ok(())
    }
}

impl Wording {
    /// With the values that were refused.
    fn about(&self, refused: &Json) -> String {
        let column = |name: &String| match &refused[name] {
            Json::Null => format!("\"{name}\""),
            Json::String(text) => format!("\"{name}\" ({text})"),
            other => format!("\"{name}\" ({other})"),
        };
        format!("{}{}", self.words, self.columns.iter().map(column).collect::<Vec<_>>().join(" and "))
    }
}

fn ask((table, constraint, deleting): &Place) -> Result<Option<Wording>, SqlError> {
    let params = [catalog::oid_param(*table), Param::Text(constraint), Param::Bool(*deleting)];
    let said = sql::run("SELECT words, to_jsonb(columns)::text FROM fieldsync.in_words($1::oid, $2, $3)", &params)?;
    let row = said.rows.first().filter(|row| !row.text(0).is_empty());
    Ok(row.map(|row| Wording {
        words: row.text(0).to_owned(),
        columns: serde_json::from_str(row.text(1)).unwrap_or_default(),
    }))
}
