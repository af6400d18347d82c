//! Throws hostile blobs at the decoder: real ones, changed, with right checksums, so that they get past the header.
//!
//! `hammer [executions [seed]]`, one core, deterministic. A blob that makes the decoder panic (or whose rows do not come
//! back when they are written again) is put into `tests/crashers/` under the name of its contents, and the exit code is 1.

#[path = "../tests/support/hostile.rs"]
mod hostile;
#[path = "../tests/support/mod.rs"]
mod support;

use fieldsync_core::limits::Limits;
use fieldsync_core::wire::WireError;
use std::collections::BTreeMap;
use std::panic::{catch_unwind, AssertUnwindSafe};
use std::time::{Duration, Instant};

fn main() {
    let mut arguments = std::env::args().skip(1).map(|argument| argument.parse::<u64>());
    let executions = arguments.next().and_then(Result::ok).unwrap_or(1_000_000);
    let seed = arguments.next().and_then(Result::ok).unwrap_or(1);
    let corpus = hostile::Corpus::new(240, 400);
    let bytes: usize = corpus.blobs.iter().map(Vec::len).sum();
    println!("{} blobs of {} bytes on average; seed {seed}", corpus.blobs.len(), bytes / corpus.blobs.len());
    let limits = Limits::default();
    let mut dice = hostile::Dice::new(seed);
    let mut blob = Vec::new();
    let mut outcomes: BTreeMap<&str, u64> = BTreeMap::new();
    let mut crashes = 0;
    let mut slowest = Duration::ZERO;
    let begun = Instant::now();
    let mut told = begun;
    for execution in 1..=executions {
        hostile::mutant(&corpus, &mut dice, &mut blob);
        let started = Instant::now();
        let outcome = catch_unwind(AssertUnwindSafe(|| hostile::open(&blob, &corpus.shapes, &limits)));
        slowest = slowest.max(started.elapsed());
        let word = match outcome {
            Ok(Ok(())) => "read",
            Ok(Err(WireError::Damaged(why))) => why,
            Ok(Err(WireError::Limit { what, .. })) => what,
            Ok(Err(WireError::UnknownShape(_))) => "a tag that is not known",
            Ok(Err(_)) => "another error",
            Err(_) => {
                crashes += 1;
                keep(&blob);
                "CRASH"
            }
        };
        *outcomes.entry(word).or_default() += 1;
        if told.elapsed() > Duration::from_secs(60) {
            told = Instant::now();
            println!("{execution} executions, {crashes} crashes, {:.0} s", begun.elapsed().as_secs_f64());
        }
    }
    println!("{executions} executions, {crashes} crashes, {:.0} s, slowest {slowest:?}", begun.elapsed().as_secs_f64());
    for (outcome, count) in outcomes {
        println!("{count:>12}  {outcome}");
    }
    if let Ok(status) = std::fs::read_to_string("/proc/self/status") {
        if let Some(peak) = status.lines().find(|line| line.starts_with("VmHWM")) {
            println!("{peak}");
        }
    }
    std::process::exit(i32::from(crashes > 0));
}

fn keep(blob: &[u8]) {
    let name = format!("{}/tests/crashers/{:016x}", env!("CARGO_MANIFEST_DIR"), xxhash_rust::xxh3::xxh3_64(blob));
    let _ = std::fs::create_dir_all(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/crashers"));
    if let Err(error) = std::fs::write(&name, blob) {
        eprintln!("{name}: {error}");
    }
}
