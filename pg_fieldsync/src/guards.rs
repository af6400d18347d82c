//! Things that must be put back: the user, settings, subtransactions.
//!
//! Invariant: every guard is dropped before the subtransaction that it was made in ends, whichever way control leaves.
//! Guards live inside closures, closures return `Result`s, and [`subtransaction`] ends only after its closure has.

use crate::catch::{catch, SqlError};
use pgrx::pg_sys;
use std::cell::Cell;
use std::ffi::CStr;
use std::panic::{catch_unwind, resume_unwind, AssertUnwindSafe};

thread_local! {
    /// The extension's owner, looked up once per backend (ALTER EXTENSION has no OWNER TO).
    static OWNER: Cell<Option<pg_sys::Oid>> = const { Cell::new(None) };
}

fn owner() -> pg_sys::Oid {
    if let Some(owner) = OWNER.get() {
        return owner;
    }
    // SAFETY: a catalogue scan by the extension's name inside a transaction.
    let owner = unsafe {
        let relation = pg_sys::table_open(pg_sys::ExtensionRelationId, pg_sys::AccessShareLock as i32);
        let mut key = pg_sys::ScanKeyData::default();
        pg_sys::ScanKeyInit(
            &mut key,
            pg_sys::Anum_pg_extension_extname as i16,
            pg_sys::BTEqualStrategyNumber as u16,
            pg_sys::F_NAMEEQ.into(),
            pg_sys::Datum::from(c"pg_fieldsync".as_ptr()),
        );
        let scan = pg_sys::systable_beginscan(
            relation,
            pg_sys::Oid::from(pg_sys::ExtensionNameIndexId),
            true,
            std::ptr::null_mut(),
            1,
            &mut key,
        );
        let tuple = pg_sys::systable_getnext(scan);
        let owner = if tuple.is_null() {
            None
        } else {
            let form = pg_sys::GETSTRUCT(tuple).cast::<pg_sys::FormData_pg_extension>();
            Some((*form).extowner)
        };
        pg_sys::systable_endscan(scan);
        pg_sys::table_close(relation, pg_sys::AccessShareLock as i32);
        owner
    };
    match owner {
        Some(owner) => {
            OWNER.set(Some(owner));
            owner
        }
        // During CREATE EXTENSION itself, or after DROP EXTENSION with a function still on the stack: no one to become.
        // SAFETY: reads a global.
        None => unsafe { pg_sys::GetUserId() },
    }
}

/// Runs as the extension's owner with a pinned search_path: for fieldsync's own tables, never for an application's.
/// The search_path is part of the guard because operators in internal statements would otherwise be looked up in schemas
/// that a caller controls, with the owner's rights.
pub struct AsOwner {
    user: pg_sys::Oid,
    context: i32,
    _settings: Settings,
}

impl AsOwner {
    /// Becomes the owner until dropped.
    pub fn new() -> AsOwner {
        let owner = owner();
        // With check_function_bodies off (a caller's choice), fieldsync's own triggers would take this for a restore and stand aside.
        let settings = Settings::pin(&[(c"search_path", c"pg_catalog, pg_temp"), (c"check_function_bodies", c"on")]);
        let mut user = pg_sys::Oid::INVALID;
        let mut context = 0;
        // SAFETY: reads and writes two globals; Drop puts them back.
        unsafe {
            pg_sys::GetUserIdAndSecContext(&mut user, &mut context);
            pg_sys::SetUserIdAndSecContext(owner, context | pg_sys::SECURITY_LOCAL_USERID_CHANGE as i32);
        }
        AsOwner { user, context, _settings: settings }
    }
}

impl Drop for AsOwner {
    fn drop(&mut self) {
        // SAFETY: puts back what `new` found.
        unsafe { pg_sys::SetUserIdAndSecContext(self.user, self.context) }
    }
}

/// Runs as a table's owner until dropped, like the actions of foreign keys: forced row-level security does not apply.
pub struct AsUser {
    user: pg_sys::Oid,
    context: i32,
}

impl AsUser {
    /// Becomes the owner of a relation.
    ///
    /// The relation must be open; the trigger manager's is.
    pub fn owner_of(relation: pg_sys::Relation) -> AsUser {
        // SAFETY: an open relation has a catalogue row.
        AsUser::become_user(unsafe { (*(*relation).rd_rel).relowner })
    }

    /// Becomes the owner of a relation that need not be open.
    pub fn owner_of_oid(relation: pg_sys::Oid) -> AsUser {
        // SAFETY: looks the relation up; closed with its lock kept, so that it stays what it was.
        let owner = unsafe {
            let open = pg_sys::table_open(relation, pg_sys::AccessShareLock as i32);
            let owner = (*(*open).rd_rel).relowner;
            pg_sys::table_close(open, pg_sys::NoLock as i32);
            owner
        };
        AsUser::become_user(owner)
    }

    fn become_user(new: pg_sys::Oid) -> AsUser {
        let mut user = pg_sys::Oid::INVALID;
        let mut context = 0;
        // SAFETY: reads and writes two globals; Drop puts them back.
        unsafe {
            pg_sys::GetUserIdAndSecContext(&mut user, &mut context);
            pg_sys::SetUserIdAndSecContext(
                new,
                context | (pg_sys::SECURITY_LOCAL_USERID_CHANGE | pg_sys::SECURITY_NOFORCE_RLS) as i32,
            );
        }
        AsUser { user, context }
    }
}

impl Drop for AsUser {
    fn drop(&mut self) {
        // SAFETY: puts back what `owner_of` found.
        unsafe { pg_sys::SetUserIdAndSecContext(self.user, self.context) }
    }
}

/// Settings that hold until dropped.
pub struct Settings {
    level: i32,
}

impl Settings {
    /// Sets each pair for as long as the guard lives.
    pub fn pin(pairs: &[(&CStr, &CStr)]) -> Settings {
        Settings::pin_in(pairs, pg_sys::GucContext::PGC_USERSET)
    }

    /// Sets something that only superusers may.
    pub fn pin_as_superuser(name: &CStr, value: &CStr) -> Settings {
        Settings::pin_in(&[(name, value)], pg_sys::GucContext::PGC_SUSET)
    }

    fn pin_in(pairs: &[(&CStr, &CStr)], context: pg_sys::GucContext::Type) -> Settings {
        // SAFETY: opens a nest level that Drop closes; the values are constants that the settings accept.
        unsafe {
            let level = pg_sys::NewGUCNestLevel();
            let guard = Settings { level };
            for (name, value) in pairs {
                pg_sys::set_config_option(
                    name.as_ptr(),
                    value.as_ptr(),
                    context,
                    pg_sys::GucSource::PGC_S_SESSION,
                    pg_sys::GucAction::GUC_ACTION_SAVE,
                    true,
                    0,
                    false,
                );
            }
            guard
        }
    }

    /// The settings that text forms depend on, as the wire wants them. Around conversions only: an application's own
    /// triggers must see their session's settings.
    pub fn for_text() -> Settings {
        Settings::pin(&[
            (c"DateStyle", c"ISO, YMD"),
            (c"TimeZone", c"UTC"),
            (c"IntervalStyle", c"postgres"),
            (c"extra_float_digits", c"1"),
            (c"bytea_output", c"hex"),
            (c"xmlbinary", c"base64"),
        ])
    }
}

impl Drop for Settings {
    fn drop(&mut self) {
        // SAFETY: closes the level that `pin` opened; restoring saved values raises nothing.
        unsafe { pg_sys::AtEOXact_GUC(true, self.level) }
    }
}

/// The latest snapshot, active until dropped, whatever the transaction's own is: it sees what has been committed by now, and this
/// transaction's own writes.
pub struct LatestSnapshot(());

impl LatestSnapshot {
    /// Takes it.
    pub fn take() -> LatestSnapshot {
        // SAFETY: inside a transaction; popped by Drop or by the abort.
        unsafe {
            pg_sys::CommandCounterIncrement();
            pg_sys::PushActiveSnapshot(pg_sys::GetLatestSnapshot());
        }
        LatestSnapshot(())
    }
}

impl Drop for LatestSnapshot {
    fn drop(&mut self) {
        // After an error the (sub)transaction's abort pops it.
        if std::thread::panicking() {
            return;
        }
        // SAFETY: pushed by `take`.
        unsafe { pg_sys::PopActiveSnapshot() }
    }
}

/// Runs `work` in an internal subtransaction: kept on `Ok`, rolled back on `Err` or panic.
pub fn subtransaction<T, E: From<SqlError>>(work: impl FnOnce() -> Result<T, E>) -> Result<T, E> {
    // SAFETY: the same sequence as plpgsql's exception blocks.
    unsafe {
        let context = pg_sys::CurrentMemoryContext;
        let owner = pg_sys::CurrentResourceOwner;
        pg_sys::BeginInternalSubTransaction(std::ptr::null());
        pg_sys::CurrentMemoryContext = context;
        // A deferred trigger or a cancel may raise when the subtransaction ends, so that end is caught as well.
        let outcome = match catch_unwind(AssertUnwindSafe(work)) {
            Ok(Ok(value)) => match catch(|| raw::ReleaseCurrentSubTransaction()) {
                Ok(()) => Ok(Ok(value)),
                Err(error) => Ok(Err(error.into())),
            },
            Ok(Err(error)) => {
                pg_sys::RollbackAndReleaseCurrentSubTransaction();
                Ok(Err(error))
            }
            Err(panic) => {
                pg_sys::RollbackAndReleaseCurrentSubTransaction();
                Err(panic)
            }
        };
        pg_sys::CurrentMemoryContext = context;
        pg_sys::CurrentResourceOwner = owner;
        match outcome {
            Ok(result) => result,
            Err(panic) => resume_unwind(panic),
        }
    }
}

mod raw {
    //! Unguarded: pgrx's own binding would turn an error into a panic before [`super::catch`] sees it.
    unsafe extern "C-unwind" {
        pub fn ReleaseCurrentSubTransaction();
    }
}
