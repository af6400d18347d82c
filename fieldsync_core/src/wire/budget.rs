//! What a blob may make of itself in memory.
//!
//! A range coder writes a million equal rows in a few bytes, so the size of a blob says nothing about the size of what
//! is in it. Every row, field and byte of text is paid for from a budget *before* it comes to be. The budget is the
//! smaller of [`Limits::expanded_bytes_max`] and an allowance that grows with the blob: a small blob can never fill
//! memory. A writer whose changeset is more regular than that appends zeros until the allowance suffices.

use super::error::WireError;
use crate::limits::Limits;

/// What any blob may expand to.
pub(super) const FREE_BYTES: usize = 24 << 20;
/// What each byte of a blob adds to that.
pub(super) const BYTES_PER_BYTE: usize = 1024;

/// What a row costs beside its fields and keys.
pub(super) const ROW_BYTES: usize = 128;
/// What a field or a part of a key costs beside its text.
pub(super) const VALUE_BYTES: usize = 64;

/// What is left.
#[derive(Debug)]
pub(super) struct Budget {
    left: usize,
    most: usize,
}

impl Budget {
    /// For a body of so many bytes.
    pub(super) fn new(body_bytes: usize, limits: &Limits) -> Budget {
        let allowance = body_bytes.saturating_mul(BYTES_PER_BYTE).saturating_add(FREE_BYTES);
        let most = allowance.min(limits.expanded_bytes_max);
        Budget { left: most, most }
    }

    /// For a writer, which only counts.
    pub(super) fn unlimited() -> Budget {
        Budget { left: usize::MAX, most: usize::MAX }
    }

    /// Pays.
    #[inline]
    pub(super) fn take(&mut self, bytes: usize) -> Result<(), WireError> {
        match self.left.checked_sub(bytes) {
            Some(left) => {
                self.left = left;
                Ok(())
            }
            None => Err(WireError::Limit { what: "expanded bytes", most: self.most }),
        }
    }

    /// Pays for so many things of a size.
    pub(super) fn take_many(&mut self, count: usize, bytes: usize) -> Result<(), WireError> {
        self.take(count.saturating_mul(bytes))
    }

    /// What is left.
    pub(super) fn left(&self) -> usize {
        self.left
    }

    /// What has been paid.
    pub(super) fn spent(&self) -> usize {
        self.most - self.left
    }
}

/// The zeros that a writer adds to a body, so that a reader with the default limits lets it expand. An eighth more than the
/// writer has counted: readers of other makes may count a little differently.
pub(super) fn padding(body_bytes: usize, expanded_bytes: usize) -> usize {
    let expanded_bytes = expanded_bytes.saturating_add(expanded_bytes / 8);
    expanded_bytes.saturating_sub(FREE_BYTES).div_ceil(BYTES_PER_BYTE).saturating_sub(body_bytes)
}
