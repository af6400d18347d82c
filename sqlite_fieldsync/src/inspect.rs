//! `fs_inspect`: what is in a blob, as JSON, without applying it.

use crate::call::{self, Function};
use crate::error::Result;
use crate::shapes::{self, Direction};
use crate::state;
use fieldsync_core::enrolment::MacKey;
use fieldsync_core::inspect::{delta_to_json, reply_to_json};
use fieldsync_core::limits::Limits;
use fieldsync_core::wire::{decode_delta_with, decode_reply_with, peek, BlobKind, Shapes};
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
    // Names that have travelled before may be left out; they are known of this database's own blobs.
    let shapes = |direction| match state::is_initialised(db)? {
        true => shapes::travelled(db, direction),
        false => Ok(Shapes::none()),
    };
    let json = match header.kind {
        BlobKind::Delta => {
            delta_to_json(&decode_delta_with(blob, key.as_ref(), &limits, &shapes(Direction::Up)?)?, blob.len())
        }
        BlobKind::Reply => {
            reply_to_json(&decode_reply_with(blob, key.as_ref(), &limits, &shapes(Direction::Down)?)?, blob.len())
        }
    };
    Ok(Value::Text(json.to_string()))
}
