//! `simulate [--from SEED] [--count N] [--seconds S] [--steps N] [--trace 1] [--keep-going 1] [--wire 1]`: runs histories
//! until one of them finds something. `--wire 1`: all of them travel as the extensions would send them.
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
    wire: bool,
}

fn arguments() -> Option<Arguments> {
    let mut found =
        Arguments { from: 0, count: 300, seconds: u64::MAX, steps: 0, trace: false, keep_going: false, wire: false };
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        let number: u64 = words.next()?.parse().ok()?;
        match word.as_str() {
            "--from" => found.from = number,
            "--count" => found.count = number,
            "--seconds" => found.seconds = number,
            "--steps" => found.steps = number as usize,
            "--trace" => found.trace = number != 0,
            "--keep-going" => found.keep_going = number != 0,
            "--wire" => found.wire = number != 0,
            _ => return None,
        }
    }
    Some(found)
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
        eprintln!("usage: simulate [--from SEED] [--count N] [--seconds S] [--steps N] [--trace 1] [--keep-going 1] [--wire 1]");
        std::process::exit(2);
    };
    let start = Instant::now();
    let mut shown = start;
    let mut sum = Figures::default();
    let (mut histories, mut findings) = (0u64, 0u64);
    let say = |histories: u64, sum: &Figures, findings: u64| {
        println!(
            "{histories} histories, {} edits, {} syncs, {} conflicts on record, {} orders compared, {findings} findings, {:.1} s",
            sum.edits,
            sum.syncs,
            sum.records,
            sum.orders,
            start.elapsed().as_secs_f64()
        );
    };
    for seed in arguments.from..arguments.from.saturating_add(arguments.count) {
        if start.elapsed() > Duration::from_secs(arguments.seconds) {
            break;
        }
        if shown.elapsed() > Duration::from_secs(60) {
            shown = Instant::now();
            say(histories, &sum, findings);
        }
        let mut wanted = Options { trace: arguments.trace, ..Options::of(seed) };
        if arguments.steps > 0 {
            wanted.steps = arguments.steps;
        }
        wanted.plain &= !arguments.wire;
        match outcome(seed, wanted) {
            Ok(figures) => sum.add(&figures),
            Err(finding) => {
                findings += 1;
                // The same seed with fewer steps draws the same beginning.
                let quiet = Options { trace: false, ..wanted };
                let fewest = (1..=wanted.steps)
                    .find(|steps| outcome(seed, Options { steps: *steps, ..quiet }).is_err())
                    .unwrap_or(wanted.steps);
                println!("seed {seed}: {}", finding.0);
                println!("again: {}{}", Options::replay(seed, fewest), if arguments.wire { " --wire 1" } else { "" });
                if !arguments.keep_going {
                    std::process::exit(1);
                }
            }
        }
        histories += 1;
    }
    say(histories, &sum, findings);
    std::process::exit(i32::from(findings > 0));
}
