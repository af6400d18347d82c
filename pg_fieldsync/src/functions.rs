//! The SQL functions: each is one call into the engine. Their declarations are in `sql/hub/20_functions.sql`.

use crate::enable;
use crate::error::HubError;
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

/// `fieldsync.client_tag(text)`
#[pg_extern(sql = false)]
fn fieldsync_client_tag(client_id: &str) -> i64 {
    fieldsync_core::delta::client_tag(client_id) as i64
}
