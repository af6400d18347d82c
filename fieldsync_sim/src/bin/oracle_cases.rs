//! `oracle_cases --from SEED --count N`: writes N conflicts and what the core decides, as JSON lines.

use std::io::Write;

fn main() -> std::io::Result<()> {
    let mut from = 0u64;
    let mut count = 1_000u64;
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        let number = arguments.next().and_then(|text| text.parse().ok());
        match (argument.as_str(), number) {
            ("--from", Some(number)) => from = number,
            ("--count", Some(number)) => count = number,
            _ => {
                eprintln!("usage: oracle_cases [--from SEED] [--count N]");
                std::process::exit(2);
            }
        }
    }
    let mut out = std::io::BufWriter::new(std::io::stdout().lock());
    for seed in from..from.saturating_add(count) {
        writeln!(out, "{}", fieldsync_sim::cases::case(seed))?;
    }
    out.flush()
}
