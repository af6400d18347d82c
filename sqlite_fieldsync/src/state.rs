//! Settings and state of the database, by name, in `fs_state`.
//!
//! Invariant: what is stored here moves only inside the transaction of the call that moves it.

use crate::error::{Error, Result};
use crate::log::Position;
use crate::sql::{self, Bound};
use fieldsync_core::delta::{client_tag, BatchId, ClientTag, HistoryTag};
use fieldsync_core::enrolment::MacKey;
use fieldsync_core::{Hlc, Snapshot, Value};
use rusqlite::{Connection, OptionalExtension};

/// A stored value; NULL where nothing is stored.
pub fn get(db: &Connection, name: &str) -> Result<Value> {
    let mut statement = db.prepare_cached("SELECT value FROM main.fs_state WHERE name = ?1")?;
    let value = statement.query_row([name], |row| Ok(sql::value_from(row.get_ref(0)?))).optional()?;
    Ok(value.unwrap_or_default())
}

/// Stores a value.
pub fn set(db: &Connection, name: &str, value: &Value) -> Result<()> {
    let mut statement = db.prepare_cached(
        "INSERT INTO main.fs_state(name, value) VALUES (?1, ?2) ON CONFLICT(name) DO UPDATE SET value = excluded.value",
    )?;
    statement.raw_bind_parameter(1, name)?;
    statement.raw_bind_parameter(2, Bound(value))?;
    statement.raw_execute()?;
    Ok(())
}

/// A stored integer; 0 where nothing is stored.
pub fn integer(db: &Connection, name: &str) -> Result<i64> {
    Ok(match get(db, name)? {
        Value::Int(number) => number,
        _ => 0,
    })
}

/// Stores an integer.
pub fn set_integer(db: &Connection, name: &str, number: i64) -> Result<()> {
    set(db, name, &Value::Int(number))
}

/// Whether `fs_init` has been called on this database.
pub fn is_initialised(db: &Connection) -> Result<bool> {
    let found: bool = db
        .prepare_cached("SELECT count(*) FROM main.sqlite_master WHERE type = 'table' AND name = 'fs_state'")?
        .query_row([], |row| row.get::<_, i64>(0).map(|count| count > 0))?;
    Ok(found && get(db, "client_id")? != Value::Null)
}

/// Who this database is and how far it is in step with its hub.
#[derive(Debug, Clone)]
pub struct Standing {
    /// Its name at the hub.
    pub client_id: String,
    /// The key under its blobs, if it has one.
    pub key: Option<MacKey>,
    /// The hub's history that cursor and watermark belong to; 0: it has never heard from a hub.
    pub history: HistoryTag,
    /// What it has seen of the hub.
    pub cursor: Option<Snapshot>,
    /// Up to which clock the hub has answered.
    pub watermark: Hlc,
    /// The place of that clock in the log.
    pub watermark_place: i64,
    /// The last batch whose answer was applied.
    pub parent: BatchId,
    /// Exports so far.
    pub sequence: u64,
}

impl Standing {
    /// Reads it; an error if the database is not set up.
    pub fn load(db: &Connection) -> Result<Standing> {
        if !is_initialised(db)? {
            return Err(Error::NotInitialised);
        }
        let Value::Text(client_id) = get(db, "client_id")? else {
            return Err(Error::OwnData("client_id".into()));
        };
        let key = match get(db, "mac_key")? {
            Value::Blob(bytes) => Some(MacKey(bytes.try_into().map_err(|_| Error::OwnData("mac_key".into()))?)),
            _ => None,
        };
        let cursor = match get(db, "cursor")? {
            Value::Text(text) => Some(text.parse().map_err(|_| Error::OwnData(format!("cursor {text}")))?),
            _ => None,
        };
        Ok(Standing {
            client_id,
            key,
            history: integer(db, "history")? as HistoryTag,
            cursor,
            watermark: Hlc::from_i64(integer(db, "watermark")?),
            watermark_place: integer(db, "watermark_place")?,
            parent: integer(db, "parent")? as BatchId,
            sequence: integer(db, "sequence")? as u64,
        })
    }

    /// Where what the hub has not answered begins in the log.
    pub fn answered(&self) -> Position {
        Position { place: self.watermark_place, clock: self.watermark }
    }

    /// Its name in the eight bytes of a header.
    pub fn tag(&self) -> ClientTag {
        client_tag(&self.client_id)
    }
}

/// Stores up to where the hub has answered.
pub fn set_watermark(db: &Connection, watermark: Hlc, place: i64) -> Result<()> {
    set_integer(db, "watermark", watermark.as_i64())?;
    set_integer(db, "watermark_place", place)
}

/// Up to where the hub has told what became of this device's changes: an answer that only confirms tells nothing, and rejections
/// among what it confirms are told later. Never beyond the watermark.
pub fn told(db: &Connection, standing: &Standing) -> Result<Position> {
    match get(db, "told_place")? {
        Value::Int(place) if place < standing.watermark_place => {
            Ok(Position { place, clock: Hlc::from_i64(integer(db, "told")?) })
        }
        _ => Ok(standing.answered()),
    }
}

/// Stores up to where it has told.
pub fn set_told(db: &Connection, told: Position) -> Result<()> {
    set_integer(db, "told", told.clock.as_i64())?;
    set_integer(db, "told_place", told.place)
}

/// Writes down something that a person should read.
pub fn note(db: &Connection, text: &str) -> Result<()> {
    db.prepare_cached("INSERT INTO main.fs_note(text) VALUES (?1)")?.execute([text])?;
    // Enough to see what happened, not a second database.
    db.prepare_cached("DELETE FROM main.fs_note WHERE note_no <= (SELECT max(note_no) FROM main.fs_note) - 1000")?
        .execute([])?;
    Ok(())
}

/// The next export asks for all of the hub's rows; if they are under way already, that will do. (Asked for anew, those on their way
/// would not be compared where a table was made anew, and go over what was written there unseen.)
pub fn pull_again(db: &Connection) -> Result<()> {
    set_integer(db, "repull", 1)
}
