//! What a reader of blobs accepts. Everything has a limit, so that no blob can fill memory.

/// Limits for decoding.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of the blob as it travels.
    pub blob_bytes_max: usize,
    /// Bytes that its rows may take in memory, roughly: 128 for a row, 64 for a field, and every text in full. A small blob may
    /// not even take that: see `wire`.
    pub expanded_bytes_max: usize,
    /// Rows (changes) in all tables.
    pub rows_max: usize,
    /// Tables.
    pub tables_max: usize,
    /// Columns of a table.
    pub columns_max: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            blob_bytes_max: 64 << 20,
            expanded_bytes_max: 512 << 20,
            rows_max: 2_000_000,
            tables_max: 2_000,
            columns_max: 2_000,
        }
    }
}
