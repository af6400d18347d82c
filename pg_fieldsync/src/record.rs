//! What is kept of a merge: conflicts, rejections, the ledger.
//!
//! Invariants:
//! * acknowledged = applied + merged + superseded + conflict + rejected, counted in logged changes, in one statement.
//! * Every value that lost or waits is in `fieldsync.conflict`, with the value before and both sides' values.
//! * A client has at most one open rejection per row: a corrected edit replaces it or closes it.

use crate::catalog::Table;
use crate::catch::SqlError;
use crate::client::Client;
use crate::decide::SEPARATE;
use crate::entry::{self, jsonb_text, Entry, SENT_AS};
use crate::guards::AsOwner;
use crate::separate;
use crate::sql::{self, Cells, Param};
use crate::types::uuid_text;
use crate::words::Words;
use crate::work::{Homeless, Item, Work};
use fieldsync_core::delta::Op;
use fieldsync_core::reply::Outcomes;
use fieldsync_core::value::hex;
use fieldsync_core::Snapshot;
use serde_json::{json, Value as Json};
use std::collections::{HashMap, HashSet};

/// Writes what a merge leaves behind: conflicts and rejections.
pub fn conflicts(work: &Work, client: &Client, version: u64, batch: &[u8; 16]) -> Result<(), SqlError> {
    let _owner = AsOwner::new();
    let mut open = open_entries(client)?;
    let mut entries = Vec::new();
    let mut corrected = Vec::new();
    let mut words = Words::default();
    // Of a record that came and went unseen there is nothing to keep.
    for homeless in work.homeless.iter().filter(|homeless| homeless.op != Op::Cancelled) {
        entries.push(entry::of_homeless(homeless, number_of(homeless)?));
    }
    for table in &work.tables {
        for item in table.items.iter().filter(|item| !item.changes.is_empty()) {
            let row_id = table.table.row_id(&item.key);
            match &item.merged.rejected {
                Some(error) => {
                    let made_already = entry::is_made_already(item, client);
                    let mut entry = entry::rejection(table, item, made_already, row_id, error);
                    words.tell(&table.table, error, &mut entry)?;
                    entries.push(entry);
                }
                None => {
                    let changes = item.is_taken_back || item.changes.iter().any(|change| change.op != Op::Cancelled);
                    let place = (table.table.table_id, row_id.clone(), Waiting::Rejected);
                    if changes && open.get(&place).is_some_and(|entry| covers(&table.table, item, entry)) {
                        corrected.extend(open.remove(&place).map(|entry| Some(entry.id)));
                    }
                    // A record that waited beside the hub's, and that its device has deleted.
                    let place = (table.table.table_id, row_id.clone(), Waiting::Separate);
                    let deleted = item.changes.iter().any(|change| change.of_parked && change.op == Op::Delete);
                    if let Some(entry) = deleted.then(|| open.remove(&place)).flatten() {
                        corrected.push(Some(entry.id));
                    }
                    entry::collisions(table, item, &row_id, &mut entries);
                    entries.extend(entry::of_lost(table, item, row_id));
                }
            }
        }
    }
    if !corrected.is_empty() {
        sql::run_set(
            "UPDATE fieldsync.conflict SET status = 'resolved', resolved_at = clock_timestamp(), told = $2,
                    resolved_by = 'correction', resolution = '{\"choice\": \"superseded\"}'
             WHERE conflict_id = ANY ($1::bigint[])",
            &[Param::Ints(&corrected), Param::Int(version as i64)],
        )?;
    }
    let mut fresh = Vec::new();
    for entry in entries {
        let waiting = match () {
            () if entry.outcome == "rejected" => Some(Waiting::Rejected),
            () if entry.is_open && entry.rule == SEPARATE => Some(Waiting::Separate),
            () => None,
        };
        match waiting.and_then(|waiting| open.remove(&(entry.table_id, entry.row_id.clone(), waiting))) {
            Some(known) => add_to(&known, &entry, version, batch)?,
            None => fresh.push(entry),
        }
    }
    let entries = fresh;
    for portion in entries.chunks(2_000) {
        insert(portion, client, version, batch)?;
    }
    Ok(())
}

/// Whether an accepted change makes an open rejection of its row moot: it sets every field that was rejected, or the row is
/// deleted. (A field that the hub did not have is in the entry as the device spells it.)
fn covers(table: &Table, item: &Item, entry: &Open) -> bool {
    let is_deleted = item.is_taken_back || item.changes.iter().any(|change| change.op == Op::Delete);
    if is_deleted || entry.operation == "delete" {
        return true;
    }
    let set: HashSet<String> = item
        .changes
        .iter()
        .flat_map(|change| &change.fields)
        .filter_map(|field| table.by_number(field.number).map(|column| column.name.to_ascii_lowercase()))
        .collect();
    let fields = entry.client.as_object();
    fields.is_none_or(|fields| fields.keys().all(|field| set.contains(&field.to_ascii_lowercase())))
}

/// What an entry of a row waits for. A client has at most one of each per row.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Waiting {
    /// The hub could not take it.
    Rejected,
    /// It is a record of its own under a key that the hub has given to another.
    Separate,
}

/// An entry that waits, with the values in it.
struct Open {
    id: i64,
    operation: String,
    base: Json,
    client: Json,
    change: Json,
}

/// SQL for the table of an entry (`c`, in the table `t`). What was parked before its table was enabled stands under a name alone.
const TABLE_OF_ENTRY: &str = "COALESCE((SELECT r.table_id FROM fieldsync.tracked_table r
         WHERE t.schema_name = '' AND r.schema_name <> '' AND r.table_name = t.table_name AND r.relid IS NOT NULL
         ORDER BY r.table_id LIMIT 1), t.table_id)";

/// Open entries of a client that later changes of the same row belong to.
fn open_entries(client: &Client) -> Result<HashMap<(i32, String, Waiting), Open>, SqlError> {
    let rows = sql::run(
        &format!(
            "SELECT {TABLE_OF_ENTRY}, c.row_id, c.outcome = 'rejected', c.conflict_id, c.operation, c.base::text, c.client::text,
                    c.change::text
             FROM fieldsync.conflict c JOIN fieldsync.tracked_table t USING (table_id)
             WHERE c.client_no = $1 AND c.status = 'open' AND (c.outcome = 'rejected' OR c.rule = $2) ORDER BY c.conflict_id"
        ),
        &[Param::Int(i64::from(client.number)), Param::Text(SEPARATE)],
    )?;
    let json = |text: &str| serde_json::from_str(text).unwrap_or_else(|_| json!({}));
    Ok(rows
        .rows
        .iter()
        .map(|row| {
            let waiting = if row.truth(2) { Waiting::Rejected } else { Waiting::Separate };
            let open = Open {
                id: row.int(3),
                operation: row.text(4).to_owned(),
                base: json(row.text(5)),
                client: json(row.text(6)),
                change: json(row.text(7)),
            };
            ((row.int(0) as i32, row.text(1).to_owned(), waiting), open)
        })
        .collect())
}

/// Rows of a client that wait in the conflicts, by table number and row id.
pub fn waiting_rows(client: &Client) -> Result<HashSet<(i32, String)>, SqlError> {
    let _owner = AsOwner::new();
    let rows = sql::run(
        &format!(
            "SELECT DISTINCT {TABLE_OF_ENTRY}, c.row_id FROM fieldsync.conflict c JOIN fieldsync.tracked_table t USING (table_id)
             WHERE c.client_no = $1 AND c.status = 'open' AND (c.outcome = 'rejected' OR c.rule = $2)"
        ),
        &[Param::Int(i64::from(client.number)), Param::Text(SEPARATE)],
    )?;
    Ok(rows.rows.iter().map(|row| (row.int(0) as i32, row.text(1).to_owned())).collect())
}

/// Records of a client that the hub has refused and that wait, by table number and row id.
pub fn not_taken(client: &Client) -> Result<HashSet<(i32, String)>, SqlError> {
    let _owner = AsOwner::new();
    let rows = sql::run(
        "SELECT table_id, row_id FROM fieldsync.conflict
         WHERE client_no = $1 AND status = 'open' AND outcome = 'rejected' AND operation = 'insert'",
        &[Param::Int(i64::from(client.number))],
    )?;
    Ok(rows.rows.iter().map(|row| (row.int(0) as i32, row.text(1).to_owned())).collect())
}

/// Closes entries that a person has settled on the device. What that changes in a row travels as a change of its own.
pub fn settle(
    client: &Client,
    settled: &[fieldsync_core::delta::Settled],
    cursor: Option<&Snapshot>,
    version: u64,
) -> Result<(), SqlError> {
    let _owner = AsOwner::new();
    let cursor = cursor.and_then(Snapshot::for_postgres);
    for one in settled {
        let outcome = match one.choice.as_str() {
            "mine" => "client",
            "theirs" => "server",
            _ => "custom",
        };
        // What a person has settled on the hub stands, unless the device had heard of it; a repeated delta settles nothing twice.
        sql::run(
            "UPDATE fieldsync.conflict SET status = 'resolved', outcome = $3, resolved_at = clock_timestamp(), told = $4,
                    resolved_by = 'device', resolution = jsonb_build_object('choice', $3)
             WHERE conflict_id = $1 AND client_no = $2
               AND (status = 'open' OR resolved_by IS NULL
                    OR pg_visible_in_snapshot(told::text::xid8, $5::text::pg_snapshot))",
            &[
                Param::Int(one.conflict_id as i64),
                Param::Int(i64::from(client.number)),
                Param::Text(outcome),
                Param::Int(version as i64),
                Param::MaybeText(cursor.as_deref()),
            ],
        )?;
    }
    Ok(())
}

/// Records of this client that wait beside the hub's record of the same key, with the version under which the client was told.
pub fn separate_records(client: &Client) -> Result<separate::Separate, SqlError> {
    let _owner = AsOwner::new();
    let rows = sql::run(
        "SELECT table_id, row_id, raised_version, client <> server FROM fieldsync.conflict
         WHERE client_no = $1 AND status = 'open' AND rule = $2",
        &[Param::Int(i64::from(client.number)), Param::Text(SEPARATE)],
    )?;
    let record = |row: &Vec<fieldsync_core::Value>| separate::Record { told: row.int(2) as u64, differs: row.truth(3) };
    Ok(rows.rows.iter().map(|row| ((row.int(0) as i32, row.text(1).to_owned()), record(row))).collect())
}

/// Adds what came later to an entry that waits: nothing in it is lost, the later value of a field stands. A record made anew
/// under the key of one that waits may be another record: what was there before stays on record, settled.
fn add_to(known: &Open, entry: &Entry, version: u64, batch: &[u8; 16]) -> Result<(), SqlError> {
    let made_anew = known.operation == "insert"
        && entry.operation == "insert"
        && known.client.as_object().is_some_and(|fields| {
            fields.iter().any(|(field, value)| entry.client.get(field).is_some_and(|later| later != value))
        });
    if made_anew {
        sql::run(
            "INSERT INTO fieldsync.conflict (client_no, table_id, row_id, operation, base, client, server, client_clock,
                    server_clock, server_origin, rule, outcome, detail, status, raised_by, change, raised_version, created_at,
                    resolved_at, resolved_by, resolution)
             SELECT client_no, table_id, row_id, operation, base, client, server, client_clock, server_clock, server_origin,
                    rule, outcome, detail, 'resolved', raised_by, change, raised_version, created_at, clock_timestamp(),
                    'correction', '{\"choice\": \"superseded\"}'
             FROM fieldsync.conflict WHERE conflict_id = $1",
            &[Param::Int(known.id)],
        )?;
    }
    let over = |under: &Json, over: &Json| -> Json {
        let mut all = under.as_object().cloned().unwrap_or_default();
        all.extend(over.as_object().cloned().unwrap_or_default());
        Json::Object(all)
    };
    let operation = match (known.operation.as_str(), entry.operation) {
        ("insert", "update") => "insert",
        (_, later) => later,
    };
    let mut change = entry.change.clone();
    change["op"] = json!(operation);
    change["fields"] = over(&known.change["fields"], &entry.change["fields"]);
    if let (None, Some(sent_as)) = (change.get(SENT_AS), known.change.get(SENT_AS)) {
        change[SENT_AS] = sent_as.clone();
    }
    sql::run(
        "UPDATE fieldsync.conflict SET operation = $2, base = $3::text::jsonb, client = $4::text::jsonb,
                server = server || $5::text::jsonb, rule = $6, detail = $7, change = $8::text::jsonb, told = $9,
                client_clock = $10, raised_by = $11::text::uuid
         WHERE conflict_id = $1",
        &[
            Param::Int(known.id),
            Param::Text(operation),
            Param::Text(&jsonb_text(&over(&entry.base, &known.base))),
            Param::Text(&jsonb_text(&over(&known.client, &entry.client))),
            Param::Text(&jsonb_text(&entry.server)),
            Param::Text(&entry.rule),
            Param::MaybeText(entry.detail.as_deref()),
            Param::Text(&jsonb_text(&change)),
            Param::Int(version as i64),
            Param::Int(entry.client_clock),
            Param::Text(&uuid_text(batch)),
        ],
    )?;
    Ok(())
}

/// The number of a table that the hub does not track.
fn number_of(homeless: &Homeless) -> Result<i32, SqlError> {
    let known = sql::run(
        "SELECT table_id FROM fieldsync.tracked_table WHERE table_name = $1 ORDER BY enabled DESC, table_id LIMIT 1",
        &[Param::Text(&homeless.table)],
    )?;
    match known.rows.first() {
        Some(row) => Ok(row.int(0) as i32),
        None => placeholder(&homeless.table),
    }
}

/// A place in the registry for a table that the hub does not track, so that its rejected changes have a name.
fn placeholder(name: &str) -> Result<i32, SqlError> {
    let rows = sql::run(
        "INSERT INTO fieldsync.tracked_table AS t (schema_name, table_name, enabled) VALUES ('', $1, false)
         ON CONFLICT (schema_name, table_name) DO UPDATE SET enabled = t.enabled RETURNING table_id",
        &[Param::Text(&name.chars().take(63).collect::<String>())],
    )?;
    Ok(rows.rows.first().map_or(0, |row| row.int(0) as i32))
}

fn insert(entries: &[Entry], client: &Client, version: u64, batch: &[u8; 16]) -> Result<(), SqlError> {
    let lines: Vec<Json> = entries
        .iter()
        .map(|entry| {
            json!({
                "table_id": entry.table_id, "row_id": entry.row_id, "operation": entry.operation, "base": entry.base,
                "client": entry.client, "server": entry.server, "client_clock": entry.client_clock,
                "server_clock": entry.server_clock, "server_origin": entry.server_origin, "rule": entry.rule,
                "outcome": entry.outcome, "detail": entry.detail,
                "status": if entry.is_open { "open" } else { "resolved" }, "change": entry.change,
                "hub_clocks": entry.hub_clocks.as_ref().map(|clocks| hex(&clocks.to_bytes())),
            })
        })
        .collect();
    let text = jsonb_text(&Json::Array(lines));
    let batch = uuid_text(batch);
    sql::run(
        "INSERT INTO fieldsync.conflict (client_no, table_id, row_id, operation, base, client, server, client_clock,
                server_clock, server_origin, rule, outcome, detail, status, raised_by, change, hub_clocks, told,
                raised_version, resolved_at)
         SELECT $2, e.table_id, e.row_id, e.operation, e.base, e.client, e.server, e.client_clock, e.server_clock,
                e.server_origin, e.rule, e.outcome, e.detail, e.status, $3::text::uuid, e.change, decode(e.hub_clocks, 'hex'), $4, $4,
                CASE WHEN e.status = 'resolved' THEN clock_timestamp() END
         FROM jsonb_to_recordset($1::text::jsonb) AS e(table_id integer, row_id text, operation text, base jsonb,
                client jsonb, server jsonb, client_clock bigint, server_clock bigint, server_origin integer, rule text,
                outcome text, detail text, status text, change jsonb, hub_clocks text)",
        &[
            Param::Text(&text),
            Param::Int(i64::from(client.number)),
            Param::Text(&batch),
            Param::Int(version as i64),
        ],
    )?;
    Ok(())
}

/// Adds to the ledger.
pub fn ledger(client: &Client, outcomes: &Outcomes) -> Result<(), SqlError> {
    if outcomes.total() == 0 {
        return Ok(());
    }
    let _owner = AsOwner::new();
    sql::run(
        "WITH counted AS (
             INSERT INTO fieldsync.outcome AS o (client_no, applied, merged, superseded, conflict, rejected)
             VALUES ($1, $2, $3, $4, $5, $6)
             ON CONFLICT (client_no) DO UPDATE SET applied = o.applied + EXCLUDED.applied,
                 merged = o.merged + EXCLUDED.merged, superseded = o.superseded + EXCLUDED.superseded,
                 conflict = o.conflict + EXCLUDED.conflict, rejected = o.rejected + EXCLUDED.rejected)
         UPDATE fieldsync.client SET acknowledged = acknowledged + $2 + $3 + $4 + $5 + $6 WHERE client_no = $1",
        &[
            Param::Int(i64::from(client.number)),
            Param::Int(outcomes.applied as i64),
            Param::Int(outcomes.merged as i64),
            Param::Int(outcomes.superseded as i64),
            Param::Int(outcomes.conflict as i64),
            Param::Int(outcomes.rejected as i64),
        ],
    )?;
    Ok(())
}
