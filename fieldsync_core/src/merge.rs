//! x
/// What became of a change.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// Written as sent.
    Applied,
    /// Combined with concurrent changes without loss.
    Merged,
    /// Nothing left to do.
    Superseded,
    /// Collided.
    Conflict,
    /// Not acceptable.
    Rejected,
}
