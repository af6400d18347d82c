//! The hub: sync for field devices inside Postgres. A table of contents; the rules are in `fieldsync_core`.
//!
//! How a delta goes through here: [`receive`] checks it, [`merge`] decides and writes, [`pull`] gathers what its device has
//! not seen, [`reply`] packs the answer. How an application's write goes: [`trigger`] stamps it, [`feed`] notes its key.
#![allow(clippy::missing_safety_doc)]

mod applying;
mod catalog;
mod catch;
mod enable;
mod error;
mod feed;
mod functions;
mod guards;
mod keys;
mod operator;
mod settings;
mod sql;
mod tombstone;
mod trigger;
mod types;

pgrx::pg_module_magic!();

#[cfg(not(panic = "unwind"))]
compile_error!("panics must unwind: they become SQL errors at the boundary");

/// Called by Postgres when the library is loaded into a backend.
#[pgrx::pg_guard]
pub extern "C-unwind" fn _PG_init() {
    settings::define();
    // SAFETY: both callbacks live as long as the library, which Postgres never unloads.
    unsafe {
        pgrx::pg_sys::RegisterXactCallback(Some(feed::at_transaction_end), std::ptr::null_mut());
        pgrx::pg_sys::CacheRegisterRelcacheCallback(
            Some(catalog::relation_changed),
            pgrx::pg_sys::Datum::null(),
        );
    }
}
