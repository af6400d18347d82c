//! Whose changes are being written right now: an application's, or those of a device that the engine merges.
//!
//! Invariant: the row trigger believes the clocks that a statement brings along only while the engine itself is writing.
//! This is backend memory, not a setting: no login can pretend. What triggers of the application write while it does is the
//! application's: a copy of a row, sync columns and all, is a row of its own. Rows that come finished, with all of their sync
//! columns, are believed in the one table that the statement names.

use fieldsync_core::clocks::Stamp;
use std::cell::RefCell;
use std::collections::HashMap;

/// The engine's current writes.
#[derive(Default)]
struct Applying {
    /// The engine's nested writes: how many triggers had been entered when each began.
    writes: Vec<i32>,
    /// The client whose changes are being written, for `sync_origin_client`.
    author: Option<String>,
    /// Rows that the engine deletes, by table and packed key, with the stamp for their tombstones.
    deleting: HashMap<(i32, Vec<u8>), Stamp>,
    /// The table that gets finished rows right now.
    finished: Option<pgrx::pg_sys::Oid>,
    /// The table of which a DELETE asks which rows may go, and their packed keys.
    asked: Option<(pgrx::pg_sys::Oid, Vec<Vec<u8>>)>,
}

thread_local! {
    static APPLYING: RefCell<Applying> = RefCell::new(Applying::default());
}

/// The engine writes until this is dropped.
pub struct Engine(());

impl Engine {
    /// Begins.
    pub fn writes() -> Engine {
        APPLYING.with_borrow_mut(|applying| applying.writes.push(triggers_entered()));
        Engine(())
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        APPLYING.with_borrow_mut(|applying| {
            applying.writes.pop();
            if applying.writes.is_empty() {
                applying.deleting.clear();
            }
        });
    }
}

/// Finished rows go into one table until this is dropped: their sync columns are complete, and their keys are noted by whoever
/// writes them.
pub struct FinishedRows(());

impl FinishedRows {
    /// Begins.
    pub fn into_table(table: pgrx::pg_sys::Oid) -> FinishedRows {
        APPLYING.with_borrow_mut(|applying| applying.finished = Some(table));
        FinishedRows(())
    }
}

impl Drop for FinishedRows {
    fn drop(&mut self) {
        APPLYING.with_borrow_mut(|applying| applying.finished = None);
    }
}

/// Whether rows that are inserted into this table come finished.
pub fn rows_are_finished(table: pgrx::pg_sys::Oid) -> bool {
    APPLYING.with_borrow(|applying| applying.finished == Some(table) && applying.is_by_engine())
}

/// Until this is dropped, the engine's DELETE of rows of one table deletes nothing: it tells which of them its login may delete.
pub struct Question(());

impl Question {
    /// Begins.
    pub fn about(table: pgrx::pg_sys::Oid) -> Question {
        APPLYING.with_borrow_mut(|applying| applying.asked = Some((table, Vec::new())));
        Question(())
    }

    /// The packed keys of the rows that may go.
    pub fn answer(self) -> Vec<Vec<u8>> {
        APPLYING.with_borrow_mut(|applying| applying.asked.take()).map(|(_, keys)| keys).unwrap_or_default()
    }
}

impl Drop for Question {
    fn drop(&mut self) {
        APPLYING.with_borrow_mut(|applying| applying.asked = None);
    }
}

/// Whether the row trigger that asks was fired by a DELETE that only asks which rows may go.
pub fn is_question(table: pgrx::pg_sys::Oid) -> bool {
    APPLYING.with_borrow(|applying| {
        applying.asked.as_ref().is_some_and(|(asked, _)| *asked == table) && applying.is_by_engine()
    })
}

/// A row that may go.
pub fn may_go(key: Vec<u8>) {
    APPLYING.with_borrow_mut(|applying| {
        if let Some((_, keys)) = &mut applying.asked {
            keys.push(key);
        }
    });
}

/// Names the client whose changes the engine writes from now on.
pub fn write_for(author: Option<&str>) {
    APPLYING.with_borrow_mut(|applying| applying.author = author.map(str::to_owned));
}

/// The client whose changes are being written. `None`: rows keep the author that they have.
pub fn author() -> Option<String> {
    APPLYING.with_borrow(|applying| applying.author.clone())
}

/// Whether the row trigger that asks was fired by a statement of the engine's own.
pub fn is_by_engine() -> bool {
    APPLYING.with_borrow(Applying::is_by_engine)
}

/// Whether what happens now happens below a statement of the engine's own.
pub fn is_writing() -> bool {
    APPLYING.with_borrow(|applying| !applying.writes.is_empty())
}

/// Whether the trigger that asks was fired by a statement of another trigger's, a foreign key's among them.
pub fn is_nested() -> bool {
    triggers_entered() > 1
}

impl Applying {
    /// Its own statement is one trigger away; that of an application's trigger, or a cascade, is further.
    fn is_by_engine(&self) -> bool {
        self.writes.last().is_some_and(|before| triggers_entered() == before + 1)
    }
}

/// How deep in triggers this backend is.
fn triggers_entered() -> i32 {
    // SAFETY: gives a variable's value; it looks at no argument.
    unsafe { pgrx::pg_sys::pg_trigger_depth(std::ptr::null_mut()).value() as i32 }
}

/// Announces the rows that the next DELETE removes, and by whom.
pub fn announce_deletes(rows: impl IntoIterator<Item = ((i32, Vec<u8>), Stamp)>) {
    APPLYING.with_borrow_mut(|applying| {
        applying.deleting.clear();
        applying.deleting.extend(rows);
    });
}

/// The stamp of a row that the engine deletes. `None`: the row goes by a cascade or an application's trigger.
pub fn stamp_of_delete(table_id: i32, key: &[u8]) -> Option<Stamp> {
    APPLYING.with_borrow(|applying| {
        if applying.deleting.is_empty() {
            return None;
        }
        applying.deleting.get(&(table_id, key.to_vec())).copied()
    })
}

/// The transaction is over, whatever way it went.
pub fn forget() {
    APPLYING.with_borrow_mut(|applying| *applying = Applying::default());
}
