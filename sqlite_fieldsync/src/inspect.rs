//! `fs_inspect`: what is in a blob, as JSON, without applying it.

use crate::call::{self, Function};
use crate::error::Result;
use crate::state;
use fieldsync_core::enrolment::MacKey;
use fieldsync_core::inspect::{delta_to_json, reply_to_json};
use fieldsync_core::limits::Limits;
use fieldsync_core::wire::{decode_delta, decode_reply, peek, BlobKind};
use fieldsync_core::Value;
use rusqlite::Connection;

pub(crate) fn register(db: &Connection) -> Result<()> {
    Function { name: "fs_inspect", arities: &[1], writes: false, deterministic: false, body: fs_inspect }.register(db)
}

fn fs_inspect(db: &Connection, arguments: &[Value]) -> Result<Value> {
    let blob = call::blob(arguments, 0, "the blob")?;
    let header = peek(blob)?;
    // A signature is checked where it can be: a blob of this database's own client. Others are only shown.
    let mut key: Option<MacKey> = None;
    if header.signed && state::is_initialised(db)? {
        let standing = state::Standing::load(db)?;
        if standing.tag() == header.client {
            key = standing.key;
        }
    }
    let limits = Limits::default();
    let json = match header.kind {
        BlobKind::Delta => delta_to_json(&decode_delta(blob, key.as_ref(), &limits)?, blob.len()),
        BlobKind::Reply => reply_to_json(&decode_reply(blob, key.as_ref(), &limits)?, blob.len()),
    };
    Ok(Value::Text(json.to_string()))
}
