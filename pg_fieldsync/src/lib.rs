//! The hub: sync for field devices inside Postgres. A table of contents; the rules are in `fieldsync_core`.
//!
//! How a delta goes through here: `sync` is the corridor. `receive` opens the blob, `course` judges its history and its place
//! in the chain, `upload` merges it: `fresh` writes new rows straight; the rest goes the long way, where `read` brings it into
//! the hub's terms (`convert` its values), `state` locks and reads the rows, `decide` asks the core, `merge` has it written
//! (`write`) and finds who is to blame. `verdicts` counts what became of it, `record` keeps what lost (`entry`), `pull` gathers what the
//! device has not seen (`gather` reads it, `sent` compares it with what came), `answer` says so and `batch` keeps the answer. How an application's write goes: `trigger`
//! stamps it (`tuple`), `feed` notes its key, `burial` and `tombstone` keep what was deleted.
#![allow(clippy::missing_safety_doc)]

mod answer;
mod applying;
mod arrays;
mod batch;
mod blame;
mod burial;
mod by_code;
mod catalog;
mod catch;
mod client;
mod convert;
mod copies;
mod course;
mod decide;
mod enable;
mod entry;
mod error;
mod feed;
mod field_values;
mod fresh;
mod functions;
mod gather;
mod guards;
mod hidden;
mod history;
mod in_use;
mod instants;
mod keys;
mod log;
mod marked;
mod merge;
mod notices;
mod operator;
mod parents;
mod pull;
mod read;
mod receive;
mod record;
mod referring;
mod schema;
mod sent;
mod separate;
mod settings;
mod shapes;
mod shuffle;
mod sql;
mod state;
mod sync;
mod tombstone;
mod trigger;
mod tuple;
mod types;
mod unseen;
mod upload;
mod verdicts;
mod withheld;
mod words;
mod work;
mod write;

pgrx::pg_module_magic!();

#[cfg(not(panic = "unwind"))]
compile_error!("panics must unwind: they become SQL errors at the boundary");

/// Called by Postgres when the library is loaded into a backend.
#[pgrx::pg_guard]
pub extern "C-unwind" fn _PG_init() {
    settings::define();
    // SAFETY: the callbacks live as long as the library, which Postgres never unloads.
    unsafe {
        pgrx::pg_sys::RegisterXactCallback(Some(feed::at_transaction_end), std::ptr::null_mut());
        pgrx::pg_sys::CacheRegisterRelcacheCallback(Some(catalog::relation_changed), pgrx::pg_sys::Datum::null());
        // A schema or type that is renamed or moved says nothing about tables, and their descriptions have its name written out.
        for cache in [pgrx::pg_sys::SysCacheIdentifier::NAMESPACEOID, pgrx::pg_sys::SysCacheIdentifier::TYPEOID] {
            pgrx::pg_sys::CacheRegisterSyscacheCallback(
                cache as i32,
                Some(catalog::name_changed),
                pgrx::pg_sys::Datum::null(),
            );
        }
    }
}
