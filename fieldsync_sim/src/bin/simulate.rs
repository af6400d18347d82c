//! `simulate [--from SEED] [--count N] [--seconds S] [--trace 1]`: runs histories until one of them finds something.
//!
//! `--lost-history 1`: every third hub is restored from a backup, with all that was since forgotten.
//!
//! A finding prints the command that replays it, with as few steps as still find it.

use fieldsync_sim::history::{run, Figures, Finding, Options};
use std::panic::{catch_unwind, AssertUnwindSafe};
use std::time::{Duration, Instant};

struct Arguments {
    from: u64,
    count: u64,
    seconds: u64,
    steps: usize,
    trace: bool,
    keep_going: bool,
    lost_history: bool,
}

fn arguments() -> Option<Arguments> {
    let mut found = Arguments {
        from: 0,
        count: 300,
        seconds: u64::MAX,
        steps: 0,
        trace: false,
        keep_going: false,
        lost_history: false,
    };
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        let number: u64 = words.next()?.parse().ok()?;
        match word.as_str() {
            "--from" => found.from = number,
            "--count" => found.count = number,
            "--seconds" => found.seconds = number,
            "--steps" => found.steps = number as usize,
            "--trace" => found.trace = number != 0,
            "--lost-history" => found.lost_history = number != 0,
            "--keep-going" => found.keep_going = number != 0,
            _ => return None,
        }
    }
    Some(found)
}

/// What a seed's history may contain, so that every kind of trouble also comes alone.
fn options(seed: u64, arguments: &Arguments) -> Options {
    let steps = if arguments.steps > 0 { arguments.steps } else { 40 + (seed % 7) as usize * 40 };
    Options {
        steps,
        copies: seed % 3 == 1,
        restored_hub: arguments.lost_history && seed % 3 == 2,
        trace: arguments.trace,
    }
}

fn outcome(seed: u64, options: Options) -> Result<Figures, Finding> {
    catch_unwind(AssertUnwindSafe(|| run(seed, options))).unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().cloned();
        let text = text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
        Err(Finding(format!("panic: {}", text.unwrap_or_default())))
    })
}

fn main() {
    let Some(arguments) = arguments() else {
        eprintln!("usage: simulate [--from SEED] [--count N] [--seconds S] [--steps N] [--trace 1] [--keep-going 1] [--lost-history 1]");
        std::process::exit(2);
    };
    let start = Instant::now();
    let (mut histories, mut edits, mut syncs, mut records, mut findings) = (0u64, 0u64, 0u64, 0u64, 0u64);
    for seed in arguments.from..arguments.from.saturating_add(arguments.count) {
        if start.elapsed() > Duration::from_secs(arguments.seconds) {
            break;
        }
        let wanted = options(seed, &arguments);
        match outcome(seed, wanted) {
            Ok(figures) => {
                edits += figures.edits;
                syncs += figures.syncs;
                records += figures.records;
            }
            Err(finding) => {
                findings += 1;
                // The same seed with fewer steps draws the same beginning.
                let quiet = Options { trace: false, ..wanted };
                let fewest = (1..=wanted.steps)
                    .find(|steps| outcome(seed, Options { steps: *steps, ..quiet }).is_err())
                    .unwrap_or(wanted.steps);
                println!("seed {seed}: {}", finding.0);
                println!("again: cargo run --release -p fieldsync_sim --bin simulate -- --from {seed} --count 1 --steps {fewest} --trace 1 --lost-history {}", u8::from(arguments.lost_history));
                if !arguments.keep_going {
                    std::process::exit(1);
                }
            }
        }
        histories += 1;
    }
    println!(
        "{histories} histories, {edits} edits, {syncs} syncs, {records} conflicts on record, {findings} findings, {:.1} s",
        start.elapsed().as_secs_f64()
    );
    std::process::exit(i32::from(findings > 0));
}
