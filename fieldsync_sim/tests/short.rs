//! The short form of the simulator, for `cargo test`: a finding here replays with the `simulate` binary and its seed.

use fieldsync_sim::history::{run, Options};

#[test]
fn histories_come_to_rest_equal() {
    for seed in 0..1000 {
        let options = Options::of(seed);
        if let Err(finding) = run(seed, options) {
            panic!("{}: {}", finding.0, Options::replay(seed, options.steps));
        }
    }
}
