//! What is in a blob, as JSON that a person can read.

use crate::delta::{Delta, Op};
use crate::reply::{Notice, Reply};
use crate::value::Value;
use serde_json::{json, Map, Value as Json};

/// A delta as JSON.
pub fn delta_to_json(delta: &Delta, bytes: usize) -> Json {
    let body = &delta.body;
    let tables: Vec<Json> = body
        .tables
        .iter()
        .map(|table| {
            let changes: Vec<Json> = table
                .changes
                .iter()
                .map(|change| {
                    let named = |value: &dyn Fn(&crate::delta::FieldChange) -> Option<Json>| -> Json {
                        let fields: Map<String, Json> = change
                            .fields
                            .iter()
                            .filter_map(|field| Some((name(&table.columns, field.column), value(field)?)))
                            .collect();
                        Json::Object(fields)
                    };
                    let mut shown = json!({
                        "op": change.op.word(),
                        "row_id": change.key.row_id(),
                        "clock_ms": change.clock.ms(),
                        "logged": change.count,
                    });
                    if matches!(change.op, Op::Insert | Op::Update) {
                        shown["new"] = named(&|field| Some(field.new.to_json()));
                    }
                    if change.op == Op::Update {
                        shown["old"] = named(&|field| field.old.as_ref().map(Value::to_json));
                    }
                    shown
                })
                .collect();
            json!({ "table": table.table, "key": key_names(&table.columns, table.key_len), "changes": changes })
        })
        .collect();
    json!({
        "kind": "delta",
        "bytes": bytes,
        "client": format!("{:016x}", delta.client),
        "history": format!("{:08x}", delta.history),
        "device_now_ms": delta.device_now_ms,
        "parent": format!("{:016x}", body.parent),
        "unanswered": body.unanswered.iter().map(|batch| format!("{batch:016x}")).collect::<Vec<_>>(),
        "cursor": body.cursor.as_ref().map(ToString::to_string),
        "bases": body.bases.iter().map(|base| json!({"until": base.until.0, "cursor": base.snapshot.as_ref().map(ToString::to_string)})).collect::<Vec<_>>(),
        "watermark": body.watermark.0,
        "high": body.high.0,
        "logged_changes": body.logged_changes(),
        "more": body.more,
        "recovery": body.recovery.map(|recovery| json!({"after": recovery.after.0, "until": recovery.until.0, "as_of": recovery.as_of.0})),
        "wants": body.wants.iter().map(|want| json!({"table": want.table, "row_id": want.key.row_id()})).collect::<Vec<_>>(),
        "settled": body.settled.iter().map(|settled| json!({"conflict_id": settled.conflict_id, "choice": settled.choice})).collect::<Vec<_>>(),
        "names_wanted": body.names_wanted,
        "tables": tables,
    })
}

/// A reply as JSON.
pub fn reply_to_json(reply: &Reply, bytes: usize) -> Json {
    let body = &reply.body;
    let tables: Vec<Json> = body
        .tables
        .iter()
        .map(|table| {
            let rows: Vec<Json> = table
                .rows
                .iter()
                .map(|row| {
                    let fields: Map<String, Json> = row
                        .fields
                        .iter()
                        .map(|(column, value)| (name(&table.columns, *column), value.to_json()))
                        .collect();
                    json!({ "op": row.op.word(), "row_id": row.key.row_id(), "new": fields })
                })
                .collect();
            json!({ "table": table.table, "key": key_names(&table.columns, table.key_len), "rows": rows })
        })
        .collect();
    let outcomes = body.outcomes;
    json!({
        "kind": "reply",
        "bytes": bytes,
        "client": format!("{:016x}", reply.client),
        "history": format!("{:08x}", reply.history),
        "hub_now_ms": reply.hub_now_ms,
        "batch": format!("{:016x}", body.batch),
        "cursor": body.cursor.to_string(),
        "watermark": body.watermark.0,
        "outcomes": {
            "applied": outcomes.applied, "merged": outcomes.merged, "superseded": outcomes.superseded,
            "conflict": outcomes.conflict, "rejected": outcomes.rejected,
        },
        "more": body.more,
        "notices": body.notices.iter().map(notice_to_json).collect::<Vec<_>>(),
        "tables": tables,
    })
}

/// Values by field, as the `conflicts` views show them.
pub fn fields_to_json<'a>(fields: impl IntoIterator<Item = (&'a str, &'a Value)>) -> Json {
    Json::Object(fields.into_iter().map(|(field, value)| (field.to_owned(), value.to_json())).collect())
}

fn notice_to_json(notice: &Notice) -> Json {
    match notice {
        Notice::Conflict(conflict) => json!({
            "notice": "conflict", "conflict_id": conflict.conflict_id, "table": conflict.table,
            "row_id": conflict.key.row_id(), "operation": conflict.operation,
            "base": text_json(&conflict.base), "mine": text_json(&conflict.mine), "theirs": text_json(&conflict.theirs),
            "rule": conflict.rule, "outcome": conflict.outcome, "detail": conflict.detail, "status": conflict.status,
        }),
        Notice::NewIdentity { client_id, reason } => {
            json!({ "notice": "new_identity", "client_id": client_id, "reason": reason })
        }
        Notice::NewHistory { watermark, reason, .. } => {
            json!({ "notice": "new_history", "watermark": watermark.0, "reason": reason })
        }
        Notice::Warning(text) => json!({ "notice": "warning", "text": text }),
        Notice::NamesWanted => json!({ "notice": "names_wanted" }),
    }
}

fn text_json(text: &str) -> Json {
    serde_json::from_str(text).unwrap_or_else(|_| Json::String(text.to_owned()))
}

fn name(columns: &[String], column: u16) -> String {
    columns.get(usize::from(column)).cloned().unwrap_or_default()
}

fn key_names(columns: &[String], key_len: u16) -> &[String] {
    &columns[..usize::from(key_len).min(columns.len())]
}
