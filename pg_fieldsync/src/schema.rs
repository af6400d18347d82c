//! The tracked tables of one sync: in their order, each with its rules and its direction.
//!
//! Invariants:
//! * Parents stand before their children.
//! * What is known of a table was read before anything held it, so a table may be altered meanwhile. Nothing is written to one
//!   before [`Schema::hold`] has seen that it is still what is known of it, and keeps it so.

use crate::catalog::{self, Table};
use crate::catch::SqlError;
use crate::client::Client;
use crate::error::HubError;
use crate::guards::AsOwner;
use crate::sql::{self, Cells, Param};
use fieldsync_core::delta::TableChanges;
use fieldsync_core::order::parents_first;
use fieldsync_core::rules::TableRules;
use fieldsync_core::wire::Shape;
use pgrx::pg_sys;
use std::collections::{HashMap, HashSet};
use std::rc::Rc;

/// A table, its rules, and its `priority_field`.
pub type Ruled = (Rc<Table>, Rc<TableRules>, Option<String>);

/// A device's order of key parts, by table number.
pub type KeyOrders = HashMap<i32, Vec<usize>>;

/// Rules and `priority_field` by table number.
type RulesByTable = HashMap<i32, (Rc<TableRules>, Option<String>)>;

/// Everything about tables that one sync needs.
pub struct Schema {
    /// Tables with their rules and `priority_field`, parents first.
    pub tables: Vec<Ruled>,
    /// Direction by table, where one is set for this client.
    directions: HashMap<String, String>,
}

impl Schema {
    /// Reads it for a client.
    pub fn load(client: &Client) -> Result<Schema, HubError> {
        let tables = catalog::tables()?;
        let rules = rules(&tables)?;
        let place: HashMap<_, usize> = tables.iter().enumerate().map(|(at, table)| (table.oid, at)).collect();
        let edges: Vec<(usize, usize)> = tables
            .iter()
            .enumerate()
            .flat_map(|(child, table)| {
                let place = &place;
                table.references.iter().filter_map(move |reference| Some((child, *place.get(&reference.parent)?)))
            })
            .collect();
        let order = parents_first(tables.len(), &edges);
        let tables = order
            .into_iter()
            .map(|at| {
                let table = Rc::clone(&tables[at]);
                let (rules, priority) = rules.get(&table.table_id).cloned().unwrap_or_default();
                (table, rules, priority)
            })
            .collect();
        let _owner = AsOwner::new();
        let rows = sql::run(
            "SELECT table_name, sync_direction, sync_filter IS NOT NULL FROM sync_control.table_sync_state WHERE client_id = $1",
            &[Param::Text(&client.client_id)],
        )?;
        let mut directions = HashMap::new();
        for row in &rows.rows {
            if row.truth(2) {
                return Err(HubError::FilterSet { client_id: client.client_id.clone(), table: row.text(0).to_owned() });
            }
            if row.text(1) != "bidirectional" {
                directions.insert(row.text(0).to_owned(), row.text(1).to_owned());
            }
        }
        Ok(Schema { tables, directions })
    }

    /// Whether the enabled tables are still these, and look the same.
    pub fn is_of_now(&self) -> Result<bool, SqlError> {
        let now = catalog::tables()?;
        Ok(now.len() == self.tables.len()
            && now.iter().all(|table| self.tables.iter().any(|(known, _, _)| known == table)))
    }

    /// Lets nobody alter a table until the transaction ends; an error, if somebody has done so since it was described. By its lock
    /// for writing: whoever has a weaker one and asks for this one later may wait for somebody who waits for the former to go.
    pub fn hold(&self, name: &str) -> Result<(), HubError> {
        let Some((table, _, _)) = self.find(name) else { return Ok(()) };
        catalog::lock(table.oid, pg_sys::RowExclusiveLock)?;
        if catalog::has_own_snapshot() {
            let parents = table.references.iter().map(|reference| reference.parent);
            for relation in parents.chain([table.oid]) {
                catalog::lock(relation, pg_sys::RowShareLock)?;
                if catalog::is_newer_than_snapshot(relation)? {
                    let what = format!(
                        "{} or a table that it refers to was rewritten after this transaction began",
                        table.qualified
                    );
                    return Err(SqlError::new("40001", what).into());
                }
            }
        }
        if catalog::table(table.oid)?.as_ref() == Some(&table) {
            return Ok(());
        }
        Err(HubError::Altered(table.qualified.clone()))
    }

    /// In which direction a table syncs for this client.
    pub fn direction(&self, table: &str) -> &str {
        let qualified = || {
            let (known, _, _) = self.tables.iter().find(|(known, _, _)| known.name == table)?;
            self.directions.get(&format!("{}.{}", known.schema, known.name))
        };
        self.directions.get(table).or_else(qualified).map_or("bidirectional", String::as_str)
    }

    /// A table by the name that travels: bare, or with its schema. SQLite's names have no case, and Postgres folds what is not
    /// quoted: one name that differs in nothing else is the same.
    pub fn find(&self, name: &str) -> Option<Ruled> {
        let qualified = |table: &Table| format!("{}.{}", table.schema, table.name);
        let exact = self
            .tables
            .iter()
            .find(|(table, _, _)| table.name == name)
            .or_else(|| self.tables.iter().find(|(table, _, _)| qualified(table) == name));
        exact
            .or_else(|| {
                only(self.tables.iter().filter(|(table, _, _)| {
                    table.name.eq_ignore_ascii_case(name) || qualified(table).eq_ignore_ascii_case(name)
                }))
            })
            .cloned()
    }

    /// Where the device orders the parts of its keys otherwise than the hub: its order, as indexes into the hub's, by table number.
    /// The last shape of a table counts.
    pub fn key_orders<'s>(&self, shapes: impl Iterator<Item = &'s Shape>) -> KeyOrders {
        let mut orders = KeyOrders::new();
        for shape in shapes {
            let Some((table, _, _)) = self.find(&shape.table) else { continue };
            let parts = shape.columns.iter().take(usize::from(shape.key_len));
            let place =
                |name: &String| table.key.iter().position(|at| table.columns[*at].name.eq_ignore_ascii_case(name));
            let order: Vec<usize> = parts.filter_map(place).collect();
            let distinct: HashSet<&usize> = order.iter().collect();
            orders.remove(&table.table_id);
            if distinct.len() == table.key.len() && order.len() == distinct.len() && !order.is_sorted() {
                orders.insert(table.table_id, order);
            }
        }
        orders
    }

    /// Spells the names of a device's table as the hub does.
    pub fn spell(&self, changes: &mut TableChanges) {
        let Some((table, _, _)) = self.find(&changes.table) else { return };
        if table.name.eq_ignore_ascii_case(&changes.table) {
            changes.table.clone_from(&table.name);
        }
        for at in 0..changes.columns.len() {
            if table.column(&changes.columns[at]).is_some() {
                continue;
            }
            let meant =
                only(table.columns.iter().filter(|known| known.name.eq_ignore_ascii_case(&changes.columns[at])));
            if let Some(known) = meant.filter(|known| !changes.columns.contains(&known.name)) {
                changes.columns[at].clone_from(&known.name);
            }
        }
    }
}

/// The one that there is.
fn only<T>(mut found: impl Iterator<Item = T>) -> Option<T> {
    let first = found.next();
    first.filter(|_| found.next().is_none())
}

/// Reads the rules of all tables.
fn rules(tables: &[Rc<Table>]) -> Result<RulesByTable, HubError> {
    let _owner = AsOwner::new();
    let rows = sql::run(
        "SELECT table_id, detection_method, resolution_strategy, priority_field, array_to_json(merge_fields)::text,
                on_delete, on_reject, on_same_key
         FROM fieldsync.table_rule",
        &[],
    )?;
    let field_rows = sql::run("SELECT table_id, field_name, strategy FROM fieldsync.table_field_rule", &[])?;
    let bad = |error: fieldsync_core::rules::UnknownWord| HubError::BadRule(error.to_string());
    let mut all = HashMap::new();
    for row in &rows.rows {
        let Some(table) = tables.iter().find(|table| i64::from(table.table_id) == row.int(0)) else { continue };
        let number = |name: &str| table.column(name).map(|at| table.columns[at].number);
        let merge_fields = row.maybe_text(4).map(|json| {
            let names: Vec<String> = serde_json::from_str(json).unwrap_or_default();
            names.iter().filter_map(|name| number(name)).collect()
        });
        let mut rules = TableRules {
            detection: row.text(1).parse().map_err(bad)?,
            strategy: row.text(2).parse().map_err(bad)?,
            merge_fields,
            on_delete: row.text(5).parse().map_err(bad)?,
            on_reject: row.text(6).parse().map_err(bad)?,
            on_same_key: row.maybe_text(7).map(str::parse).transpose().map_err(bad)?,
            fields: HashMap::new(),
        };
        for field in field_rows.rows.iter().filter(|field| field.int(0) == row.int(0)) {
            if let Some(number) = number(field.text(1)) {
                rules.fields.insert(number, field.text(2).parse().map_err(bad)?);
            }
        }
        all.insert(table.table_id, (Rc::new(rules), row.maybe_text(3).map(str::to_owned)));
    }
    Ok(all)
}
