//! Who sends a blob.

use crate::catch::SqlError;
use crate::error::HubError;
use crate::guards::AsOwner;
use crate::settings;
use crate::sql::{self, Cells, Param};
use fieldsync_core::clocks::Origin;
use fieldsync_core::delta::{BatchId, ClientTag, DeltaBody};
use fieldsync_core::enrolment::MacKey;
use fieldsync_core::{Hlc, Snapshot};
use std::collections::HashMap;

/// A registered client.
#[derive(Debug, Clone)]
pub struct Client {
    /// Its short name as an origin.
    pub number: Origin,
    /// Its id.
    pub client_id: String,
    /// Its tag.
    pub tag: ClientTag,
    /// Its key, if it was registered with one.
    pub key: Option<MacKey>,
    /// The greatest device clock that was answered.
    pub watermark: Hlc,
    /// The last committed batch; 0: none.
    pub last_batch: BatchId,
}

/// The client of a tag, its row locked until the transaction ends: two deltas of one client never merge at once.
pub fn find(tag: ClientTag) -> Result<Client, HubError> {
    let role = current_role()?;
    let _owner = AsOwner::new();
    let rows = sql::run(
        "SELECT c.client_no, c.client_id, c.mac_key, c.watermark, c.last_batch, c.copied_from, c.role_name::text,
                s.sync_status = 'disabled'
         FROM fieldsync.client c JOIN sync_control.client_state s USING (client_id)
         WHERE c.tag = $1 FOR NO KEY UPDATE OF c",
        &[Param::Int(tag as i64)],
    )?;
    let Some(row) = rows.rows.first() else { return Err(HubError::UnknownClient(tag)) };
    let client_id = row.text(1).to_owned();
    if row.truth(7) {
        return Err(HubError::DisabledClient(client_id));
    }
    if row.maybe_text(6).is_some_and(|bound| bound != role.0 && bound != role.1) {
        return Err(HubError::WrongLogin { client_id, role: role.1 });
    }
    let key = <[u8; 32]>::try_from(row.bytes(2)).ok().map(MacKey);
    if key.is_none() && settings::require_signature() {
        return Err(HubError::BadSignature {
            client_id,
            what: "the client has no key, and fieldsync.require_signature is on".to_owned(),
        });
    }
    Ok(Client {
        number: row.int(0) as Origin,
        client_id,
        tag,
        key,
        watermark: Hlc::from_i64(row.int(3)),
        last_batch: row.int(4) as u64,
    })
}

/// Whom the session is: by login and by SET ROLE.
fn current_role() -> Result<(String, String), SqlError> {
    let rows = sql::run("SELECT session_user::pg_catalog.text, current_user::pg_catalog.text", &[])?;
    Ok(rows.rows.first().map(|row| (row.text(0).to_owned(), row.text(1).to_owned())).unwrap_or_default())
}

/// Client ids by origin.
pub fn names() -> Result<HashMap<Origin, String>, SqlError> {
    let _owner = AsOwner::new();
    let rows = sql::run("SELECT client_no, client_id FROM fieldsync.client", &[])?;
    Ok(rows.rows.iter().map(|row| (row.int(0) as Origin, row.text(1).to_owned())).collect())
}

/// Gives a copied database an identity of its own. The same copy asking again (its answer was lost) gets the same one.
pub fn split(original: &Client, sender_now_ms: u64, batch: BatchId, body: &DeltaBody) -> Result<String, SqlError> {
    let _owner = AsOwner::new();
    let known = sql::run(
        "SELECT client_id FROM fieldsync.client WHERE copied_from = $1 AND copied_by = $2",
        &[Param::Int(i64::from(original.number)), Param::Int(batch as i64)],
    )?;
    if let Some(row) = known.rows.first() {
        return Ok(row.text(0).to_owned());
    }
    let short = fieldsync_core::delta::client_tag(&format!("{}/{batch}/{sender_now_ms}", original.client_id)) as u32;
    let stem: String = original.client_id.chars().take(55).collect();
    let client_id = format!("{stem}-{short:08x}");
    let name = sql::scalar(
        "SELECT client_name FROM sync_control.client_state WHERE client_id = $1",
        &[Param::Text(&original.client_id)],
    )?;
    let name = format!("{} (copy)", if name.is_null() { original.client_id.clone() } else { name.to_text() });
    sql::run(
        "INSERT INTO sync_control.client_state (client_id, client_name) VALUES ($1, left($2, 255))",
        &[Param::Text(&client_id), Param::Text(&name)],
    )?;
    let key = original.key.as_ref().map(|key| key.derive(&client_id).0);
    sql::run(
        "UPDATE fieldsync.client c SET mac_key = $2, copied_from = o.client_no, copied_by = $4, copied_after = $5,
                role_name = o.role_name, held = $6, former_shapes = o.former_shapes || o.delta_shapes
         FROM fieldsync.client o WHERE c.client_id = $1 AND o.client_no = $3",
        &[
            Param::Text(&client_id),
            Param::MaybeBytes(key.as_ref().map(|key| key.as_slice())),
            Param::Int(i64::from(original.number)),
            Param::Int(batch as i64),
            Param::Int(body.parent as i64),
            Param::MaybeText(body.cursor.as_ref().and_then(Snapshot::for_postgres).as_deref()),
        ],
    )?;
    // Its cursor is that of its original, and so is what the cursor wrongly calls seen: what was written after the answer that it came
    // with (under its own name it has had none yet), and tables that were left out. It may carry no more than its original, either.
    sql::run(
        "WITH copy AS (SELECT client_no FROM fieldsync.client WHERE client_id = $1),
              late AS (INSERT INTO fieldsync.late_write (client_no, version, batch_id)
                       SELECT copy.client_no, l.version, 0 FROM copy, fieldsync.late_write l
                       WHERE l.client_no = $2 AND l.batch_id = $3),
              withheld AS (INSERT INTO fieldsync.withheld (client_no, table_id, given_since, partly)
                           SELECT copy.client_no, w.table_id, w.given_since, w.partly FROM copy, fieldsync.withheld w
                           WHERE w.client_no = $2),
              unseen AS (INSERT INTO fieldsync.unseen (client_no, table_id, cursor, given_since)
                         SELECT copy.client_no, u.table_id, u.cursor, u.given_since FROM copy, fieldsync.unseen u
                         WHERE u.client_no = $2)
         INSERT INTO sync_control.table_sync_state (client_id, table_name, sync_priority, sync_direction, sync_filter)
         SELECT $1, s.table_name, s.sync_priority, s.sync_direction, s.sync_filter
         FROM sync_control.table_sync_state s WHERE s.client_id = $4",
        &[
            Param::Text(&client_id),
            Param::Int(i64::from(original.number)),
            Param::Int(body.parent as i64),
            Param::Text(&original.client_id),
        ],
    )?;
    Ok(client_id)
}
