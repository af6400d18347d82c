//! Opens whatever the fuzzer comes up with, behind a right checksum, as a delta or a reply.
//!
//! `cargo +nightly fuzz run open_blob` in fieldsync_core. What it finds goes to tests/crashers, under a name that says what it is.
#![no_main]

#[path = "../../tests/support/hostile.rs"]
mod hostile;
#[path = "../../tests/support/mod.rs"]
mod support;

use fieldsync_core::limits::Limits;
use libfuzzer_sys::fuzz_target;
use std::sync::OnceLock;

static CORPUS: OnceLock<hostile::Corpus> = OnceLock::new();

fuzz_target!(|data: &[u8]| {
    let corpus = CORPUS.get_or_init(|| hostile::Corpus::new(240, 400));
    // The first byte may pick a blob to start from: the rest is what to change in it.
    let mut blob = match data.split_first() {
        Some((&at, rest)) if at < 240 => {
            let mut blob = corpus.blobs[usize::from(at) % corpus.blobs.len()].clone();
            for (place, byte) in rest.iter().enumerate() {
                if let Some(target) = blob.get_mut(fieldsync_core::wire::HEADER_BYTES + place) {
                    *target ^= byte;
                }
            }
            blob
        }
        Some((_, rest)) => rest.to_vec(),
        None => Vec::new(),
    };
    hostile::forge(&mut blob);
    let _ = hostile::open(&blob, &corpus.shapes, &Limits::default());
});
