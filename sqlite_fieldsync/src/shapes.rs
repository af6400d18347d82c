//! Which tables' names the hub knows, and which of the hub's this device knows: they need not travel again.
//!
//! Invariants (of the protocol, see `fieldsync_core::wire::Shape`):
//! * Up: the hub knows a shape once a batch that carried its names has been answered. Down: this device knows those of every
//!   reply that it has applied; they are kept in the same transaction.
//! * Of two shapes with one tag the first that ever travelled counts, on both ends; the other keeps its names.
//! * Whatever makes the other end's memory doubtful (another identity, another history, a word that names are wanted) makes
//!   this end forget.

use crate::error::{Error, Result};
use fieldsync_core::wire::{Shape, Shapes};
use rusqlite::Connection;

/// Where a shape travels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// In deltas.
    Up = 0,
    /// In replies.
    Down = 1,
}

/// The shapes of a direction: those that may travel without names, or all that have ever travelled with them.
fn load(db: &Connection, direction: Direction, known_only: bool) -> Result<Shapes> {
    let mut statement =
        db.prepare_cached("SELECT shape FROM main.fs_shape WHERE direction = ?1 AND (known OR NOT ?2)")?;
    let mut rows = statement.query((direction as i64, known_only))?;
    let mut shapes = Shapes::none();
    while let Some(row) = rows.next()? {
        let bytes: Vec<u8> = row.get(0)?;
        shapes.add(Shape::from_bytes(&bytes).ok_or_else(|| Error::OwnData("fs_shape".into()))?);
    }
    Ok(shapes)
}

/// Those that the other end is known to know.
pub fn known(db: &Connection, direction: Direction) -> Result<Shapes> {
    load(db, direction, true)
}

/// All that ever travelled: for a look into blobs that were made here.
pub fn travelled(db: &Connection, direction: Direction) -> Result<Shapes> {
    load(db, direction, false)
}

/// Keeps a shape, unless another one has its tag. Gives its tag if it is the one kept.
fn keep(db: &Connection, direction: Direction, shape: &Shape, known: bool) -> Result<Option<u16>> {
    let (tag, bytes) = (shape.tag(), shape.to_bytes());
    db.prepare_cached(
        "INSERT INTO main.fs_shape(direction, tag, shape, known) VALUES (?1, ?2, ?3, ?4)
         ON CONFLICT(direction, tag) DO UPDATE SET known = max(known, excluded.known) WHERE shape = excluded.shape",
    )?
    .execute((direction as i64, tag, &bytes, known))?;
    let kept: Vec<u8> = db
        .prepare_cached("SELECT shape FROM main.fs_shape WHERE direction = ?1 AND tag = ?2")?
        .query_row((direction as i64, tag), |row| row.get(0))?;
    Ok((kept == bytes).then_some(tag))
}

/// Shapes of an export's tables: of those that travel with their names the tags are given, to be kept with the batch.
pub fn carried(db: &Connection, shapes: &[Shape], known: &Shapes) -> Result<Vec<u8>> {
    let mut tags = Vec::new();
    for shape in shapes.iter().filter(|shape| !known.knows(shape)) {
        if let Some(tag) = keep(db, Direction::Up, shape, false)? {
            tags.extend(tag.to_le_bytes());
        }
    }
    Ok(tags)
}

/// The export with this sequence was answered: the hub has its names.
pub fn answered(db: &Connection, sequence: i64) -> Result<()> {
    let mut statement =
        db.prepare_cached("SELECT shapes FROM main.fs_batch WHERE sequence = ?1 AND shapes IS NOT NULL")?;
    let mut rows = statement.query([sequence])?;
    while let Some(row) = rows.next()? {
        let tags: Vec<u8> = row.get(0)?;
        for tag in tags.chunks_exact(2) {
            db.prepare_cached("UPDATE main.fs_shape SET known = 1 WHERE direction = 0 AND tag = ?1")?
                .execute([u16::from_le_bytes([tag[0], tag[1]])])?;
        }
    }
    Ok(())
}

/// A table of a reply that is being applied.
pub fn arrived(db: &Connection, shape: &Shape) -> Result<()> {
    keep(db, Direction::Down, shape, true)?;
    Ok(())
}

/// Forgets what the hub knows.
pub fn forget_up(db: &Connection) -> Result<()> {
    db.execute("DELETE FROM main.fs_shape WHERE direction = 0", [])?;
    db.execute("UPDATE main.fs_batch SET shapes = NULL WHERE shapes IS NOT NULL", [])?;
    Ok(())
}

/// Forgets everything.
pub fn forget(db: &Connection) -> Result<()> {
    forget_up(db)?;
    db.execute("DELETE FROM main.fs_shape", [])?;
    Ok(())
}
