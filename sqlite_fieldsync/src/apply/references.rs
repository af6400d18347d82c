//! Foreign keys after an apply: they hold, whether the connection enforces them or not.
//!
//! Only rows that were written and parents that were removed are looked at, never whole tables. What would break a reference is
//! put off or steps aside; it never fails the whole.

use crate::error::Result;
use crate::schema::Table;
use crate::sql::{self, bind, quote};
use fieldsync_core::{Key, Value};
use rusqlite::{Connection, Statement};
use std::collections::{HashMap, HashSet};

/// One foreign key.
#[derive(Debug, Clone)]
pub struct ForeignKey {
    /// The referencing table.
    pub child: String,
    /// The referenced table.
    pub parent: String,
    /// Referencing columns.
    pub from: Vec<String>,
    /// Referenced columns.
    pub to: Vec<String>,
    /// CASCADE, SET NULL, SET DEFAULT, RESTRICT, NO ACTION.
    pub on_delete: String,
    /// The same.
    pub on_update: String,
}

/// A row's values in some of its columns; none if it lacks one.
pub fn values_of(row: &[(String, Value)], columns: &[String]) -> Option<Vec<Value>> {
    let value = |name: &String| {
        row.iter().find(|(column, _)| column.eq_ignore_ascii_case(name)).map(|(_, value)| value.clone())
    };
    columns.iter().map(value).collect()
}

/// All foreign keys of the main database.
pub struct References<'a> {
    db: &'a Connection,
    keys: Vec<ForeignKey>,
    parents: HashMap<usize, Statement<'a>>,
    children: HashMap<usize, Statement<'a>>,
    known: HashMap<usize, HashSet<Vec<Value>>>,
}

impl<'a> References<'a> {
    /// Reads them from the schema.
    pub fn load(db: &'a Connection) -> Result<References<'a>> {
        let mut statement = db.prepare_cached(
            "SELECT m.name, f.id, f.\"table\", f.\"from\", f.\"to\", upper(f.on_delete), upper(f.on_update)
             FROM main.sqlite_master m, pragma_foreign_key_list(m.name, 'main') f
             WHERE m.type = 'table' ORDER BY m.name, f.id, f.seq",
        )?;
        let mut keys: Vec<ForeignKey> = Vec::new();
        let mut last: Option<(String, i64)> = None;
        let mut rows = statement.query([])?;
        while let Some(row) = rows.next()? {
            let (child, id): (String, i64) = (row.get(0)?, row.get(1)?);
            let to: Option<String> = row.get(4)?;
            if last.as_ref() != Some(&(child.clone(), id)) {
                keys.push(ForeignKey {
                    child: child.clone(),
                    parent: row.get(2)?,
                    from: Vec::new(),
                    to: Vec::new(),
                    on_delete: row.get(5)?,
                    on_update: row.get(6)?,
                });
                last = Some((child, id));
            }
            if let Some(key) = keys.last_mut() {
                key.from.push(row.get(3)?);
                key.to.extend(to);
            }
        }
        sql::still_whole(db)?;
        let mut checked = Vec::new();
        for mut key in keys {
            // A parent that does not exist refers to nothing that could be checked.
            let Some(parent) = Table::read_plain(db, &key.parent)? else { continue };
            if key.to.is_empty() {
                key.to = parent.key().iter().map(|column| column.name.clone()).collect();
            }
            if key.to.len() == key.from.len() {
                checked.push(key);
            }
        }
        Ok(References { db, keys: checked, parents: HashMap::new(), children: HashMap::new(), known: HashMap::new() })
    }

    /// Numbers of the keys that a table's rows refer by.
    pub fn of_child(&self, table: &str) -> Vec<usize> {
        (0..self.keys.len()).filter(|at| self.keys[*at].child.eq_ignore_ascii_case(table)).collect()
    }

    /// Numbers of the keys by which a table's rows are referred to.
    pub fn of_parent(&self, table: &str) -> Vec<usize> {
        (0..self.keys.len()).filter(|at| self.keys[*at].parent.eq_ignore_ascii_case(table)).collect()
    }

    /// A key by number.
    pub fn key(&self, at: usize) -> &ForeignKey {
        &self.keys[at]
    }

    /// Whether the row referred to is there. Values with a NULL refer to nothing.
    pub fn parent_is_there(&mut self, at: usize, values: &[Value]) -> Result<bool> {
        if values.iter().any(Value::is_null) || self.known.get(&at).is_some_and(|known| known.contains(values)) {
            return Ok(true);
        }
        if !self.parents.contains_key(&at) {
            let key = &self.keys[at];
            let sql = format!(
                "SELECT 1 FROM main.{} WHERE {} LIMIT 1",
                quote(self.db, &key.parent)?,
                self.condition(&key.to)?
            );
            self.parents.insert(at, self.db.prepare(&sql)?);
        }
        let Some(statement) = self.parents.get_mut(&at) else { return Ok(true) };
        bind(statement, 1, values)?;
        let found = statement.raw_query().next()?.is_some();
        if found {
            self.known.entry(at).or_default().insert(values.to_vec());
        }
        Ok(found)
    }

    /// The key of the row that a row refers to; none where it refers to nothing, or to nothing that is here, or to what has no key.
    pub fn parent_of(&self, at: usize, child: &Table, key: &Key) -> Result<Option<Key>> {
        let foreign = &self.keys[at];
        let Some(parent) = Table::read_plain(self.db, &foreign.parent)?.filter(|parent| !parent.key().is_empty())
        else {
            return Ok(None);
        };
        let list = |names: &mut dyn Iterator<Item = &String>| -> Result<String> {
            Ok(names.map(|name| quote(self.db, name)).collect::<Result<Vec<_>>>()?.join(", "))
        };
        let mut statement = self.db.prepare_cached(&format!(
            "SELECT {} FROM {} WHERE ({}) = (SELECT {} FROM {} WHERE {})",
            list(&mut parent.key().iter().map(|column| &column.name))?,
            parent.qualified(self.db)?,
            list(&mut foreign.to.iter())?,
            list(&mut foreign.from.iter())?,
            child.qualified(self.db)?,
            child.key_condition(self.db)?,
        ))?;
        bind(&mut statement, 1, &key.0)?;
        let mut rows = statement.raw_query();
        let Some(row) = rows.next()? else { return Ok(None) };
        let parts = (0..parent.key().len()).map(|at| sql::column(row, at)).collect::<Result<Vec<_>>>()?;
        Ok(Some(Key(parts)))
    }

    /// The values that a row refers by; none if it is not there.
    pub fn values_in(&self, at: usize, child: &Table, key: &Key) -> Result<Option<Vec<Value>>> {
        let names = self.keys[at].from.iter().map(|name| quote(self.db, name)).collect::<Result<Vec<_>>>()?;
        let mut statement = self.db.prepare_cached(&format!(
            "SELECT {} FROM {} WHERE {}",
            names.join(", "),
            child.qualified(self.db)?,
            child.key_condition(self.db)?
        ))?;
        bind(&mut statement, 1, &key.0)?;
        let mut rows = statement.raw_query();
        let Some(row) = rows.next()? else { return Ok(None) };
        Ok(Some((0..names.len()).map(|place| sql::column(row, place)).collect::<Result<Vec<_>>>()?))
    }

    /// Forgets which parents were seen: after a rollback they may be gone.
    pub fn forget(&mut self) {
        self.known.clear();
    }

    /// Keys of the rows that still refer to a removed one.
    pub fn children_of(&mut self, at: usize, child: &Table, values: &[Value]) -> Result<Vec<Key>> {
        if values.iter().any(Value::is_null) {
            return Ok(Vec::new());
        }
        let key = child.key();
        if !self.children.contains_key(&at) {
            let columns = if key.is_empty() {
                "rowid".to_owned()
            } else {
                key.iter().map(|column| quote(self.db, &column.name)).collect::<Result<Vec<_>>>()?.join(", ")
            };
            let foreign = &self.keys[at];
            let sql = format!(
                "SELECT {columns} FROM main.{} WHERE {}",
                quote(self.db, &foreign.child)?,
                self.condition(&foreign.from)?
            );
            self.children.insert(at, self.db.prepare(&sql)?);
        }
        let Some(statement) = self.children.get_mut(&at) else { return Ok(Vec::new()) };
        bind(statement, 1, values)?;
        let width = statement.column_count();
        let mut rows = statement.raw_query();
        let mut found = Vec::new();
        while let Some(row) = rows.next()? {
            found.push(Key((0..width).map(|place| sql::column(row, place)).collect::<Result<Vec<_>>>()?));
        }
        Ok(found)
    }

    /// Does to rows of an untracked table what its foreign key says, when the row that they refer to is gone or (`after`) has other
    /// values. Gives whether it says anything.
    pub fn act(&self, at: usize, values: &[Value], after: Option<&[Value]>) -> Result<bool> {
        let key = &self.keys[at];
        let table = quote(self.db, &key.child)?;
        let condition = self.condition(&key.from)?;
        let names = key.from.iter().map(|name| quote(self.db, name)).collect::<Result<Vec<_>>>()?;
        let sql = match (after, if after.is_some() { key.on_update.as_str() } else { key.on_delete.as_str() }) {
            (None, "CASCADE") => format!("DELETE FROM main.{table} WHERE {condition}"),
            (Some(_), "CASCADE") => {
                let first = values.len() + 1;
                let sets: Vec<String> =
                    names.iter().enumerate().map(|(at, name)| format!("{name} = ?{}", first + at)).collect();
                format!("UPDATE main.{table} SET {} WHERE {condition}", sets.join(", "))
            }
            (_, "SET NULL") => {
                let sets: Vec<String> = names.iter().map(|name| format!("{name} = NULL")).collect();
                format!("UPDATE main.{table} SET {} WHERE {condition}", sets.join(", "))
            }
            _ => return Ok(false),
        };
        let mut statement = self.db.prepare(&sql)?;
        let bound = statement.parameter_count().saturating_sub(values.len());
        bind(&mut statement, 1, values.iter().chain(after.unwrap_or_default().iter().take(bound)))?;
        statement.raw_execute()?;
        Ok(true)
    }

    /// Sets the columns that a row refers by.
    pub fn set(&self, at: usize, child: &Table, key: &Key, values: &[Value]) -> Result<()> {
        let names = &self.keys[at].from;
        let first = key.0.len() + 1;
        let sets = names
            .iter()
            .enumerate()
            .map(|(at, name)| Ok(format!("{} = ?{}", quote(self.db, name)?, first + at)))
            .collect::<Result<Vec<_>>>()?;
        let sql = format!(
            "UPDATE {} SET {} WHERE {}",
            child.qualified(self.db)?,
            sets.join(", "),
            child.key_condition(self.db)?
        );
        let mut statement = self.db.prepare(&sql)?;
        bind(&mut statement, 1, key.0.iter().chain(values))?;
        statement.raw_execute()?;
        Ok(())
    }

    /// These tables, and those whose rows refer to theirs, by however many steps (all lower case).
    pub fn reach(&self, mut tables: HashSet<String>) -> HashSet<String> {
        loop {
            let children = self.keys.iter().filter(|key| tables.contains(&key.parent.to_ascii_lowercase()));
            let more: Vec<String> = children.map(|key| key.child.to_ascii_lowercase()).collect();
            let before = tables.len();
            tables.extend(more);
            if tables.len() == before {
                return tables;
            }
        }
    }

    fn condition(&self, columns: &[String]) -> Result<String> {
        let parts = columns
            .iter()
            .enumerate()
            .map(|(at, column)| Ok(format!("{} = ?{}", quote(self.db, column)?, at + 1)))
            .collect::<Result<Vec<_>>>()?;
        Ok(parts.join(" AND "))
    }
}
