//! What lost or waits, as an entry of the conflicts: with the value before and both sides' values.
//!
//! Invariant: every value of the device's that the hub does not hold after a merge is in an entry.

use crate::catalog::Table;
use crate::catch::SqlError;
use crate::client::Client;
use crate::keys::from_hex;
use crate::types::uuid_text;
use crate::verdicts::unknown_column;
use crate::work::{Homeless, Item, TableWork};
use fieldsync_core::clocks::RowClocks;
use fieldsync_core::delta::Op;
use fieldsync_core::jsonb;
use fieldsync_core::merge::{HubState, Winner};
use fieldsync_core::value::{hex, Kind};
use fieldsync_core::{Key, Value};
use serde_json::{json, Map, Value as Json};
use std::borrow::Cow;
use std::collections::HashMap;

/// A value as people and `resolve` read it.
pub fn shown(kind: Kind, value: &Value) -> Json {
    match (kind, value) {
        (Kind::Uuid, Value::Blob(bytes)) => Json::String(uuid_text(bytes)),
        (Kind::Bool, Value::Int(number)) => Json::Bool(*number != 0),
        (Kind::Json | Kind::Jsonb | Kind::Array, Value::Text(text)) => {
            serde_json::from_str(text).unwrap_or_else(|_| Json::String(text.clone()))
        }
        _ => value.to_json(),
    }
}

/// JSON text that jsonb takes.
pub fn jsonb_text(json: &Json) -> String {
    let written = json.to_string();
    match jsonb::fitting(&written) {
        Cow::Borrowed(_) => written,
        Cow::Owned(fitting) => fitting,
    }
}

/// The key by column.
pub fn key_json(table: &Table, key: &Key) -> Json {
    Json::Object(
        table
            .key
            .iter()
            .zip(&key.0)
            .map(|(at, part)| {
                let column = &table.columns[*at];
                (column.name.clone(), shown(column.column_type.kind, part))
            })
            .collect(),
    )
}

fn field_json(table: &Table, fields: impl IntoIterator<Item = (u16, Value)>) -> Json {
    Json::Object(
        fields
            .into_iter()
            .filter_map(|(number, value)| {
                let column = table.by_number(number)?;
                Some((column.name.clone(), shown(column.column_type.kind, &value)))
            })
            .collect(),
    )
}

/// One line of `fieldsync.conflict`.
pub struct Entry {
    /// The table's number.
    pub table_id: i32,
    /// The row.
    pub row_id: String,
    /// insert, update or delete.
    pub operation: &'static str,
    /// Values before.
    pub base: Json,
    /// The device's values.
    pub client: Json,
    /// The hub's values.
    pub server: Json,
    /// When the device wrote.
    pub client_clock: i64,
    /// When the hub's side was written.
    pub server_clock: i64,
    /// By whom.
    pub server_origin: i64,
    /// What decided, or SQLSTATE and constraint.
    pub rule: String,
    /// server, client, manual, rejected, recovered.
    pub outcome: String,
    /// In words.
    pub detail: Option<String>,
    /// Whether it waits for a person.
    pub is_open: bool,
    /// The change as `resolve` can apply it.
    pub change: Json,
    /// The clocks of what this shows the client of the hub's side; a rejection shows nothing that it is to answer.
    pub hub_clocks: Option<RowClocks>,
}

/// In an entry's change: the key of a record that the hub does not have, as its device spells it (in the order of the hub's columns), where the
/// hub spells it otherwise.
pub const SENT_AS: &str = "sent_as";

/// A part of such a key, so that it can be read back exactly: what JSON in Postgres has no form for is an object that names its class.
fn exact_json(part: &Value) -> Json {
    match part {
        Value::Text(text) if text.contains('\0') => json!({ "text": hex(text.as_bytes()) }),
        Value::Real(number) => json!({ "real": hex(&number.to_bits().to_be_bytes()) }),
        Value::Blob(bytes) => json!({ "blob": hex(bytes) }),
        Value::Null | Value::Int(_) | Value::Text(_) => part.to_json(),
    }
}

/// The key that an entry's change names as the device's own.
pub fn as_sent(parts: &str) -> Option<Key> {
    let parts: Vec<Json> = serde_json::from_str(parts).ok()?;
    let exact = |part: &Json| {
        let Some((class, digits)) = part.as_object().and_then(|part| part.iter().next()) else {
            return Some(Value::from_json(part));
        };
        let bytes = from_hex(digits.as_str()?);
        match class.as_str() {
            "text" => String::from_utf8(bytes).ok().map(Value::Text),
            "real" => Some(Value::Real(f64::from_bits(u64::from_be_bytes(bytes.try_into().ok()?)))),
            _ => Some(Value::Blob(bytes)),
        }
    };
    parts.iter().map(exact).collect::<Option<_>>().map(Key)
}

/// The entry for values in columns that the hub does not have.
pub fn of_lost(table: &TableWork, item: &Item, row_id: String) -> Option<Entry> {
    let first = item.lost.first()?;
    let error = unknown_column(&table.table, &first.column);
    let entry = rejection(table, item, false, row_id, &error);
    let mut change = json!({
        "op": "update", "key": key_json(&table.table, &item.key), "fields": {}, "hub": "row",
    });
    change["fields"] = lost_json(item, |lost| Some(&lost.new));
    Some(Entry {
        operation: "update",
        base: lost_json(item, |lost| lost.old.as_ref()),
        client: change["fields"].clone(),
        server: json!({}),
        change,
        ..entry
    })
}

fn lost_json(item: &Item, value: impl Fn(&crate::work::Lost) -> Option<&Value>) -> Json {
    Json::Object(item.lost.iter().filter_map(|lost| Some((lost.column.clone(), value(lost)?.to_json()))).collect())
}

fn add_fields(to: &mut Json, from: Json) {
    if let (Some(to), Json::Object(from)) = (to.as_object_mut(), from) {
        to.extend(from);
    }
}

fn rule_of(error: &SqlError) -> String {
    match &error.constraint {
        Some(constraint) => format!("{} {constraint}", error.sqlstate),
        None => error.sqlstate.clone(),
    }
}

/// A change of a table that the hub does not track, under the number that stands for the table's name.
pub fn of_homeless(homeless: &Homeless, table_id: i32) -> Entry {
    let object = |fields: &[(String, Value)]| -> Json {
        Json::Object(fields.iter().map(|(name, value)| (name.clone(), value.to_json())).collect::<Map<_, _>>())
    };
    Entry {
        table_id,
        row_id: homeless.key.row_id(),
        operation: operation(homeless.op),
        base: object(&homeless.base),
        client: object(&homeless.fields),
        server: json!({}),
        client_clock: homeless.raw_clock.as_i64(),
        server_clock: 0,
        server_origin: 0,
        rule: rule_of(&homeless.error),
        outcome: "rejected".to_owned(),
        detail: Some(homeless.error.to_string()),
        is_open: true,
        change: json!({
            "op": operation(homeless.op), "key": object(&homeless.key_fields), "fields": object(&homeless.fields), "hub": "none",
        }),
        hub_clocks: None,
    }
}

fn operation(op: Op) -> &'static str {
    match op {
        Op::Insert => "insert",
        Op::Delete => "delete",
        Op::Update | Op::Cancelled => "update",
    }
}

/// What all changes of a row do together.
fn operation_of(item: &Item) -> &'static str {
    let ops = || item.changes.iter().map(|change| change.op).filter(|op| *op != Op::Cancelled);
    match ops().next_back() {
        Some(Op::Delete) => "delete",
        _ if ops().any(|op| op == Op::Insert) => "insert",
        _ => "update",
    }
}

/// The change as `resolve` can apply it: all fields that the row's changes set.
fn change_json(table: &TableWork, item: &Item, hub_has_row: bool) -> Json {
    let mut fields: HashMap<u16, Value> = HashMap::new();
    for change in &item.changes {
        if change.op == Op::Delete {
            fields.clear();
        }
        fields.extend(change.fields.iter().map(|field| (field.number, field.new.clone())));
    }
    json!({
        "op": operation_of(item),
        "key": key_json(&table.table, &item.key),
        "fields": field_json(&table.table, fields),
        "hub": if hub_has_row { "row" } else { "none" },
    })
}

fn server_row(item: &Item) -> Option<&fieldsync_core::merge::HubRow> {
    match &item.merged.before {
        Some(HubState::Live(row)) => Some(row),
        _ => None,
    }
}

/// Whether the hub has the record that a device makes, by that device: it offers again what was not taken of it.
pub fn is_made_already(item: &Item, client: &Client) -> bool {
    let only_made = operation_of(item) == "insert" && item.changes.iter().all(|change| change.op != Op::Delete);
    only_made && server_row(item).is_some_and(|row| i64::from(row.clocks.insert.origin) == i64::from(client.number))
}

/// A row that was not accepted, whole; of a record that is [`is_made_already`], what differs.
pub fn rejection(table: &TableWork, item: &Item, made_already: bool, row_id: String, error: &SqlError) -> Entry {
    let mut base: HashMap<u16, Value> = HashMap::new();
    let mut fields: HashMap<u16, Value> = HashMap::new();
    for change in &item.changes {
        for field in &change.fields {
            if let Some(old) = &field.old {
                base.entry(field.number).or_insert_with(|| old.clone());
            }
            fields.insert(field.number, field.new.clone());
        }
    }
    let server = server_row(item);
    if let Some(row) = server.filter(|_| made_already) {
        fields.retain(|number, value| row.value(*number) != *value);
        base.retain(|number, _| fields.contains_key(number));
    }
    let server_values = match server {
        Some(row) if operation_of(item) == "delete" => field_json(&table.table, row.values.clone()),
        Some(row) => field_json(&table.table, fields.keys().map(|number| (*number, row.value(*number)))),
        None => json!({}),
    };
    let last = item.changes.last();
    let mut refused = field_json(&table.table, fields);
    add_fields(&mut refused, lost_json(item, |lost| Some(&lost.new)));
    let mut change = change_json(table, item, server.is_some());
    add_fields(&mut change["fields"], lost_json(item, |lost| Some(&lost.new)));
    // What is refused stays on its device as it was written: the device is to know its row by its own spelling.
    if let Some(key) = item.sent_as.as_ref().filter(|_| server.is_none()) {
        change[SENT_AS] = key.0.iter().map(exact_json).collect();
    }
    Entry {
        table_id: table.table.table_id,
        row_id,
        operation: if made_already { "update" } else { operation_of(item) },
        base: field_json(&table.table, base),
        client: refused,
        server: server_values,
        client_clock: last.map_or(0, |change| change.raw_clock.as_i64()),
        server_clock: server.map_or(0, |row| row.clocks.latest().clock.as_i64()),
        server_origin: server.map_or(0, |row| i64::from(row.clocks.latest().origin)),
        rule: rule_of(error),
        outcome: "rejected".to_owned(),
        detail: Some(error.to_string()),
        is_open: true,
        change,
        hub_clocks: None,
    }
}

/// One entry per row and outcome: all fields in one entry share theirs.
pub fn collisions(table: &TableWork, item: &Item, row_id: &str, entries: &mut Vec<Entry>) {
    for winner in [Winner::Server, Winner::Client, Winner::Person] {
        for recovered in [false, true] {
            let mut base = HashMap::new();
            let mut client = HashMap::new();
            let mut server = HashMap::new();
            let mut rules: Vec<&str> = Vec::new();
            let mut details: Vec<String> = Vec::new();
            let mut server_stamp = None;
            for (place, collision) in &item.merged.collisions {
                let is_recovered = item.changes.get(*place).is_some_and(|change| change.recovered);
                if collision.winner != winner || is_recovered != recovered {
                    continue;
                }
                if !rules.contains(&collision.rule.as_str()) {
                    rules.push(&collision.rule);
                }
                server_stamp.get_or_insert(collision.server_stamp);
                match collision.number {
                    Some(number) => {
                        if let Some(value) = &collision.base {
                            base.entry(number).or_insert_with(|| value.clone());
                        }
                        client.insert(number, collision.client.clone());
                        server.entry(number).or_insert_with(|| collision.server.clone());
                    }
                    None => details.push(format!(
                        "device: {}; hub: {}",
                        collision.client.to_text(),
                        collision.server.to_text()
                    )),
                }
            }
            if rules.is_empty() {
                continue;
            }
            if !details.is_empty() && operation_of(item) != "delete" {
                // The whole row is what collided: all that the device wrote into it is on record.
                let listed =
                    |number: u16| item.merged.collisions.iter().any(|(_, collision)| collision.number == Some(number));
                for field in item.changes.iter().flat_map(|change| &change.fields) {
                    if listed(field.number) {
                        continue;
                    }
                    if let Some(old) = &field.old {
                        base.entry(field.number).or_insert_with(|| old.clone());
                    }
                    client.insert(field.number, field.new.clone());
                    if let Some(row) = server_row(item) {
                        server.entry(field.number).or_insert_with(|| row.value(field.number));
                    }
                }
            }
            let hub_clocks = clocks_of(item, server.keys().copied());
            let hub = server_row(item);
            let server = match hub {
                Some(row) if operation_of(item) == "delete" => field_json(&table.table, row.values.clone()),
                Some(_) => field_json(&table.table, server),
                None => json!({}),
            };
            let mut change = change_json(table, item, hub.is_some());
            if operation_of(item) != "delete" && !client.is_empty() {
                let only: Json = field_json(&table.table, client.clone());
                if operation_of(item) == "update" && hub.is_some() {
                    change["fields"] = only;
                }
            }
            let stamp = server_stamp.unwrap_or_default();
            entries.push(Entry {
                table_id: table.table.table_id,
                row_id: row_id.to_owned(),
                operation: operation_of(item),
                base: field_json(&table.table, base),
                client: field_json(&table.table, client),
                server,
                client_clock: item.changes.last().map_or(0, |change| change.raw_clock.as_i64()),
                server_clock: stamp.clock.as_i64(),
                server_origin: i64::from(stamp.origin),
                rule: rules.join(", "),
                outcome: if recovered { "recovered".to_owned() } else { winner.word().to_owned() },
                detail: (!details.is_empty()).then(|| details.join("; ")),
                is_open: winner == Winner::Person && !recovered,
                change,
                hub_clocks,
            });
        }
    }
    recovered(table, item, row_id, entries);
}

/// The clocks of what an entry shows of the hub's side ([`fieldsync_core::seen::Told`]), given the fields of a live row that it shows.
fn clocks_of(item: &Item, fields: impl Iterator<Item = u16>) -> Option<RowClocks> {
    match item.merged.before.as_ref()? {
        HubState::Live(row) if operation_of(item) == "delete" => Some(row.clocks.clone()),
        HubState::Live(row) => {
            let mut clocks = RowClocks::new(row.clocks.insert);
            fields.for_each(|number| clocks.set(number, row.clocks.field(number)));
            Some(clocks)
        }
        HubState::Deleted { deletion, .. } => Some(RowClocks::new(*deletion)),
        HubState::Absent => None,
    }
}

/// A change that only a device still held is listed, whatever became of it.
fn recovered(table: &TableWork, item: &Item, row_id: &str, entries: &mut Vec<Entry>) {
    let listed =
        item.merged.collisions.iter().any(|(place, _)| item.changes.get(*place).is_some_and(|change| change.recovered));
    if listed || !item.changes.iter().any(|change| change.recovered) {
        return;
    }
    let entry = rejection(table, item, false, row_id.to_owned(), &SqlError::default());
    entries.push(Entry {
        rule: "recovered".to_owned(),
        outcome: "recovered".to_owned(),
        detail: Some("the hub had lost this, and the device still held it".to_owned()),
        is_open: false,
        ..entry
    });
}
