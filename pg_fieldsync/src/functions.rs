//! The SQL functions: each is one call into the engine. Their declarations are in `sql/hub/20_functions.sql`.

use crate::error::HubError;
use crate::{enable, sync};
use pgrx::pg_sys::panic::ErrorReport;
use pgrx::prelude::*;
use pgrx::JsonB;

fn raised<T>(result: Result<T, HubError>) -> Result<T, ErrorReport> {
    result.map_err(|error| error.report())
}

/// `sync_control.enable(regclass, jsonb)`
#[pg_extern(sql = false)]
fn fieldsync_enable(table: pg_sys::Oid, options: JsonB) -> Result<JsonB, ErrorReport> {
    raised(enable::enable(table, &options.0).map(JsonB))
}

/// `sync_control.disable(regclass)`
#[pg_extern(sql = false)]
fn fieldsync_disable(table: pg_sys::Oid) -> Result<(), ErrorReport> {
    raised(enable::disable(table))
}

/// `sync_control.send_again(regclass)`
#[pg_extern(sql = false)]
fn fieldsync_send_again(table: pg_sys::Oid) -> Result<(), ErrorReport> {
    raised(enable::send_again(table))
}

/// `fieldsync.note_lateness()`
#[pg_extern(sql = false)]
fn fieldsync_note_lateness() {
    crate::feed::note_lateness();
}

/// `fieldsync.still_in_use(boolean)`
#[pg_extern(sql = false)]
fn fieldsync_still_in_use(at_commit: bool) -> Result<Option<JsonB>, ErrorReport> {
    let found = raised(crate::marked::still_in_use(at_commit).map_err(HubError::Sql))?;
    Ok(found.map(|found| {
        JsonB(serde_json::json!({
            "schema": found.by.0,
            "table": found.by.1,
            "constraint": found.constraint,
            "message": found.message,
            "detail": found.detail,
        }))
    }))
}

/// `fieldsync.client_tag(text)`
#[pg_extern(sql = false)]
fn fieldsync_client_tag(client_id: &str) -> i64 {
    fieldsync_core::delta::client_tag(client_id) as i64
}

/// `sync_control.prepare(bytea)`
#[pg_extern(sql = false)]
#[allow(clippy::type_complexity)]
fn fieldsync_prepare(
    delta: &[u8],
) -> Result<
    TableIterator<
        'static,
        (
            name!(batch, pgrx::Uuid),
            name!(accepted, i32),
            name!(conflicts, i32),
            name!(rejected, i32),
            name!(report, JsonB),
        ),
    >,
    ErrorReport,
> {
    let (batch, accepted, conflicts, rejected, report) = raised(sync::prepare(delta))?;
    let count = |number: i64| i32::try_from(number).unwrap_or(i32::MAX);
    Ok(TableIterator::once((
        pgrx::Uuid::from_bytes(batch),
        count(accepted),
        count(conflicts),
        count(rejected),
        JsonB(report),
    )))
}

/// `sync_control.commit(uuid)`
#[pg_extern(sql = false)]
fn fieldsync_commit(batch: pgrx::Uuid) -> Result<Vec<u8>, ErrorReport> {
    raised(sync::commit(batch.as_bytes()))
}

/// `sync_control.sync(bytea)`
#[pg_extern(sql = false)]
fn fieldsync_sync(delta: &[u8]) -> Result<Vec<u8>, ErrorReport> {
    raised(sync::sync(delta))
}

/// `sync_control.inspect(bytea)`
#[pg_extern(sql = false)]
fn fieldsync_inspect(blob: &[u8]) -> Result<JsonB, ErrorReport> {
    raised(sync::inspect(blob).map(JsonB))
}
