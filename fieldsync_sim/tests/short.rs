//! The short form of the simulator, for `cargo test`: a finding here replays with the `simulate` binary and its seed.

use fieldsync_sim::history::{run, steps_of, Options};
use fieldsync_sim::plan::plan;

#[test]
fn histories_come_to_rest_equal() {
    for seed in 0..1000 {
        if let Err(finding) = run(&plan(seed, steps_of(seed)), Options::of(seed)) {
            panic!("{}: simulate --from {seed} --count 1 --trace 1", finding.0);
        }
    }
}
