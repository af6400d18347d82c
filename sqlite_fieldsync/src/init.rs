//! `fs_init`: sets a database up and gives it its identity. And `fs_version`.
//!
//! Invariant: a database keeps its identity. Called again, `fs_init` changes nothing, except that an enrolment text can
//! still be added.

use crate::call::{self, Function};
use crate::error::{Error, Result};
use crate::sql::atomically;
use crate::{state, views};
use fieldsync_core::enrolment::MacKey;
use fieldsync_core::Value;
use rusqlite::{Connection, OptionalExtension};

/// What fieldsync keeps in a device's database.
const TABLES: &str = include_str!("../../sql/device/10_tables.sql");
/// The layout of these tables: 2 since the log has places and clocks ([`crate::log`]). No release had another.
const LAYOUT: i64 = 2;
/// The longest client id that the hub's columns hold.
const CLIENT_ID_CHARACTERS_MAX: usize = 64;

pub(crate) fn register(db: &Connection) -> Result<()> {
    Function { name: "fs_init", arities: &[0, 1, 2], writes: true, deterministic: false, body: fs_init }
        .register(db)?;
    Function { name: "fs_version", arities: &[0], writes: false, deterministic: true, body: fs_version }.register(db)
}

fn fs_version(_: &Connection, _: &[Value]) -> Result<Value> {
    Ok(env!("CARGO_PKG_VERSION").into())
}

fn fs_init(db: &Connection, arguments: &[Value]) -> Result<Value> {
    let wanted = call::optional_text(arguments, 0, "the client id")?;
    let enrolment = call::optional_text(arguments, 1, "the enrolment")?;
    if let Some(id) = wanted {
        if id.is_empty() || id.chars().count() > CLIENT_ID_CHARACTERS_MAX || id.chars().any(char::is_control) {
            return Err(Error::argument(format!(
                "a client id has 1 to {CLIENT_ID_CHARACTERS_MAX} characters, without control characters"
            )));
        }
    }
    let key = enrolment
        .map(|text| MacKey::from_enrolment(text).map_err(|error| Error::argument(error.to_string())))
        .transpose()?;
    atomically(db, || {
        if !state::is_initialised(db)? {
            check_names(db)?;
        }
        db.execute_batch(TABLES)?;
        let id = match (state::get(db, "client_id")?, wanted) {
            (Value::Text(id), Some(wanted)) if id != wanted => return Err(Error::OtherIdentity(id)),
            (Value::Text(id), _) => id,
            (_, wanted) => {
                let id = match wanted {
                    Some(id) => id.to_owned(),
                    None => random_id(db)?,
                };
                state::set(db, "client_id", &Value::Text(id.clone()))?;
                state::set_integer(db, "retention_days", 90)?;
                state::set_integer(db, "layout", LAYOUT)?;
                id
            }
        };
        if let Some(key) = &key {
            state::set(db, "mac_key", &Value::Blob(key.0.to_vec()))?;
        }
        views::refresh(db)?;
        Ok(Value::Text(id))
    })
}

/// Refuses a database that has something of its own under a name of ours: teams that synced by hand have a `sync_queue`.
fn check_names(db: &Connection) -> Result<()> {
    let taken: Option<(String, String)> = db
        .query_row(
            "SELECT type, name FROM main.sqlite_master WHERE type IN ('table', 'view') AND lower(name) IN
               ('sync_queue', 'sync_state', 'fs_conflicts', 'fs_changelog', 'fs_row_status', 'fs_state', 'fs_log', 'fs_table',
                'fs_column', 'fs_batch', 'fs_base', 'fs_conflict', 'fs_later', 'fs_want', 'fs_arrived', 'fs_note', 'fs_shape')
             ORDER BY name LIMIT 1",
            [],
            |row| Ok((row.get(0)?, row.get(1)?)),
        )
        .optional()?;
    match taken {
        None => Ok(()),
        Some((kind, name)) if kind == "view" => Err(Error::argument(format!(
            "this database has a view '{name}' of its own, and fieldsync needs the name; make it again under another one"
        ))),
        Some((_, name)) => Err(Error::argument(format!(
            "this database has a table '{name}' of its own, and fieldsync needs the name; rename it first (ALTER TABLE {name} RENAME TO old_{name})"
        ))),
    }
}

/// A random UUID (version 4), from SQLite's own generator, which it seeds from the operating system.
fn random_id(db: &Connection) -> Result<String> {
    Ok(db.query_row(
        "SELECT lower(printf('%s-%s-4%s-%s%s-%s', substr(h, 1, 8), substr(h, 9, 4), substr(h, 14, 3),
                             substr('89ab', 1 + (random() & 3), 1), substr(h, 18, 3), substr(h, 21, 12)))
         FROM (SELECT hex(randomblob(16)) AS h)",
        [],
        |row| row.get(0),
    )?)
}
