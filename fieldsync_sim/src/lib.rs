//! The proof of [`fieldsync_core`]: histories of devices and a hub in memory, and conflicts for the oracle.
//!
//! Everything is drawn from a seed and nothing else: one seed, one history, on any machine.
#![forbid(unsafe_code)]

pub mod cases;
pub mod device;
pub mod history;
pub mod hub;
pub mod orders;
pub mod plan;
pub mod post;
pub mod schema;
