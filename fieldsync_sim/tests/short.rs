//! The short form of the simulator, for `cargo test`: a finding here replays with the `simulate` binary and its seed.

use fieldsync_sim::history::{run, Options};

#[test]
fn histories_come_to_rest_equal() {
    for seed in 0..60 {
        let options =
            Options { steps: 40 + (seed % 7) as usize * 40, copies: seed % 3 == 1, restored_hub: false, trace: false };
        if let Err(finding) = run(seed, options) {
            panic!("{}: cargo run --release -p fieldsync_sim --bin simulate -- --from {seed} --count 1", finding.0);
        }
    }
}
