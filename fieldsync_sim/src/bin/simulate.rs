//! `simulate [--from SEED] [--count N] [--seconds S] [--steps N] [--only AT,AT,...] [--trace 1] [--keep-going 1] [--wire 1]
//! [--plan 1]`: carries out the plans of so many seeds until one of them finds something.
//!
//! A finding prints the command that replays it with as few of its steps as still find something. `--wire 1`: all blobs travel
//! as the extensions would send them. `--plan 1`: prints the plans as JSON, a line each, for a world of real databases.

use fieldsync_sim::history::{run, steps_of, Figures, Finding, Options};
use fieldsync_sim::plan::{plan, Plan};
use std::collections::BTreeSet;
use std::panic::{catch_unwind, AssertUnwindSafe};
use std::time::{Duration, Instant};

const USAGE: &str =
    "usage: simulate [--from SEED] [--count N] [--seconds S] [--steps N] [--only AT,AT,...] [--trace 1] \
                     [--keep-going 1] [--wire 1] [--plan 1]";

#[derive(Default)]
struct Arguments {
    from: u64,
    count: u64,
    seconds: u64,
    steps: usize,
    only: BTreeSet<usize>,
    trace: bool,
    keep_going: bool,
    wire: bool,
    plan: bool,
}

fn arguments() -> Option<Arguments> {
    let mut found = Arguments { count: 300, seconds: u64::MAX, ..Arguments::default() };
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        let value = words.next()?;
        if word == "--only" {
            found.only = value.split(',').map(|at| at.parse().ok()).collect::<Option<_>>()?;
            continue;
        }
        let number: u64 = value.parse().ok()?;
        match word.as_str() {
            "--from" => found.from = number,
            "--count" => found.count = number,
            "--seconds" => found.seconds = number,
            "--steps" => found.steps = number as usize,
            "--trace" => found.trace = number != 0,
            "--keep-going" => found.keep_going = number != 0,
            "--wire" => found.wire = number != 0,
            "--plan" => found.plan = number != 0,
            _ => return None,
        }
    }
    Some(found)
}

fn outcome(plan: &Plan, options: Options) -> Result<Figures, Finding> {
    catch_unwind(AssertUnwindSafe(|| run(plan, options))).unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().cloned();
        let text = text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
        Err(Finding(format!("panic: {}", text.unwrap_or_default())))
    })
}

/// How many steps there are at all, and which of them are enough, so that something is still found.
fn shrunk(plan: &Plan, options: Options) -> (usize, Vec<usize>) {
    let options = Options { trace: false, ..options };
    let finds = |plan: &Plan| outcome(plan, options).is_err();
    let mut smaller = plan.clone();
    let part = |steps: usize| Plan { steps: plan.steps[..steps].to_vec(), ..plan.clone() };
    if let Some(found) = (1..=plan.steps.len()).map(part).find(finds) {
        smaller = found;
    }
    let steps = smaller.steps.last().map_or(0, |last| last.at + 1);
    for at in (0..steps).rev() {
        let mut fewer = smaller.clone();
        fewer.steps.retain(|step| step.at != at);
        if finds(&fewer) {
            smaller = fewer;
        }
    }
    (steps, smaller.steps.iter().map(|step| step.at).collect())
}

fn replay(plan: &Plan, options: Options, wire: bool) -> String {
    let (steps, only) = shrunk(plan, options);
    let only: Vec<String> = only.iter().map(usize::to_string).collect();
    format!(
        "cargo run --release -p fieldsync_sim --bin simulate -- --from {} --count 1 --steps {steps} --trace 1 --only {}{}",
        plan.seed,
        only.join(","),
        if wire { " --wire 1" } else { "" },
    )
}

fn main() {
    let Some(arguments) = arguments() else {
        eprintln!("{USAGE}");
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
        let mut plan = plan(seed, if arguments.steps > 0 { arguments.steps } else { steps_of(seed) });
        plan.steps.retain(|step| arguments.only.is_empty() || arguments.only.contains(&step.at));
        if arguments.plan {
            println!("{}", serde_json::to_string(&plan).unwrap_or_default());
            continue;
        }
        if shown.elapsed() > Duration::from_secs(60) {
            shown = Instant::now();
            say(histories, &sum, findings);
        }
        let options = Options { trace: arguments.trace, plain: Options::of(seed).plain && !arguments.wire };
        match outcome(&plan, options) {
            Ok(figures) => sum.add(&figures),
            Err(finding) => {
                findings += 1;
                println!("seed {seed}: {}", finding.0);
                println!("again: {}", replay(&plan, options, arguments.wire));
                if !arguments.keep_going {
                    std::process::exit(1);
                }
            }
        }
        histories += 1;
    }
    if !arguments.plan {
        say(histories, &sum, findings);
    }
    std::process::exit(i32::from(findings > 0));
}
