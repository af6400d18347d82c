//! The extension's settings. All may be changed by superusers only: they limit what a device's login may ask for.

use pgrx::guc::{GucContext, GucFlags, GucRegistry, GucSetting};

static REQUIRE_SIGNATURE: GucSetting<bool> = GucSetting::<bool>::new(false);
static MAX_DELTA_BYTES: GucSetting<i32> = GucSetting::<i32>::new(64 * 1024 * 1024);
static MAX_EXPANDED_BYTES: GucSetting<i32> = GucSetting::<i32>::new(512 * 1024 * 1024);
static MAX_ROWS: GucSetting<i32> = GucSetting::<i32>::new(2_000_000);

/// Announces the settings to Postgres. Once per backend, from `_PG_init`.
pub fn define() {
    GucRegistry::define_bool_guc(
        c"fieldsync.require_signature",
        c"Refuse blobs of clients that have no key or did not sign.",
        c"A client added by a plain INSERT into sync_control.client_state has no key.",
        &REQUIRE_SIGNATURE,
        GucContext::Suset,
        GucFlags::default(),
    );
    let limits = [
        (c"fieldsync.max_delta_bytes", c"Largest delta that is accepted, in bytes as it travels.", &MAX_DELTA_BYTES),
        (
            c"fieldsync.max_expanded_bytes",
            c"Largest delta that is accepted, in bytes once expanded.",
            &MAX_EXPANDED_BYTES,
        ),
        (c"fieldsync.max_rows", c"Most changes that one delta may hold.", &MAX_ROWS),
    ];
    for (name, description, setting) in limits {
        GucRegistry::define_int_guc(
            name,
            description,
            c"A larger one is refused with 54000.",
            setting,
            1,
            i32::MAX,
            GucContext::Suset,
            GucFlags::default(),
        );
    }
}

/// Whether unsigned blobs are refused.
pub fn require_signature() -> bool {
    REQUIRE_SIGNATURE.get()
}

/// Limit on a blob as it travels.
pub fn max_delta_bytes() -> usize {
    MAX_DELTA_BYTES.get().max(1) as usize
}

/// Limit on a blob once expanded.
pub fn max_expanded_bytes() -> usize {
    MAX_EXPANDED_BYTES.get().max(1) as usize
}

/// Limit on the changes of one delta.
pub fn max_rows() -> usize {
    MAX_ROWS.get().max(1) as usize
}
