//! The row trigger: stamps what changed, notes the key, keeps what was deleted.
//!
//! Invariants:
//! * It fires last among the BEFORE triggers (its name starts with `~`), so it sees what will be stored.
//! * Only fields whose stored image changed are stamped; a write that changes nothing leaves row, version and feed alone.
//! * The sync columns are fieldsync's: what an application writes into them is overridden, except `sync_deleted`, which
//!   is how a soft deletion is written.
//! * In the path of an ordinary INSERT or UPDATE there is no SQL: descriptions are cached, keys are buffered.

use crate::applying;
use crate::burial::{bury, lock_as_delete, mark_deleted, truncate};
use crate::catalog::{self, AlteredColumn};
use crate::catch::SqlError;
use crate::error::report_sql;
use crate::feed;
use crate::keys;
use crate::marked;
use crate::tombstone;
use crate::tuple::{self, differs, Field, Row};
use crate::types::Reader;
use fieldsync_core::clock::Hlc;
use fieldsync_core::clocks::{RowClocks, Stamp, HUB};
use fieldsync_core::value::Kind;
use fieldsync_core::{Key, Value};
use pgrx::pg_sys;
use std::cell::RefCell;
use std::rc::Rc;

/// What the trigger needs of a table, ready at hand.
pub struct Tracked {
    pub relation: pg_sys::Oid,
    generation: u64,
    pub table_id: i32,
    soft_delete: bool,
    baseline: Stamp,
    /// Attribute index, number, passed by value, fixed length or -1.
    fields: Vec<Field>,
    pub key: Vec<(usize, Reader)>,
    pub key_kinds: Vec<Kind>,
    version: usize,
    modified_at: usize,
    deleted: usize,
    origin: usize,
    clocks: usize,
}

thread_local! {
    static TRACKED: RefCell<Vec<Rc<Tracked>>> = const { RefCell::new(Vec::new()) };
}

/// The table's description, or nothing if it is not (any longer) tracked.
fn tracked(relation: pg_sys::Relation) -> Option<Rc<Tracked>> {
    // SAFETY: the trigger manager gives an open relation.
    let oid = unsafe { (*relation).rd_id };
    let generation = catalog::generation();
    let cached = TRACKED.with_borrow(|all| {
        all.iter().find(|tracked| tracked.relation == oid && tracked.generation == generation).cloned()
    });
    if cached.is_some() {
        return cached;
    }
    let table = match catalog::table(oid) {
        Ok(Some(table)) => table,
        Ok(None) => match crate::enable::adopt_restored(oid) {
            Ok(Some(table)) => table,
            Ok(None) => return None,
            Err(error) => report_sql(&error),
        },
        Err(error) => report_sql(&error),
    };
    // SAFETY: an open relation has a descriptor.
    let attributes = unsafe { tuple::attributes((*relation).rd_att) };
    let place = |name: &str| {
        attributes
            .iter()
            .position(|attribute| !attribute.attisdropped && pgrx::name_data_to_str(&attribute.attname) == name)
    };
    if let Some(altered) = &table.altered {
        report_sql(&catalog::with_altered(&table, altered));
    }
    let Some((version, modified_at, deleted, origin, clocks)) = (|| {
        Some((
            place("sync_version")?,
            place("sync_modified_at")?,
            place("sync_deleted")?,
            place("sync_origin_client")?,
            place("fieldsync_clocks")?,
        ))
    })() else {
        report_sql(&catalog::with_altered(&table, &AlteredColumn::Missing));
    };
    let fields = table
        .columns
        .iter()
        .filter(|column| !column.generated)
        .map(|column| {
            let at = usize::from(column.number) - 1;
            Field { at, number: column.number, by_value: attributes[at].attbyval, length: attributes[at].attlen }
        })
        .collect();
    let made = Rc::new(Tracked {
        relation: oid,
        generation: catalog::generation(),
        table_id: table.table_id,
        soft_delete: table.soft_delete,
        baseline: table.baseline,
        fields,
        key: table
            .key
            .iter()
            .map(|at| {
                let index = usize::from(table.columns[*at].number) - 1;
                (index, Reader::new(attributes[index].atttypid))
            })
            .collect(),
        key_kinds: table.key_kinds(),
        version,
        modified_at,
        deleted,
        origin,
        clocks,
    });
    TRACKED.with_borrow_mut(|all| {
        all.retain(|old| old.generation == made.generation && old.relation != oid);
        all.push(Rc::clone(&made));
    });
    Some(made)
}

impl Tracked {
    /// The row's key as wire values.
    pub fn key(&self, row: &Row) -> Key {
        Key(self
            .key
            .iter()
            .map(|(at, reader)| {
                if row.nulls[*at] {
                    Value::Null
                } else {
                    // SAFETY: the reader was made for this attribute's type.
                    unsafe { reader.read(row.values[*at]) }
                }
            })
            .collect())
    }

    fn row_clocks(&self, row: &Row) -> RowClocks {
        // SAFETY: fieldsync_clocks is a bytea.
        let stored = unsafe { row.bytes(self.clocks) };
        // Bytes that cannot be read are an application's doing; the row then counts as new.
        stored.and_then(|bytes| RowClocks::from_bytes(&bytes).ok()).unwrap_or_else(|| RowClocks::new(self.baseline))
    }

    fn key_changed(&self, old: &Row, new: &Row) -> bool {
        self.key.iter().any(|(at, _)| {
            self.fields.iter().find(|field| field.at == *at).is_some_and(|field| differs(*field, old, new))
        })
    }
}

/// Microseconds between 1970 and 2000.
const EPOCH_MICROSECONDS: i64 = 946_684_800_000_000;

/// The hub's clock for a change on top of `before`: never behind it, whatever the wall says.
pub fn hub_clock(before: Hlc) -> (Hlc, pg_sys::Datum) {
    // SAFETY: reads the system's clock.
    let now = unsafe { pg_sys::GetCurrentTimestamp() };
    let now_ms = ((now + EPOCH_MICROSECONDS) / 1000).max(0) as u64;
    (before.tick(now_ms).max(Hlc::from_ms(now_ms)), pg_sys::Datum::from(now))
}

/// Milliseconds since 1970, by the hub's clock.
pub fn now_ms() -> u64 {
    // SAFETY: reads the system's clock.
    ((unsafe { pg_sys::GetCurrentTimestamp() } + EPOCH_MICROSECONDS) / 1000).max(0) as u64
}

/// The information record that Postgres asks of a version-1 function.
#[unsafe(no_mangle)]
pub extern "C" fn pg_finfo_fieldsync_row_changed() -> &'static pg_sys::Pg_finfo_record {
    const V1: pg_sys::Pg_finfo_record = pg_sys::Pg_finfo_record { api_version: 1 };
    &V1
}

/// `fieldsync.row_changed()`, the BEFORE ROW trigger.
///
/// # Safety
/// Called by Postgres' trigger manager.
#[unsafe(no_mangle)]
#[pgrx::pg_guard]
pub unsafe extern "C-unwind" fn fieldsync_row_changed(fcinfo: pg_sys::FunctionCallInfo) -> pg_sys::Datum {
    // SAFETY: the context of a trigger call is its TriggerData.
    unsafe {
        let context = (*fcinfo).context;
        if context.is_null() || (*context).type_ != pg_sys::NodeTag::T_TriggerData {
            report_sql(&SqlError {
                hint: Some("SELECT sync_control.enable('schema.table') tracks a table.".to_owned()),
                ..SqlError::new("39P01", "fieldsync.row_changed() is a trigger function")
            });
        }
        let data = &*context.cast::<pg_sys::TriggerData>();
        let relation = data.tg_relation;
        let event = data.tg_event & pg_sys::TRIGGER_EVENT_OPMASK;
        let Some(tracked) = tracked(relation) else {
            let passed = if event == pg_sys::TRIGGER_EVENT_UPDATE { data.tg_newtuple } else { data.tg_trigtuple };
            return pg_sys::Datum::from(passed);
        };
        let result = match event {
            // A default that inserts into its own table would bring a row without clocks: that one is not finished.
            pg_sys::TRIGGER_EVENT_INSERT
                if applying::rows_are_finished((*relation).rd_id)
                    && !pg_sys::heap_attisnull(data.tg_trigtuple, tracked.clocks as i32 + 1, (*relation).rd_att) =>
            {
                data.tg_trigtuple
            }
            pg_sys::TRIGGER_EVENT_INSERT => inserted(&tracked, relation, data.tg_trigtuple),
            pg_sys::TRIGGER_EVENT_UPDATE => updated(&tracked, relation, data.tg_trigtuple, data.tg_newtuple),
            _ => deleted(&tracked, relation, data.tg_trigtuple),
        };
        pg_sys::Datum::from(result)
    }
}

/// Notes a key of a tracked table in the feed.
pub fn note(tracked: &Tracked, key: &Key) {
    let mut packed = Vec::with_capacity(40);
    keys::pack(&mut packed, &key.0);
    feed::note(tracked.table_id, &packed);
}

/// # Safety
/// The tuple is of the relation.
unsafe fn inserted(tracked: &Tracked, relation: pg_sys::Relation, tuple: pg_sys::HeapTuple) -> pg_sys::HeapTuple {
    // SAFETY: as promised.
    unsafe {
        let mut row = Row::of(tuple, relation);
        note(tracked, &tracked.key(&row));
        let version = feed::own_version();
        let is_engines = applying::is_by_engine() && !row.nulls[tracked.clocks];
        if !is_engines {
            let (clock, now) = hub_clock(Hlc::default());
            let clocks = RowClocks::new(Stamp::first(version, clock, HUB)).to_bytes();
            row.set(tracked.clocks, pgrx::varlena::rust_byte_slice_to_bytea(&clocks).into_pg().into());
            row.set(tracked.modified_at, now);
            row.nulls[tracked.origin] = true;
            if row.nulls[tracked.deleted] {
                row.set(tracked.deleted, pg_sys::Datum::from(false));
            }
        } else {
            let clocks = tracked.row_clocks(&row);
            sign(tracked, &mut row, &clocks);
        }
        row.set(tracked.version, pg_sys::Datum::from(version as i64));
        row.form(relation, tuple)
    }
}

/// Puts time and author of a row's last change into the columns that applications read.
fn sign(tracked: &Tracked, row: &mut Row, clocks: &RowClocks) {
    let Some(author) = applying::author() else { return };
    let last = clocks.latest();
    row.set(tracked.modified_at, pg_sys::Datum::from(crate::decide::microseconds(last.clock)));
    if last.origin == HUB {
        row.nulls[tracked.origin] = true;
    } else {
        let text = pgrx::varlena::rust_str_to_text_p(&author);
        row.set(tracked.origin, text.into_pg().into());
    }
}

/// # Safety
/// Both tuples are of the relation.
unsafe fn updated(
    tracked: &Tracked,
    relation: pg_sys::Relation,
    before: pg_sys::HeapTuple,
    after: pg_sys::HeapTuple,
) -> pg_sys::HeapTuple {
    // SAFETY: as promised.
    unsafe {
        let old = Row::of(before, relation);
        let mut new = Row::of(after, relation);
        if new.nulls[tracked.deleted] {
            new.set(tracked.deleted, pg_sys::Datum::from(false));
        }
        let deleted_changed = old.is_true(tracked.deleted) != new.is_true(tracked.deleted);
        let deleted_number = (tracked.deleted + 1) as u16;
        let changed: Vec<u16> =
            tracked.fields.iter().filter(|field| differs(**field, &old, &new)).map(|field| field.number).collect();
        let old_bytes = old.bytes(tracked.clocks);
        let is_engines =
            applying::is_by_engine() && !new.nulls[tracked.clocks] && new.bytes(tracked.clocks) != old_bytes;
        if changed.is_empty() && !deleted_changed && !is_engines {
            // Nothing happened. Whatever was written into the sync columns is put back.
            for at in [tracked.version, tracked.modified_at, tracked.origin, tracked.clocks] {
                new.values[at] = old.values[at];
                new.nulls[at] = old.nulls[at];
            }
            return new.form(relation, after);
        }
        if tracked.soft_delete && deleted_changed && new.is_true(tracked.deleted) && !is_engines {
            lock_as_delete(relation, &old, tracked);
        }
        let version = feed::own_version();
        if !changed.is_empty() && tracked.key_changed(&old, &new) {
            // Another key is another record: the old one is deleted, a new one is made. (The engine changes no key, but a trigger of the
            // application's may do so under its hands.)
            let clocks = tracked.row_clocks(&old);
            let (clock, now) = hub_clock(clocks.latest().clock);
            bury(tracked, relation, before, &old, tombstone::stamp_on(&clocks, version, clock, HUB), &clocks);
            note(tracked, &tracked.key(&new));
            let fresh = RowClocks::new(Stamp::first(version, clock, HUB)).to_bytes();
            new.set(tracked.clocks, pgrx::varlena::rust_byte_slice_to_bytea(&fresh).into_pg().into());
            new.set(tracked.modified_at, now);
            new.nulls[tracked.origin] = true;
            new.set(tracked.version, pg_sys::Datum::from(version as i64));
            return new.form(relation, after);
        }
        note(tracked, &tracked.key(&new));
        let mut clocks = if is_engines { tracked.row_clocks(&new) } else { tracked.row_clocks(&old) };
        let (clock, now) = hub_clock(clocks.latest().clock);
        let mut stamped_here = false;
        let touched = changed.iter().copied().chain(deleted_changed.then_some(deleted_number));
        for number in touched {
            // What the engine did not stamp in this very transaction, an application's trigger has changed.
            if is_engines && clocks.field(number).version == version {
                continue;
            }
            clocks.touch(number, version, clock, HUB);
            stamped_here = true;
        }
        if !is_engines {
            new.set(tracked.modified_at, now);
            new.nulls[tracked.origin] = true;
        }
        if is_engines {
            sign(tracked, &mut new, &clocks);
        }
        if stamped_here || !is_engines {
            let bytes = clocks.to_bytes();
            new.set(tracked.clocks, pgrx::varlena::rust_byte_slice_to_bytea(&bytes).into_pg().into());
        }
        new.set(tracked.version, pg_sys::Datum::from(version as i64));
        new.form(relation, after)
    }
}

/// # Safety
/// The tuple is of the relation.
unsafe fn deleted(tracked: &Tracked, relation: pg_sys::Relation, tuple: pg_sys::HeapTuple) -> pg_sys::HeapTuple {
    // SAFETY: as promised.
    unsafe {
        if tracked.key.is_empty() {
            // Devices could not be told which row is gone.
            match catalog::table(tracked.relation) {
                Ok(Some(table)) => report_sql(&catalog::without_key(&table)),
                Ok(None) => return tuple,
                Err(error) => report_sql(&error),
            }
        }
        let row = Row::of(tuple, relation);
        let key = tracked.key(&row);
        if applying::is_question(tracked.relation) {
            let mut packed = Vec::with_capacity(40);
            keys::pack(&mut packed, &key.0);
            applying::may_go(packed);
            return std::ptr::null_mut();
        }
        if tracked.soft_delete {
            match marked::lost_its_parent(relation, &row, tracked) {
                Ok(true) => {}
                Ok(false) => {
                    if !row.is_true(tracked.deleted) {
                        mark_deleted(relation, &row, tracked);
                        marked::follow(relation, &row, tracked);
                    }
                    return std::ptr::null_mut();
                }
                Err(error) => report_sql(&error),
            }
        }
        let clocks = tracked.row_clocks(&row);
        let mut packed = Vec::with_capacity(40);
        keys::pack(&mut packed, &key.0);
        match applying::stamp_of_delete(tracked.table_id, &packed) {
            Some(stamp) => {
                let version = feed::own_version();
                bury(
                    tracked,
                    relation,
                    tuple,
                    &row,
                    tombstone::stamp_on(&clocks, version, stamp.clock, stamp.origin),
                    &clocks,
                );
            }
            None => {
                let (clock, _) = hub_clock(clocks.latest().clock);
                bury(
                    tracked,
                    relation,
                    tuple,
                    &row,
                    tombstone::stamp_on(&clocks, feed::own_version(), clock, HUB),
                    &clocks,
                );
            }
        }
        tuple
    }
}

/// The information record that Postgres asks of a version-1 function.
#[unsafe(no_mangle)]
pub extern "C" fn pg_finfo_fieldsync_table_truncated() -> &'static pg_sys::Pg_finfo_record {
    const V1: pg_sys::Pg_finfo_record = pg_sys::Pg_finfo_record { api_version: 1 };
    &V1
}

/// `fieldsync.table_truncated()`, the BEFORE TRUNCATE trigger: a delete of every row.
///
/// # Safety
/// Called by Postgres' trigger manager.
#[unsafe(no_mangle)]
#[pgrx::pg_guard]
pub unsafe extern "C-unwind" fn fieldsync_table_truncated(fcinfo: pg_sys::FunctionCallInfo) -> pg_sys::Datum {
    // SAFETY: the context of a trigger call is its TriggerData.
    let relation = unsafe {
        let context = (*fcinfo).context;
        if context.is_null() || (*context).type_ != pg_sys::NodeTag::T_TriggerData {
            return pg_sys::Datum::null();
        }
        (*context.cast::<pg_sys::TriggerData>()).tg_relation
    };
    let Some(tracked) = tracked(relation) else { return pg_sys::Datum::null() };
    if let Err(error) = truncate(&tracked, relation) {
        report_sql(&error);
    }
    pg_sys::Datum::null()
}
