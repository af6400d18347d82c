//! The rules of fieldsync, without a database.
//!
//! Everything that decides something lives here, pure and deterministic, so that it can be property-tested, fuzzed
//! and simulated by itself. The two extension crates only carry rows between SQL and this crate.
//!
//! The path of one edit, room by room:
//!
//! 1. the device's triggers log it; [`coalesce`] folds logged changes into what the merge needs;
//! 2. [`delta`] holds the changeset, [`wire`] turns it into a blob and back;
//! 3. on the hub [`clock`] corrects its stamps, [`order`] sorts tables, [`merge`] decides by [`rules`] and by the row's
//!    [`clocks`];
//! 4. [`travel`] says what of a row goes back, [`reply`] carries it, and [`overlay`] keeps what the device has not sent yet on top of it.
#![forbid(unsafe_code)]

pub mod calendar;
pub mod chain;
pub mod clock;
pub mod clocks;
pub mod coalesce;
pub mod delta;
pub mod enrolment;
pub mod inspect;
pub mod jsonb;
pub mod key;
pub mod limits;
pub mod merge;
pub mod number;
pub mod order;
pub mod overlay;
pub mod reply;
pub mod rules;
pub mod seen;
pub mod snapshot;
pub mod travel;
pub mod value;
pub mod wire;

pub use clock::Hlc;
pub use key::Key;
pub use snapshot::Snapshot;
pub use value::Value;
