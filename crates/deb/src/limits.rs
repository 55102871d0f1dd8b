//! How much a package may ask for.

/// Bounds on what is read from one package; going over one is an error that names it.
///
/// The defaults admit every package of the Debian archive with room to spare.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// Entries of the data archive, with the directories that are only implied by a path.
    pub max_entries: u64,
    /// Components of a path.
    pub max_depth: usize,
    /// Bytes of a path or link target.
    pub max_path: usize,
    /// Bytes of one component of a path.
    pub max_component: usize,
    /// Bytes of all path components together that are kept to find duplicates.
    pub max_names_size: u64,
    /// Bytes of one file.
    pub max_file_size: u64,
    /// Bytes of the unpacked data archive.
    pub max_total_size: u64,
    /// Unpacked bytes per compressed byte, beyond the first [`Limits::free_size`] bytes.
    pub max_ratio: u64,
    /// Unpacked bytes to which [`Limits::max_ratio`] does not apply.
    pub free_size: u64,
    /// Bytes of the whole control archive, both packed and unpacked.
    pub max_control_size: u64,
    /// Bytes of the control file.
    pub max_control_file_size: u64,
    /// Members of the control archive.
    pub max_control_members: usize,
    /// Members of the `ar` archive.
    pub max_ar_members: usize,
    /// Bytes of memory that an xz or lzma decoder may use. A zstd decoder has the limit of the
    /// zstd library: a window of 128 MiB.
    pub max_decoder_memory: u64,
}

impl Default for Limits {
    fn default() -> Self {
        const MIB: u64 = 1 << 20;
        Self {
            max_entries: 2_000_000,
            max_depth: 255,
            max_path: 4096,
            max_component: 255,
            max_names_size: 128 * MIB,
            max_file_size: 32 * 1024 * MIB,
            max_total_size: 64 * 1024 * MIB,
            max_ratio: 100,
            free_size: 1024 * MIB,
            max_control_size: 16 * MIB,
            max_control_file_size: MIB,
            max_control_members: 1000,
            max_ar_members: 100,
            max_decoder_memory: 256 * MIB,
        }
    }
}
