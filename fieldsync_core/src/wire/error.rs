//! Why a blob was refused.

/// Each variant says whose fault it is and what follows. Nothing was changed in any of these cases.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WireError {
    /// The bytes are no blob of ours: another file, or cut before the header's end. The carrier's fault.
    #[error("this is not a fieldsync blob")]
    NotABlob,
    /// A newer sender. Upgrade this end.
    #[error("this blob has format {0}, and this end reads format {reads}", reads = super::seal::FORMAT)]
    UnknownFormat(u8),
    /// A reply was given where a delta belongs, or the other way round. The caller's fault.
    #[error("this is a {found}, and a {wanted} is wanted")]
    WrongKind {
        /// What it is.
        found: &'static str,
        /// What was wanted.
        wanted: &'static str,
    },
    /// Bits changed or bytes were lost on the way. Send again.
    #[error("the blob is damaged: {0}")]
    Damaged(&'static str),
    /// The MAC does not fit the client's key: a forged blob, or another client's. Never parsed.
    #[error("the blob's signature does not fit the client's key")]
    BadMac,
    /// The client has a key and the blob has no MAC. Never parsed.
    #[error("the blob is not signed, and this client has a key")]
    Unsigned,
    /// A table's names were left out and this end does not know them (restored from a backup, say). Ask for them to be sent.
    #[error("the blob names a table by the tag {0:04x}, which this end does not know")]
    UnknownShape(u16),
    /// Larger than what this end accepts. Send smaller parts.
    #[error("the blob has too many {what}: at most {most}")]
    Limit {
        /// Of what.
        what: &'static str,
        /// How many.
        most: usize,
    },
}
