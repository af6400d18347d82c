//! What the operators' SQL (`sql/hub/3*.sql`) needs of the engine's formats: keys in the feed as text, and enrolment texts.

use crate::catch::SqlError;
use crate::error::HubError;
use crate::{catalog, feed, keys};
use fieldsync_core::enrolment::MacKey;
use pgrx::pg_sys::panic::ErrorReport;
use pgrx::prelude::*;

/// The row ids in one feed entry; none for a table that is not tracked any more.
fn row_ids(table_id: i32, packed: &[u8]) -> Result<Vec<String>, HubError> {
    let Some(&(_, relation, _, _)) = catalog::enabled()?.iter().find(|(id, _, _, _)| *id == table_id) else {
        return Ok(Vec::new());
    };
    let Some(table) = catalog::table(relation)? else { return Ok(Vec::new()) };
    let found = keys::unpack(packed, table.key.len()).ok_or_else(feed::damaged)?;
    Ok(found.iter().map(|key| table.row_id(key)).collect())
}

/// `fieldsync.feed_row_ids(integer, bytea)`
#[pg_extern(sql = false)]
fn fieldsync_feed_row_ids(table_id: i32, packed: &[u8]) -> Result<SetOfIterator<'static, String>, ErrorReport> {
    row_ids(table_id, packed).map(SetOfIterator::new).map_err(|error| error.report())
}

/// `fieldsync.enrolment_text(bytea)`
#[pg_extern(sql = false)]
fn fieldsync_enrolment_text(key: &[u8]) -> Result<String, ErrorReport> {
    let key: [u8; 32] =
        key.try_into().map_err(|_| HubError::Sql(SqlError::new("22023", "a client's key has 32 bytes")).report())?;
    Ok(MacKey(key).to_enrolment())
}
