//! `sync_log`: one line for each thing that happened to a client.

use crate::catch::SqlError;
use crate::client::Client;
use crate::guards::AsOwner;
use crate::pull::Pulled;
use crate::receive::Received;
use crate::sql::{self, Param};
use crate::trigger::now_ms;
use crate::verdicts::Verdicts;
use fieldsync_core::clock::SkewCorrection;
use fieldsync_core::reply::Outcomes;

/// One line of `sync_log`.
struct Logged<'a> {
    /// push, pull, clock_skew, new_identity, names_wanted, …
    operation: &'a str,
    /// The table, where there is only one.
    table: Option<&'a str>,
    /// Rows that moved.
    rows: u64,
    /// How long it took.
    duration_ms: u64,
    /// success, partial, conflict, error.
    status: &'a str,
    /// In words.
    message: Option<&'a str>,
}

/// What happened to a client without moving a row.
pub fn event(client: &Client, operation: &str, message: &str) -> Result<(), SqlError> {
    line(client, &Logged { operation, table: None, rows: 0, duration_ms: 0, status: "success", message: Some(message) })
}

/// Writes a line of `sync_log`.
fn line(client: &Client, line: &Logged<'_>) -> Result<(), SqlError> {
    let _owner = AsOwner::new();
    sql::run(
        "INSERT INTO sync_control.sync_log (client_id, operation, table_name, rows_affected, duration_ms, status, error_message)
         VALUES ($1, $2, $3, $4, $5, $6, $7)",
        &[
            Param::Text(&client.client_id),
            Param::Text(line.operation),
            Param::MaybeText(line.table),
            Param::Int(line.rows as i64),
            Param::Int(line.duration_ms as i64),
            Param::Text(line.status),
            Param::MaybeText(line.message),
        ],
    )?;
    Ok(())
}

/// How a push is called in the log: an error if the hub could take nothing of it.
fn status(outcomes: &Outcomes) -> &'static str {
    match () {
        () if outcomes.rejected > 0 && outcomes.rejected == outcomes.total() => "error",
        () if outcomes.rejected > 0 => "partial",
        () if outcomes.conflict > 0 => "conflict",
        () => "success",
    }
}

/// What came up.
pub fn push(received: &Received<'_>, verdicts: &Verdicts, started: u64) -> Result<(), SqlError> {
    if verdicts.tables.is_empty() {
        return Ok(());
    }
    let rejected = verdicts.rejected().count();
    let message = verdicts.rejected().next().map(|first| {
        let error = first.error.as_ref().map(ToString::to_string).unwrap_or_default();
        format!("{rejected} rejected; first: {} {}: {error}", first.table, first.row_id)
    });
    line(
        &received.client,
        &Logged {
            operation: "push",
            table: verdicts.tables.first().map(String::as_str).filter(|_| verdicts.tables.len() == 1),
            rows: verdicts.outcomes.total(),
            duration_ms: now_ms().saturating_sub(started),
            status: status(&verdicts.outcomes),
            message: message.as_deref(),
        },
    )
}

/// What went down, and how far each table has come.
pub fn pull(received: &Received<'_>, pulled: &Pulled, started: u64) -> Result<(), SqlError> {
    line(
        &received.client,
        &Logged {
            operation: "pull",
            table: pulled.per_table.first().map(|(table, _)| table.as_str()).filter(|_| pulled.per_table.len() == 1),
            rows: pulled.rows,
            duration_ms: now_ms().saturating_sub(started),
            status: "success",
            message: None,
        },
    )?;
    let _owner = AsOwner::new();
    for (table, rows) in &pulled.per_table {
        sql::run(
            "INSERT INTO sync_control.table_sync_state AS s (client_id, table_name, last_synced_version, last_synced_at, row_count_synced)
             VALUES ($1, $2, pg_current_xact_id()::text::bigint, now(), $3)
             ON CONFLICT (client_id, table_name) DO UPDATE SET last_synced_version = EXCLUDED.last_synced_version,
                 last_synced_at = EXCLUDED.last_synced_at, row_count_synced = s.row_count_synced + EXCLUDED.row_count_synced",
            &[Param::Text(&received.client.client_id), Param::Text(table), Param::Int(*rows as i64)],
        )?;
    }
    Ok(())
}

/// A clock that is wrong.
pub fn skew(received: &Received<'_>) -> Result<(), SqlError> {
    let correction = SkewCorrection::new(received.delta.device_now_ms, now_ms());
    if !correction.is_notable() {
        return Ok(());
    }
    let seconds = correction.skew_ms() / 1000;
    let message = format!(
        "the device's clock is {} seconds {}",
        seconds.unsigned_abs(),
        if seconds > 0 { "ahead" } else { "behind" }
    );
    event(&received.client, "clock_skew", &message)
}
